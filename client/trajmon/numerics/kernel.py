"""The compiled loops under :mod:`trajmon.numerics.gram`.

Memory bandwidth is the limit: each byte of each snapshot is read once. A *block* of up to :data:`BLOCK` elements of
the new snapshot is converted to float64 once, into a buffer that stays in cache; then the same elements of every
stored snapshot stream past it, four at a time, which spares three of four loads from that buffer.

A layer longer than a block lies in several; short layers share one. A block's part of one layer is a *segment*.
A *task* is a run of blocks, the unit that threads share; its sums for one layer go to a *slot*. The cut depends
on the layout alone, and slots are added in order, so a row has the same bits for any number of threads.

Rounding: a vector lane sums at most RUN / lanes products, at most BLOCK / RUN of those sums make a segment, at
most TASK / BLOCK segments of one layer a slot, and the compensated sum over slots adds about one rounding. With
two lanes, the least that any supported processor has, the error of an entry is at most 6.2e-14 of Σ|x_i y_i|.
Products of float32, bfloat16 and float16 are exact in float64; those of float64 are fused or add one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no type information
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["BLOCK", "CODES", "TASK", "add_slots", "run_tasks"]

BLOCK: Final = 8192
"""Elements of a block: 64 KiB as float64."""
RUN: Final = 1024
"""Elements after which the lanes of a vector are added up, so that none sums too long."""
TASK: Final = 1 << 17
"""Elements of a task."""
CODES: Final = {"float64": 0, "float32": 1, "bfloat16": 2, "float16": 3}
"""How a segment's dtype is told to the compiled code."""

# What stands for a dtype inside the compiled code, where bfloat16 and float16 do not exist.
_F64: Final = np.float64(0)
_F32: Final = np.float32(0)
_BF16: Final = np.uint16(0)
_F16: Final = np.int16(0)

# Sums may be reordered and fused. NaN and Inf must stay what they are: no "nnan", no "ninf".
_SUMS: Final = {"reassoc", "contract", "nsz"}

_F = TypeVar("_F", bound=Callable[..., Any])


def _compiled(**options: Any) -> Callable[[_F], _F]:
    def compile_lazily(function: _F) -> _F:
        try:
            return cast("_F", njit(nogil=True, cache=True, **options)(function))
        except RuntimeError as error:
            # A read-only installation without a home: nowhere to keep compiled code, each process compiles.
            if "no locator available" not in str(error):
                raise
            return cast("_F", njit(nogil=True, **options)(function))

    return compile_lazily


def _emit_load(_context: Any, address: Any, index: Any, like: Any) -> Any:
    """Element `index` of the array at `address`, as float64; `like` tells the dtype."""

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        stored = {
            types.float64: ir.DoubleType(),
            types.float32: ir.FloatType(),
            types.uint16: ir.IntType(16),
            types.int16: ir.IntType(16),
        }[like]
        pointer = builder.inttoptr(arguments[0], stored.as_pointer())
        value = builder.load(builder.gep(pointer, [arguments[1]]))
        if like == types.float64:
            return value
        if like == types.uint16:
            bits = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
            value = builder.bitcast(bits, ir.FloatType())
        elif like == types.int16:
            value = _half_to_single(builder, value)
        return builder.fpext(value, ir.DoubleType())

    return types.float64(types.uint64, types.int64, like), generate


_load: Any = intrinsic(_emit_load)


def _half_to_single(builder: ir.IRBuilder, half: Any) -> Any:
    """Emit float16 → float32 in integer steps: not every processor converts, and these run in any vector width."""
    word, single = ir.IntType(32), ir.FloatType()

    def constant(value: int) -> Any:
        return ir.Constant(word, value)

    bits = builder.zext(half, word)
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(16))
    magnitude = builder.and_(bits, constant(0x7FFF))
    # Exponent bias 15 becomes 127; the highest exponent, Inf and NaN, needs the same step once more.
    rebias = constant(112 << 23)
    normal = builder.add(builder.shl(magnitude, constant(13)), rebias)
    special = builder.icmp_unsigned(">=", magnitude, constant(0x7C00))
    normal = builder.select(special, builder.add(normal, rebias), normal)
    # Subnormals and zero are multiples of 2^-24.
    small = builder.fmul(builder.uitofp(magnitude, single), ir.Constant(single, 2.0**-24))
    subnormal = builder.icmp_unsigned("<", magnitude, constant(0x0400))
    chosen = builder.select(subnormal, builder.bitcast(small, word), normal)
    return builder.bitcast(builder.or_(chosen, sign), single)


@_compiled(fastmath=_SUMS)
def _widen(x: NDArray[np.float64], address: np.uint64, like: Any) -> None:
    for i in range(len(x)):
        x[i] = _load(address, i, like)


@_compiled(fastmath=_SUMS)
def _dot(x: np.uint64, a: np.uint64, count: int, like: Any) -> float:
    total = 0.0
    for start in range(0, count, RUN):
        s = 0.0
        for i in range(start, min(start + RUN, count)):
            s += _load(x, i, _F64) * _load(a, i, like)
        total += s
    return total


