"""The compiled loops under :mod:`trajmon.numerics.gram`.

Memory bandwidth is the limit: each byte of each snapshot is read once. A *block* of up to :data:`BLOCK` elements of
each new snapshot is converted to float64 once, into a buffer that stays in cache; then the same elements of every
stored snapshot stream past them. A *tile* is what is worked on at a time, the products of up to
:data:`TILE_ROWS` new snapshots with up to four stored ones: it keeps its sums in registers, and each load serves
several of them.

A layer longer than a block lies in several; short layers share one. A block's part of one layer is a *segment*.
A *task* is a run of blocks, the unit that threads share; its sums for one layer go to a *slot*. The cut depends
on the layout alone, and slots are added in order, so a row has the same bits for any number of threads.

Rounding: a vector lane sums at most RUN / LANES products, at most BLOCK / RUN of those sums make a segment, at
most TASK / BLOCK segments of one layer a slot, and the compensated sum over slots adds about one rounding. In the
update products the compiler chooses the vectors: with two lanes, the least that any supported processor has,
the error is at most 6.2e-14 of Σ|x_i y_i|; that of the entries of the row, with eight, is less.
Products of float32, bfloat16 and float16 are exact in float64; those of float64 are fused or add one rounding.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import SUMS, compiled
from trajmon.numerics.sketch_kernel import Folding, close_target, fold_block
from trajmon.numerics.tile import BF16, BLOCK, F16, F32, F64, RUN, load, tile

__all__ = ["BLOCK", "CODES", "TASK", "add_slots", "run_tasks", "sketch_tasks"]

TASK: Final = 1 << 17
"""Elements of a task."""
TILE_ROWS: Final = 4
"""New snapshots that pass over a stored one together."""
CODES: Final = {"float64": 0, "float32": 1, "bfloat16": 2, "float16": 3}
"""How a segment's dtype is told to the compiled code."""


@compiled(fastmath=SUMS)
def _widen(x: NDArray[np.float64], address: np.uint64, like: Any) -> None:
    for i in range(len(x)):
        x[i] = load(address, i, like)


_tile_many: Any = tile(TILE_ROWS, 4)
_tile_row: Any = tile(1, 4)
_tile_column: Any = tile(TILE_ROWS, 1)
_tile_three: Any = tile(1, 3)
_tile_two: Any = tile(1, 2)
_tile_one: Any = tile(1, 1)
# With one new snapshot alone, its product with itself is made in the last tile.
_tile_row_own: Any = tile(1, 4, own=True)
_tile_three_own: Any = tile(1, 3, own=True)
_tile_two_own: Any = tile(1, 2, own=True)
_tile_one_own: Any = tile(1, 1, own=True)


@compiled(fastmath=SUMS)
def _difference_products(
    x: np.uint64,
    previous: np.uint64,
    before: np.uint64,
    origin: np.uint64,
    first: np.uint64,
    count: int,
    like: Any,
) -> tuple[float, float, float, float]:
    """‖x−p‖², ⟨x−p, p−b⟩, ‖x−o‖², ⟨x−o, f−o⟩ of one segment."""
    t0 = t1 = t2 = t3 = 0.0
    for start in range(0, count, RUN):
        s0 = s1 = s2 = s3 = 0.0
        for i in range(start, min(start + RUN, count)):
            value, p, o = load(x, i, F64), load(previous, i, like), load(origin, i, like)
            update, displacement = value - p, value - o
            s0 += update * update
            s1 += update * (p - load(before, i, like))
            s2 += displacement * displacement
            s3 += displacement * (load(first, i, like) - o)
        t0 += s0
        t1 += s1
        t2 += s2
        t3 += s3
    return t0, t1, t2, t3


@compiled(fastmath=SUMS)
def _update_products(
    x: np.uint64, previous: np.uint64, before: np.uint64, count: int, like: Any
) -> tuple[float, float]:
    """‖x−p‖² and ⟨x−p, p−b⟩ of one segment."""
    t0 = t1 = 0.0
    for start in range(0, count, RUN):
        s0 = s1 = 0.0
        for i in range(start, min(start + RUN, count)):
            p = load(previous, i, like)
            update = load(x, i, F64) - p
            s0 += update * update
            s1 += update * (p - load(before, i, like))
        t0 += s0
        t1 += s1
    return t0, t1


