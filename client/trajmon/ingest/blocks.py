"""Reading a block from every checkpoint, and its sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.checkpoints.base import CheckpointReader
from trajmon.errors import OtherModelError
from trajmon.ingest.cut import Tensor, block_of
from trajmon.ingest.kernel import block_sums
from trajmon.ingest.tree import Sums
from trajmon.numerics.kernel import CODES
from trajmon.numerics.layout import ITEM_BYTES

__all__ = ["BlockSource", "check_same_model"]

# Behind each row: rows whose distance is a power of two share few places of the cache.
_GAP_BYTES: Final = 4160


class BlockSource:
    """The blocks of one series of checkpoints. May be used by several threads, each with a buffer of its own."""

    def __init__(self, readers: Sequence[CheckpointReader], tensors: Sequence[Tensor], elements: int) -> None:
        """Raises OtherModelError if a checkpoint lacks a tensor or has it in another shape."""
        check_same_model(readers, tensors)
        self.tensors = tuple(tensors)
        self.elements = elements
        self.num_checkpoints = len(readers)
        self._readers = tuple(readers)
        self._codes = [
            np.array([CODES[reader.tensors[tensor.name].dtype] for reader in readers], np.int64)
            for tensor in tensors
        ]
        self._item_bytes = [
            [ITEM_BYTES[reader.tensors[tensor.name].dtype] for reader in readers] for tensor in tensors
        ]

    @property
    def buffer_bytes(self) -> int:
        """Size of a buffer."""
        widest = max((max(sizes) for sizes in self._item_bytes), default=8)
        longest = max((tensor.num_elements for tensor in self.tensors), default=0)
        return self.num_checkpoints * _row_bytes(min(self.elements, longest) * widest)

    def buffer(self) -> NDArray[np.uint8]:
        """Memory for one block of every checkpoint; for one thread at a time."""
        return np.empty((self.num_checkpoints, self.buffer_bytes // self.num_checkpoints), np.uint8)

    def total_bytes(self) -> int:
        """Bytes of all tensors in all checkpoints."""
        return sum(
            tensor.num_elements * sum(sizes)
            for tensor, sizes in zip(self.tensors, self._item_bytes, strict=True)
        )

    def block_bytes(self, tensor: int, index: int) -> int:
        """Bytes that one block takes in all checkpoints."""
        return block_of(self.tensors[tensor], index, self.elements).count * sum(self._item_bytes[tensor])

    def remaining_bytes(self, tensor: int, block: int) -> int:
        """Bytes that all blocks from one on take."""
        later = sum(
            each.num_elements * sum(sizes)
            for each, sizes in zip(self.tensors[tensor:], self._item_bytes[tensor:], strict=True)
        )
        return later - sum(self.block_bytes(tensor, earlier) for earlier in range(block))

    def verify_unchanged(self) -> None:
        """Raises CheckpointFileError if a checkpoint is not what it was when it was opened."""
        for reader in self._readers:
            reader.verify_unchanged()

    def sums(self, tensor: int, index: int, buffer: NDArray[np.uint8]) -> Sums:
        """Read block `index` of a tensor from every checkpoint and sum it. Raises CheckpointFileError."""
        chosen = self.tensors[tensor]
        block = block_of(chosen, index, self.elements)
        for t, reader in enumerate(self._readers):
            taken = block.count * self._item_bytes[tensor][t]
            reader.read(chosen.name, block.start, buffer[t, :taken])
        sums = Sums.zeros(chosen.num_layers, self.num_checkpoints)
        views = (buffer.view(np.float64), buffer.view(np.float32), buffer.view(np.uint16))
        for piece in block.pieces:
            block_sums(
                *views,
                self._codes[tensor],
                piece.first,
                piece.stretch,
                piece.period,
                piece.count,
                sums.gram[piece.part],
                sums.products[piece.part],
            )
        return sums


def check_same_model(readers: Sequence[CheckpointReader], tensors: Sequence[Tensor]) -> None:
    """Raises OtherModelError that names the checkpoint and the tensor."""
    for number, reader in enumerate(readers):
        for tensor in tensors:
            info = reader.tensors.get(tensor.name)
            if info is None:
                raise OtherModelError(f"checkpoint {number} has no tensor {tensor.name!r}")
            if info.shape != tensor.shape:
                raise OtherModelError(
                    f"checkpoint {number} has {tensor.name!r} with shape {info.shape}, not {tensor.shape}"
                )


def _row_bytes(data_bytes: int) -> int:
    return -(-data_bytes // 64) * 64 + _GAP_BYTES