@_compiled(fastmath=_SUMS)
def _dot_four(
    x: np.uint64, a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, count: int, like: Any
) -> tuple[float, float, float, float]:
    ta = tb = tc = td = 0.0
    for start in range(0, count, RUN):
        sa = sb = sc = sd = 0.0
        for i in range(start, min(start + RUN, count)):
            value = _load(x, i, _F64)
            sa += value * _load(a, i, like)
            sb += value * _load(b, i, like)
            sc += value * _load(c, i, like)
            sd += value * _load(d, i, like)
        ta += sa
        tb += sb
        tc += sc
        td += sd
    return ta, tb, tc, td


@_compiled(fastmath=_SUMS)
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
            value, p, o = _load(x, i, _F64), _load(previous, i, like), _load(origin, i, like)
            update, displacement = value - p, value - o
            s0 += update * update
            s1 += update * (p - _load(before, i, like))
            s2 += displacement * displacement
            s3 += displacement * (_load(first, i, like) - o)
        t0 += s0
        t1 += s1
        t2 += s2
        t3 += s3
    return t0, t1, t2, t3


@_compiled(fastmath=_SUMS)
def _segment_rows(
    x: np.uint64, stored: NDArray[np.uint64], column: int, offset: np.uint64, count: int, like: Any, out: Any
) -> None:
    """Add the segment's products with one to four stored snapshots, from `column` on."""
    if column + 4 <= len(stored):
        a, b, c, d = _dot_four(
            x,
            stored[column] + offset,
            stored[column + 1] + offset,
            stored[column + 2] + offset,
            stored[column + 3] + offset,
            count,
            like,
        )
        out[column] += a
        out[column + 1] += b
        out[column + 2] += c
        out[column + 3] += d
    else:
        for s in range(column, len(stored)):
            out[s] += _dot(x, stored[s] + offset, count, like)


@_compiled(fastmath=_SUMS)
def _segment_products(
    x: np.uint64, path: NDArray[np.uint64], offset: np.uint64, count: int, like: Any, out: Any
) -> None:
    a, b, c, d = _difference_products(
        x, path[0] + offset, path[1] + offset, path[2] + offset, path[3] + offset, count, like
    )
    out[0] += a
    out[1] += b
    out[2] += c
    out[3] += d


@_compiled(fastmath=_SUMS)
def run_tasks(
    tasks: NDArray[np.int64],
    blocks: NDArray[np.int64],
    segments: NDArray[np.int64],
    buffer: NDArray[np.float64],
    new: np.uint64,
    stored: NDArray[np.uint64],
    path: NDArray[np.uint64],
    gram: NDArray[np.float64],
    products: NDArray[np.float64],
) -> None:
    """Add the sums of consecutive tasks to their slots.

    `tasks`: [k+1], first block of each task; `blocks`: first segment of each block; `segments`: [S, 5], byte
    offset, elements, dtype code, slot, place in the block. `buffer`: [BLOCK], scratch. `new`, `stored` [m],
    `path` [4: previous, the one before, origin, first; or 0: none]: addresses of snapshots. `gram`:
    [slots, m + 1], the last column for the new snapshot itself; `products`: [slots, 4]; zero at the start.
    """
    base = np.uint64(buffer.ctypes.data)
    for block in range(tasks[0], tasks[-1]):
        first, last = blocks[block], blocks[block + 1]
        for k in range(first, last):
            count, code, slot, place = segments[k, 1], segments[k, 2], segments[k, 3], segments[k, 4]
            x = buffer[place : place + count]
            at = new + np.uint64(segments[k, 0])
            if code == 0:
                _widen(x, at, _F64)
            elif code == 1:
                _widen(x, at, _F32)
            elif code == 2:
                _widen(x, at, _BF16)
            else:
                _widen(x, at, _F16)
            start = base + np.uint64(8 * place)
            gram[slot, len(stored)] += _dot(start, start, count, _F64)
        # Snapshots outside, segments inside: each snapshot is read in one piece per block, however small the layers.
        for column in range(0, len(stored), 4):
            for k in range(first, last):
                offset, count, code = np.uint64(segments[k, 0]), segments[k, 1], segments[k, 2]
                slot, place = segments[k, 3], segments[k, 4]
                start = base + np.uint64(8 * place)
                if code == 0:
                    _segment_rows(start, stored, column, offset, count, _F64, gram[slot])
                elif code == 1:
                    _segment_rows(start, stored, column, offset, count, _F32, gram[slot])
                elif code == 2:
                    _segment_rows(start, stored, column, offset, count, _BF16, gram[slot])
                else:
                    _segment_rows(start, stored, column, offset, count, _F16, gram[slot])
        if len(path) == 0:
            continue
        for k in range(first, last):
            offset, count, code = np.uint64(segments[k, 0]), segments[k, 1], segments[k, 2]
            slot, place = segments[k, 3], segments[k, 4]
            start = base + np.uint64(8 * place)
            if code == 0:
                _segment_products(start, path, offset, count, _F64, products[slot])
            elif code == 1:
                _segment_products(start, path, offset, count, _F32, products[slot])
            elif code == 2:
                _segment_products(start, path, offset, count, _BF16, products[slot])
            else:
                _segment_products(start, path, offset, count, _F16, products[slot])


@_compiled()
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
