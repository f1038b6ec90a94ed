"""Parts of tensors that lie somewhere in files: with gaps, transposed, or cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trajmon.checkpoints.files import Files

__all__ = ["Piece", "Stored", "covers", "flat_boxes", "read_box", "read_elements", "row_major"]

# Read in one go, gaps included, where that wastes less than a call for each run.
_SMALL_SPAN_BYTES = 1 << 16
# Most that is set aside for a tensor whose elements come in another order than they lie in.
_SCRATCH_BYTES: Final = 32 << 20
_WORDS: Final = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}

Extents: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an array lies."""

    path: Path
    start: int
    """Byte of the first element."""
    strides: Extents
    """In elements, not negative."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, stored somewhere."""

    offsets: Extents
    """Of its first element in the tensor."""
    sizes: Extents
    place: Stored | Callable[[], Stored]
    """A function where finding the place takes reading; it remembers."""

    @property
    def stored(self) -> Stored:
        """Where the box lies. Raises CheckpointFileError."""
        return self.place if isinstance(self.place, Stored) else self.place()


def row_major(shape: Sequence[int]) -> Extents:
    """Strides, in elements, of a contiguous array.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def flat_boxes(shape: Extents, start: int, count: int) -> list[tuple[Extents, Extents]]:
    """The boxes (offsets, sizes) that elements `start` to `start + count` fill, in row-major order.

    At most two for each axis, whatever the count.

    >>> flat_boxes((4, 5), 3, 9)
    [((0, 3), (1, 2)), ((1, 0), (1, 5)), ((2, 0), (1, 2))]
    """
    return list(_boxes((), shape, start, start + count)) if count else []


def _boxes(prefix: Extents, shape: Extents, start: int, stop: int) -> Iterator[tuple[Extents, Extents]]:
    ones = (1,) * len(prefix)
    if not shape:
        yield prefix, ones
        return
    inner = math.prod(shape[1:])
    (first, before), (last, after) = divmod(start, inner), divmod(stop, inner)
    if first == last:
        yield from _boxes((*prefix, first), shape[1:], before, after)
        return
    if before:
        yield from _boxes((*prefix, first), shape[1:], before, inner)
        first += 1
    if last > first:
        yield (*prefix, first, *(0,) * (len(shape) - 1)), (*ones, last - first, *shape[1:])
    if after:
        yield from _boxes((*prefix, last), shape[1:], 0, after)


def covers(shape: Extents, pieces: Sequence[Piece]) -> bool:
    """Whether the pieces fill the tensor, each element once."""
    if not shape:
        return len(pieces) == 1
    if any(len(piece.offsets) != len(shape) or len(piece.sizes) != len(shape) for piece in pieces):
        return False
    filled = [piece for piece in pieces if math.prod(piece.sizes)]
    if sum(math.prod(piece.sizes) for piece in filled) != math.prod(shape):
        return False
    if not filled:
        return True
    low = np.array([piece.offsets for piece in filled])
    high = low + np.array([piece.sizes for piece in filled])
    if (low < 0).any() or (high > np.array(shape)).any():
        return False
    for index in range(len(filled)):
        meets = ((low[index] < high[index + 1 :]) & (low[index + 1 :] < high[index])).all(axis=1)
        if meets.any():
            return False
    return True


def in_one_piece(shape: Extents, pieces: Sequence[Piece]) -> tuple[Path, int] | None:
    """File and first byte of a tensor whose elements follow each other in one file, row-major; None for others."""
    if len(pieces) != 1 or any(pieces[0].offsets) or tuple(pieces[0].sizes) != tuple(shape):
        return None
    stored, step = pieces[0].place, 1
    if not isinstance(stored, Stored):
        # It takes reading to find it: that is done when the tensor is read.
        return None
    for extent, stride in zip(reversed(shape), reversed(stored.strides), strict=True):
        if extent != 1 and stride != step:
            return None
        step *= extent
    return stored.path, stored.start


def read_elements(
    files: Files, shape: Extents, pieces: Sequence[Piece], item_bytes: int, start: int, out: NDArray[np.uint8]
) -> None:
    """Fill `out` with the elements from `start` on of a tensor that the pieces cover."""
    target = out.view(_WORDS[item_bytes])
    done = 0
    for offsets, sizes in flat_boxes(shape, start, len(target)):
        count = math.prod(sizes)
        box = target[done : done + count].reshape(sizes)
        done += count
        for piece in pieces:
            low = [max(a, b) for a, b in zip(offsets, piece.offsets, strict=True)]
            high = [
                min(a + n, b + m)
                for a, n, b, m in zip(offsets, sizes, piece.offsets, piece.sizes, strict=True)
            ]
            if all(a < b for a, b in zip(low, high, strict=True)):
                # The ellipsis keeps it an array where the tensor has no axes.
                place: Any = (*(slice(a - o, b - o) for a, b, o in zip(low, high, offsets, strict=True)), ...)
                inside = tuple(a - o for a, o in zip(low, piece.offsets, strict=True))
                read_box(files, piece.stored, inside, box[place])


def read_box(files: Files, stored: Stored, offsets: Extents, out: NDArray[Any]) -> None:
    """Fill `out` with the box of its shape that starts at `offsets` in a stored array; elements are copied as words."""
    start = stored.start + out.itemsize * sum(a * b for a, b in zip(offsets, stored.strides, strict=True))
    # Outermost in the file first; an axis of one element is none.
    axes = [axis for axis in range(out.ndim) if out.shape[axis] > 1]
    axes.sort(key=lambda axis: -stored.strides[axis])
    _read(files, stored.path, start, [stored.strides[axis] for axis in axes], _arranged(out, axes))


def _arranged(out: NDArray[Any], axes: list[int]) -> NDArray[Any]:
    """`out` with these axes in this order and no others."""
    rest = [axis for axis in range(out.ndim) if axis not in axes]
    # The ellipsis keeps it an array where no axis is left.
    first: Any = (*(0,) * len(rest), ...)
    arranged: NDArray[Any] = out.transpose([*rest, *axes])[first]
    return arranged


def _read(files: Files, path: Path, start: int, strides: list[int], out: NDArray[Any]) -> None:
    if strides and strides[-1] == 0:
        # An expanded tensor: one element serves for the whole axis.
        _read(files, path, start, strides[:-1], out[..., 0])
        out[..., 1:] = out[..., :1]
        return
    if out.ndim and out.shape[0] == 1:
        _read(files, path, start, strides[1:], out[0, ...])
        return
    item = out.itemsize
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(out.shape, strides, strict=True))
    if span == out.size and out.flags.c_contiguous and tuple(strides) == row_major(out.shape):
        files.read_into(path, start, out.reshape(-1).data.cast("B"))
        return
    wasteful = span > 2 * out.size and span * item > _SMALL_SPAN_BYTES
    if out.ndim and (wasteful or span * item > _SCRATCH_BYTES):
        if wasteful:
            for index in range(out.shape[0]):
                _read(files, path, start + index * strides[0] * item, strides[1:], out[index, ...])
            return
        half = out.shape[0] // 2
        _read(files, path, start, strides, out[:half])
        _read(files, path, start + half * strides[0] * item, strides, out[half:])
        return
    scratch = np.empty(span, dtype=out.dtype)
    files.read_into(path, start, scratch.data.cast("B"))
    out[...] = np.ndarray(out.shape, out.dtype, scratch, strides=[stride * item for stride in strides])
