"""A checkpoint as a table of its parameters, each with the places that it is stored in: what every format comes to."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from trajmon.checkpoints.base import TensorInfo
from trajmon.checkpoints.files import Files
from trajmon.checkpoints.skipping import why_no_parameter
from trajmon.checkpoints.strided import Piece, in_one_piece, read_elements
from trajmon.errors import CheckpointFileError
from trajmon.numerics.layout import ITEM_BYTES, Dtype

__all__ = ["RawTensor", "TableReader"]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor in a checkpoint, whatever it holds."""

    dtype: str
    """As torch calls it."""
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """That cover it."""
    identity: Hashable = None
    """Equal for two names of the same bytes; None: not known."""
    unreadable: str = ""
    """Why its elements are none that can be recorded; empty if they are."""


class TableReader:
    """Implements :class:`trajmon.checkpoints.base.CheckpointReader` for every format."""

    def __init__(
        self,
        path: Path,
        files: Files,
        tensors: Mapping[str, RawTensor],
        skipped: Mapping[str, str],
        step: int | None,
    ) -> None:
        """`skipped`: what the format left out already. Raises CheckpointFileError if no parameter is left."""
        self.path = path
        self.step = step
        self._files = files
        self._stored: dict[str, RawTensor] = {}
        self._in_one_piece: dict[str, tuple[Path, int] | None] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.skipped = dict(skipped)
        first_names: dict[Hashable, str] = {}
        for name, tensor in tensors.items():
            reason = tensor.unreadable or why_no_parameter(name, tensor.dtype, tensor.shape)
            dtype = next((known for known in get_args(Dtype) if known == tensor.dtype), None)
            if reason is None and tensor.identity is not None:
                first = first_names.setdefault(tensor.identity, name)
                reason = None if first == name else f"the same bytes as {first}"
            if reason is not None or dtype is None:
                self.skipped[name] = reason or f"{tensor.dtype} elements"
                continue
            self.tensors[name] = TensorInfo(tensor.shape, dtype)
            self._stored[name] = tensor
            self._in_one_piece[name] = in_one_piece(tensor.shape, tensor.pieces)
        if not self.tensors:
            raise CheckpointFileError(
                f"{path}: it holds no parameters; {_listed(self.skipped) or 'it is empty'}"
            )

    def read(self, name: str, start: int, out: NDArray[np.uint8]) -> None:
        """See :class:`trajmon.checkpoints.base.CheckpointReader`."""
        tensor, item = self._stored[name], ITEM_BYTES[self._stored[name].dtype]
        size = math.prod(tensor.shape)
        count, rest = divmod(out.nbytes, item)
        if out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous or rest:
            raise ValueError(f"out is {out.dtype} {out.shape}; whole elements of {item} bytes are needed")
        if start < 0 or start + count > size:
            raise ValueError(f"{name} has {size} elements; {start} to {start + count} were asked for")
        place = self._in_one_piece[name]
        if place is not None:
            self._files.read_into(place[0], place[1] + start * item, out.data)
            return
        read_elements(self._files, tensor.shape, tensor.pieces, item, start, out)

    def verify_unchanged(self) -> None:
        """See :class:`trajmon.checkpoints.base.CheckpointReader`."""
        self._files.verify_unchanged()

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()


def _listed(skipped: Mapping[str, str]) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(skipped.items())[:4]]
    more = len(skipped) - len(shown)
    return "left out are " + "; ".join(shown) + (f"; and {more} more" if more else "") if shown else ""