@compiled()
def _segment_rows(
    x: np.uint64,
    rows: int,
    stored: np.uint64,
    columns: int,
    offset: np.uint64,
    count: int,
    like: Any,
    out: np.uint64,
    stride: np.uint64,
) -> None:
    """Add the segment's products of all new snapshots with one to four stored ones."""
    row = 0
    while row < rows:
        many = row + TILE_ROWS <= rows
        start, to = x + np.uint64(8 * BLOCK * row), out + stride * np.uint64(row)
        if columns == 4:
            if many:
                _tile_many(start, stored, offset, count, like, to, stride)
            else:
                _tile_row(start, stored, offset, count, like, to, stride)
        elif many:
            for c in range(columns):
                step = np.uint64(8 * c)
                _tile_column(start, stored + step, offset, count, like, to + step, stride)
        elif columns == 3:
            _tile_three(start, stored, offset, count, like, to, stride)
        elif columns == 2:
            _tile_two(start, stored, offset, count, like, to, stride)
        else:
            _tile_one(start, stored, offset, count, like, to, stride)
        row += TILE_ROWS if many else 1


@compiled()
def _segment_row_own(
    x: np.uint64,
    stored: np.uint64,
    columns: int,
    offset: np.uint64,
    count: int,
    like: Any,
    out: np.uint64,
    stride: np.uint64,
) -> None:
    """Add the segment's products of one new snapshot with one to four stored ones and itself."""
    if columns == 4:
        _tile_row_own(x, stored, offset, count, like, out, stride)
    elif columns == 3:
        _tile_three_own(x, stored, offset, count, like, out, stride)
    elif columns == 2:
        _tile_two_own(x, stored, offset, count, like, out, stride)
    else:
        _tile_one_own(x, stored, offset, count, like, out, stride)


@compiled()
def _add_segment(
    x: np.uint64,
    rows: int,
    stored: np.uint64,
    columns: int,
    own: bool,
    offset: np.uint64,
    count: int,
    like: Any,
    out: np.uint64,
    stride: np.uint64,
) -> None:
    if own:
        _segment_row_own(x, stored, columns, offset, count, like, out, stride)
    else:
        _segment_rows(x, rows, stored, columns, offset, count, like, out, stride)


@compiled(fastmath=SUMS)
def _segment_products(
    x: np.uint64, path: NDArray[np.uint64], offset: np.uint64, count: int, like: Any, out: Any
) -> None:
    if path[2] == 0:
        a, b = _update_products(x, path[0] + offset, path[1] + offset, count, like)
        out[0] += a
        out[1] += b
        return
    a, b, c, d = _difference_products(
        x, path[0] + offset, path[1] + offset, path[2] + offset, path[3] + offset, count, like
    )
    out[0] += a
    out[1] += b
    out[2] += c
    out[3] += d


@compiled()
def _widen_block(
    segments: NDArray[np.int64],
    first: int,
    last: int,
    new: NDArray[np.uint64],
    buffer: NDArray[np.float64],
) -> None:
    for row in range(len(new)):
        for k in range(first, last):
            count, code, place = segments[k, 1], segments[k, 2], segments[k, 4]
            x = buffer[row, place : place + count]
            at = new[row] + np.uint64(segments[k, 0])
            if code == 0:
                _widen(x, at, F64)
            elif code == 1:
                _widen(x, at, F32)
            elif code == 2:
                _widen(x, at, BF16)
            else:
                _widen(x, at, F16)


