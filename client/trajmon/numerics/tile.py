"""What the compiled loops are made of: loads that widen to float64, and tiles of inner products.

These are written in LLVM's own terms, for two reasons. Bfloat16 and float16 do not exist in compiled Python. And an
entry of a row must have the same bits whatever *tile* it falls into, that is, whatever is computed beside it:
so the tile says in which order it sums. A compiler that may choose chooses by the tile.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no type information
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

__all__ = [
    "BF16",
    "BLOCK",
    "F16",
    "F32",
    "F64",
    "LANES",
    "RUN",
    "STORED",
    "lanes_of",
    "load",
    "single",
    "tile",
    "widened",
]

BLOCK: Final = 8192
"""Elements of a block: 64 KiB as float64."""
RUN: Final = 1024
"""Elements after which the lanes of a vector are added up, so that none sums too long."""
LANES: Final = 8
"""Elements of a vector in a tile."""

# What stands for a dtype inside the compiled code, where bfloat16 and float16 do not exist.
F64: Final = np.float64(0)
F32: Final = np.float32(0)
BF16: Final = np.uint16(0)
F16: Final = np.int16(0)

cgutils: Any = untyped_cgutils

# Fused, but never reordered; NaN and Inf stay what they are.
_FUSED: Final = ("contract",)

STORED: Final = {
    types.float64: ir.DoubleType(),
    types.float32: ir.FloatType(),
    types.uint16: ir.IntType(16),
    types.int16: ir.IntType(16),
}


def lanes_of(kind: Any, lanes: int) -> Any:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _constant(kind: Any, value: float, lanes: int) -> Any:
    return ir.Constant(lanes_of(kind, lanes), value if lanes == 1 else [value] * lanes)


def _emit_load(_context: Any, address: Any, index: Any, like: Any) -> Any:
    """Element `index` of the array at `address`, as float64; `like` tells the dtype."""

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], STORED[like].as_pointer())
        return widened(builder, builder.load(builder.gep(pointer, [arguments[1]])), like, 1)

    return types.float64(types.uint64, types.int64, like), generate


load: Any = intrinsic(_emit_load)
"""``load(address, index, like)``: see :func:`_emit_load`."""


def widened(builder: ir.IRBuilder, value: Any, like: Any, lanes: int) -> Any:
    """Emit the conversion of one element, or of a vector of them, to float64."""
    if like == types.float64:
        return value
    return builder.fpext(single(builder, value, like, lanes), lanes_of(ir.DoubleType(), lanes))


def single(builder: ir.IRBuilder, value: Any, like: Any, lanes: int) -> Any:
    """Emit the conversion of elements of a narrower dtype to float32."""
    if like == types.uint16:
        word = lanes_of(ir.IntType(32), lanes)
        bits = builder.shl(builder.zext(value, word), _constant(ir.IntType(32), 16, lanes))
        return builder.bitcast(bits, lanes_of(ir.FloatType(), lanes))
    return _half_to_single(builder, value, lanes) if like == types.int16 else value


def _half_to_single(builder: ir.IRBuilder, half: Any, lanes: int) -> Any:
    """Emit float16 → float32 in integer steps: not every processor converts, and these run in any vector width."""
    word, single = lanes_of(ir.IntType(32), lanes), lanes_of(ir.FloatType(), lanes)

    def constant(value: int) -> Any:
        return _constant(ir.IntType(32), value, lanes)

    bits = builder.zext(half, word)
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(16))
    magnitude = builder.and_(bits, constant(0x7FFF))
    # Exponent bias 15 becomes 127; the highest exponent, Inf and NaN, needs the same step once more.
    rebias = constant(112 << 23)
    normal = builder.add(builder.shl(magnitude, constant(13)), rebias)
    special = builder.icmp_unsigned(">=", magnitude, constant(0x7C00))
    normal = builder.select(special, builder.add(normal, rebias), normal)
    # Subnormals and zero are multiples of 2^-24.
    small = builder.fmul(builder.uitofp(magnitude, single), _constant(ir.FloatType(), 2.0**-24, lanes))
    subnormal = builder.icmp_unsigned("<", magnitude, constant(0x0400))
    chosen = builder.select(subnormal, builder.bitcast(small, word), normal)
    return builder.bitcast(builder.or_(chosen, sign), single)


def tile(rows: int, columns: int, *, own: bool = False) -> Any:
    """A compiled out[r, c] += ⟨x_r, a_c⟩ over one segment of `rows` new snapshots and `columns` stored ones.

    `own`, for one row: ⟨x, x⟩ after the last column, too.

    Written in vectors of fixed length: an entry has the same bits whatever tile it falls into. A compiler that may
    choose the order of summation chooses it by the tile, and a row would differ with what is computed beside it.
    """

    def emit(
        _context: Any, x: Any, stored: Any, offset: Any, count: Any, like: Any, out: Any, stride: Any
    ) -> Any:
        def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
            _emit_tile(builder, arguments, like, rows, columns, own)

        return types.void(x, stored, offset, count, like, out, stride), generate

    return intrinsic(emit)


def _emit_tile(builder: ir.IRBuilder, arguments: Any, like: Any, rows: int, columns: int, own: bool) -> None:
    x, stored, offset, count, _, out, stride = arguments
    number, double, element = ir.IntType(64), ir.DoubleType(), STORED[like]
    width = columns + own
    zero, entries = _constant(double, 0.0, LANES), range(rows * width)

    def whole(value: int) -> Any:
        return ir.Constant(number, value)

    def at(address: Any, index: Any, kind: Any) -> Any:
        return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])

    def load(address: Any, index: Any, kind: Any, lanes: int, align: int) -> Any:
        return builder.load(
            builder.bitcast(at(address, index, kind), lanes_of(kind, lanes).as_pointer()), align=align
        )

    def add(a: Any, total: Any) -> None:
        builder.store(builder.fadd(builder.load(total), a, flags=_FUSED), total)

    xs = [builder.add(x, whole(8 * BLOCK * r)) for r in range(rows)]
    others = [builder.add(builder.load(at(stored, whole(c), number)), offset) for c in range(columns)]

    def multiply(i: Any, into: list[Any], lanes: int) -> None:
        values = [load(address, i, double, lanes, 8) for address in xs]
        for c, address in enumerate(others):
            other = widened(builder, load(address, i, element, lanes, like.bitwidth // 8), like, lanes)
            for r, value in enumerate(values):
                add(builder.fmul(value, other, flags=_FUSED), into[r * width + c])
        if own:
            add(builder.fmul(values[0], values[0], flags=_FUSED), into[columns])

    in_vectors = builder.sub(count, builder.srem(count, whole(LANES)))
    totals = [cgutils.alloca_once_value(builder, zero) for _ in entries]
    sums = [cgutils.alloca_once(builder, zero.type) for _ in entries]
    with cgutils.for_range_slice(builder, whole(0), in_vectors, whole(RUN)) as (start, _):
        for s in sums:
            builder.store(zero, s)
        end = builder.add(start, whole(RUN))
        end = builder.select(builder.icmp_signed("<", end, in_vectors), end, in_vectors)
        with cgutils.for_range_slice(builder, start, end, whole(LANES)) as (i, _):
            multiply(i, sums, LANES)
        for s, total in zip(sums, totals, strict=True):
            add(builder.load(s), total)
    ends = [cgutils.alloca_once_value(builder, _across(builder, builder.load(total))) for total in totals]
    with cgutils.for_range_slice(builder, in_vectors, count, whole(1)) as (i, _):
        multiply(i, ends, 1)
    for r in range(rows):
        row = builder.add(out, builder.mul(stride, whole(r)))
        for c in range(width):
            add(builder.load(ends[r * width + c]), at(row, whole(c), double))


def _across(builder: ir.IRBuilder, vector: Any) -> Any:
    """Emit the sum of a vector's lanes: halves, quarters, and so on."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (
            builder.shuffle_vector(
                vector,
                ir.Constant(vector.type, ir.Undefined),
                ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes))),
            )
            for start in (0, lanes)
        )
        vector = builder.fadd(low, high, flags=_FUSED)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
