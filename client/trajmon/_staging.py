"""Where a copy of the parameters is put together that does not go into the slot."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["make_staging"]


def make_staging(nbytes: int, folder: Path, memory_bytes: int | None) -> Tensor:
    """A buffer of zeros, [nbytes] uint8: memory, or a mapped file in `folder` if it may not take so much memory.

    Raises OSError if there is no room for the file.
    """
    if memory_bytes is None or nbytes <= memory_bytes:
        staging = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        # Room between layers is never copied into, and must not carry old memory to disk.
        return staging.zero_()
    path = folder / ".training.staging.tmp"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # All of it now: a full disk must be an error here, and not a signal in the middle of a copy.
        os.posix_fallocate(descriptor, 0, nbytes)
        mapped = mmap.mmap(descriptor, nbytes)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    return torch.frombuffer(mapped, dtype=torch.uint8)