@compiled()
def run_tasks(
    tasks: NDArray[np.int64],
    blocks: NDArray[np.int64],
    segments: NDArray[np.int64],
    buffer: NDArray[np.float64],
    new: NDArray[np.uint64],
    stored: NDArray[np.uint64],
    paths: NDArray[np.uint64],
    gram: NDArray[np.float64],
    products: NDArray[np.float64],
    folding: Folding,
) -> None:
    """Add the sums of consecutive tasks to their slots, and fold the new snapshots' elements into sketches.

    `tasks`: [k+1], first block of each task; `blocks`: first segment of each block; `segments`: [S, 7], byte
    offset, elements, dtype code, slot, place in the block, layer, first element in the layer. `buffer`: [m, BLOCK],
    scratch. `new` [m], `stored` [n], `paths` [m, 4: previous, the one before, origin, first; all 0: none;
    origin 0: no displacement]: addresses of snapshots. `gram`: [m, slots, n + m], the last columns for the new
    snapshots; those after the row's own are not filled alike. `products`: [m, slots, 4]. Both are zero at the start.

    One function with and without sketches: a compiler that sees other code may sum in another order.
    """
    rows, columns = len(new), len(stored)
    base, width = np.uint64(buffer.ctypes.data), np.uint64(8 * (columns + rows))
    widened = np.array([base + np.uint64(8 * BLOCK * row) for row in range(rows)])
    outs, stride = np.uint64(gram.ctypes.data), width * np.uint64(gram.shape[1])
    for block in range(tasks[0], tasks[-1]):
        first, last = blocks[block], blocks[block + 1]
        if folding.bins:
            fold_block(folding, segments, first, last, new, buffer)
        else:
            _widen_block(segments, first, last, new, buffer)
        # Snapshots outside, segments inside: each snapshot is read in one piece per block, however small the layers.
        for column in range(0, columns, 4):
            several = min(4, columns - column)
            own = rows == 1 and column + several == columns
            older = np.uint64(stored.ctypes.data) + np.uint64(8 * column)
            for k in range(first, last):
                offset, count, code = np.uint64(segments[k, 0]), segments[k, 1], segments[k, 2]
                start = base + np.uint64(8 * segments[k, 4])
                out = outs + width * np.uint64(segments[k, 3]) + np.uint64(8 * column)
                if code == 0:
                    _add_segment(start, rows, older, several, own, offset, count, F64, out, stride)
                elif code == 1:
                    _add_segment(start, rows, older, several, own, offset, count, F32, out, stride)
                elif code == 2:
                    _add_segment(start, rows, older, several, own, offset, count, BF16, out, stride)
                else:
                    _add_segment(start, rows, older, several, own, offset, count, F16, out, stride)
        # Whole tiles, past the diagonal: cheaper than what they spare.
        for row in range(0, rows if rows > 1 or columns == 0 else 0, TILE_ROWS):
            here = min(TILE_ROWS, rows - row)
            for column in range(0, row + here, 4):
                several = min(4, row + here - column)
                older = np.uint64(widened.ctypes.data) + np.uint64(8 * column)
                for k in range(first, last):
                    count, offset = segments[k, 1], np.uint64(8 * segments[k, 4])
                    out = outs + stride * np.uint64(row) + width * np.uint64(segments[k, 3])
                    out += np.uint64(8 * (columns + column))
                    _segment_rows(
                        widened[row] + offset, here, older, several, offset, count, F64, out, stride
                    )
        for row in range(rows):
            if paths[row, 0] == 0:
                continue
            for k in range(first, last):
                offset, count, code, slot = (
                    np.uint64(segments[k, 0]),
                    segments[k, 1],
                    segments[k, 2],
                    segments[k, 3],
                )
                start = widened[row] + np.uint64(8 * segments[k, 4])
                if code == 0:
                    _segment_products(start, paths[row], offset, count, F64, products[row, slot])
                elif code == 1:
                    _segment_products(start, paths[row], offset, count, F32, products[row, slot])
                elif code == 2:
                    _segment_products(start, paths[row], offset, count, BF16, products[row, slot])
                else:
                    _segment_products(start, paths[row], offset, count, F16, products[row, slot])

    if folding.bins:
        close_target(folding)


@compiled()
def sketch_tasks(
    tasks: NDArray[np.int64],
    blocks: NDArray[np.int64],
    segments: NDArray[np.int64],
    buffer: NDArray[np.float64],
    new: NDArray[np.uint64],
    folding: Folding,
) -> None:
    """Of :func:`run_tasks` the sketches alone."""
    for block in range(tasks[0], tasks[-1]):
        first, last = blocks[block], blocks[block + 1]
        fold_block(folding, segments, first, last, new, buffer)
    close_target(folding)


@compiled()
def add_slots(
    slots: NDArray[np.float64],
    layers: NDArray[np.int64],
    totals: NDArray[np.float64],
    carry: NDArray[np.float64],
) -> None:
    """Add each slot's row to its layer's, in order, with Neumaier's compensation.

    `slots`: [slots, m]; `layers`: [slots]; `totals` and `carry`: [L, m], zero at the start; the sums are
    totals + carry afterwards. Compiled without reordering, which would undo the compensation.
    """
    for slot in range(len(layers)):
        layer = layers[slot]
        for s in range(slots.shape[1]):
            value, total = slots[slot, s], totals[layer, s]
            added = total + value
            if abs(total) >= abs(value):
                carry[layer, s] += (total - added) + value
            else:
                carry[layer, s] += (value - added) + total
            totals[layer, s] = added
