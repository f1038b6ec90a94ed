"""What a reader of one checkpoint format gives, and how a checkpoint that was found is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.layout import Dtype

__all__ = ["CheckpointReader", "FoundCheckpoint", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One floating-point tensor of a checkpoint."""

    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def num_elements(self) -> int:
        """Product of the extents."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A checkpoint of a series, in its place."""

    path: Path
    """File or folder, for :func:`trajmon.checkpoints.open_checkpoint`."""
    step: int | None
    """From its name, else as the file itself states it; None if neither gives one."""
    label: str
    """How it is called to the user: unique in its series."""


class CheckpointReader(Protocol):
    """One checkpoint, open. Raises CheckpointFileError, which names the file, wherever the file is not what it says."""

    @property
    def path(self) -> Path:
        """What was opened, file or folder."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The parameters by name, in the file's order; what is skipped and why is in `skipped`."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Entries that are no parameters, by name, and why each is left out."""

    @property
    def step(self) -> int | None:
        """The training step that the file itself states; None if it states none."""

    def read(self, name: str, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with the little-endian bytes of the elements from `start` on, row-major.

        `out` is [n * itemsize] uint8, contiguous. Calls that do not overlap read no byte of a contiguous tensor
        twice, and memory does not grow with the tensor. May be called from several threads.
        """

    def verify_unchanged(self) -> None:
        """Raise CheckpointFileError if a file that was read has changed or is gone since it was opened."""

    def close(self) -> None:
        """Let go of the files."""
