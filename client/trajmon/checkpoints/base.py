"""What a reader of one checkpoint format gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.layout import Dtype

__all__ = ["CheckpointReader", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One floating-point tensor of a checkpoint."""

    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def num_elements(self) -> int:
        """Product of the extents."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


class CheckpointReader(Protocol):
    """One checkpoint, open. Raises CheckpointFileError, which names the file, wherever the file is not what it says."""

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

        `out` is [n * itemsize] uint8, contiguous. Each byte of the file is read at most once by calls that do
        not overlap, and memory does not grow with the tensor.
        """

    def close(self) -> None:
        """Let go of the file."""
