"""Which tensors give which layers, and the blocks in which they are read.

A block is a stretch of consecutive elements of one tensor, the same in every checkpoint, so that each byte is read
once even where a view gives several layers: the block's pieces then add to several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from trajmon.numerics.views import Part

__all__ = [
    "Block",
    "Piece",
    "Tensor",
    "block_elements",
    "block_of",
    "num_blocks",
]

# As float64, over all checkpoints. Much smaller blocks cost turns at the interpreter, much larger ones the cache.
_BLOCK_BYTES: Final = 48 << 20
_LEAST_ELEMENTS: Final = 1 << 14
_MOST_ELEMENTS: Final = 1 << 20
_SMALLEST_ELEMENTS: Final = 1 << 9
_FLOAT64_BYTES: Final = 8
_MEMORY_SHARE: Final = 16


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoints, and the layers that it gives."""

    name: str
    shape: tuple[int, ...]
    first_layer: int
    """Position of its first layer among all; the others follow."""
    parts: tuple[Part, ...] = ()
    """Empty: the tensor is one layer."""

    @property
    def num_elements(self) -> int:
        """Product of the extents."""
        return math.prod(self.shape)

    @property
    def num_layers(self) -> int:
        """How many layers it gives."""
        return max(1, len(self.parts))


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements of one layer in a block: stretches at equal distances."""

    part: int
    """Which of the tensor's layers."""
    first: int
    """Where the first stretch starts, counted from the block's first element."""
    stretch: int
    """Elements of a stretch."""
    period: int
    """From the start of one stretch to the next."""
    count: int
    """Elements of all stretches."""


@dataclass(frozen=True, slots=True)
class Block:
    """Elements [start, start + count) of a tensor."""

    start: int
    count: int
    pieces: tuple[Piece, ...]


def block_elements(num_checkpoints: int, memory_bytes: int) -> int:
    """Elements of a block: a power of two that suits threads and disk, and at most 1/16 of the memory as float64.

    The same number for the same arguments on every machine, for the order of additions follows from it.

    >>> block_elements(40, 1 << 30), block_elements(1000, 1 << 30)
    (131072, 8192)
    """
    row_bytes = _FLOAT64_BYTES * max(num_checkpoints, 1)
    wanted = min(max(_BLOCK_BYTES // row_bytes, _LEAST_ELEMENTS), _MOST_ELEMENTS)
    allowed = memory_bytes // _MEMORY_SHARE // row_bytes
    return 1 << max(min(wanted, allowed), _SMALLEST_ELEMENTS).bit_length() - 1


def num_blocks(tensor: Tensor, elements: int) -> int:
    """Blocks of a tensor, none for a tensor without elements."""
    total = tensor.num_elements
    if not total:
        return 0
    if not tensor.parts:
        return -(-total // elements)
    stretch, period = _pattern(tensor)
    if period <= elements:
        return -(-(total // period) // (elements // period))
    return total // stretch * -(-stretch // elements)


def block_of(tensor: Tensor, index: int, elements: int) -> Block:
    """Block `index` of a tensor; at most `elements` long.

    >>> from trajmon.numerics.views import View, split
    >>> qkv = Tensor("w", (2, 6), 0, split(View("w", None, 1, ("q", "k")), "w", (2, 6)))
    >>> [piece.first for piece in block_of(qkv, 0, 8).pieces], block_of(qkv, 1, 8).start
    ([0, 3], 6)
    """
    total = tensor.num_elements
    if not tensor.parts:
        start = index * elements
        count = min(elements, total - start)
        return Block(start, count, (Piece(0, 0, count, count, count),))
    stretch, period = _pattern(tensor)
    if period <= elements:
        # Whole periods: every part has its stretches in the block.
        each = elements // period
        periods = min(each, total // period - index * each)
        pieces = tuple(
            Piece(part, part * stretch, stretch, period, stretch * periods)
            for part in range(tensor.num_layers)
        )
        return Block(index * each * period, periods * period, pieces)
    # Stretches are long: a block lies in one of them.
    number, inside = divmod(index, -(-stretch // elements))
    count = min(elements, stretch - inside * elements)
    piece = Piece(number % tensor.num_layers, 0, count, count, count)
    return Block(number * stretch + inside * elements, count, (piece,))


def _pattern(tensor: Tensor) -> tuple[int, int]:
    """Consecutive elements of one part, and of all parts in turn."""
    part = tensor.parts[0]
    stretch = math.prod(part.shape[part.axis :])
    return stretch, stretch * len(tensor.parts)
