"""The innermost loops of a sketch: the range of a segment's elements; their signs, rounding and sums, in two levels.

Written in LLVM's own terms: eight signs are eight bits of a byte, and serve as the mask of a vector. No operation may
be fused or reordered here, so none carries a flag.

The cache of compiled loops watches kernel.py alone: after a change here, touch that file.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]  # ships no type information
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

__all__ = ["extremes", "fold_two_levels"]

_LANES: Final = 8
"""Bits of a byte."""

cgutils: Any = untyped_cgutils


def _emit_fold(
    _context: Any, x: Any, signs: Any, high: Any, low: Any, rounder: Any, count: Any
) -> tuple[Any, Any]:
    """high[k] += the multiple of the level's unit next to s(k) x[k], low[k] += the rest, for k < count.

    `x`, `high`, `low`: addresses of float64; `signs`: of bytes, bit k % 8 of byte k // 8 set for minus.
    """

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        *addresses, magic, number = arguments
        whole = ir.IntType(64)
        vectors = builder.and_(number, ir.Constant(whole, -_LANES))
        for start, end, lanes in ((ir.Constant(whole, 0), vectors, _LANES), (vectors, number, 1)):
            with cgutils.for_range_slice(builder, start, end, ir.Constant(whole, lanes)) as (k, _):
                _emit_step(builder, addresses, magic, k, lanes)

    return types.void(x, signs, high, low, rounder, count), generate


def _emit_step(builder: ir.IRBuilder, addresses: Any, magic: Any, k: Any, lanes: int) -> None:
    x, signs, high, low = addresses
    byte, double = ir.IntType(8), ir.DoubleType()

    def pointer(address: Any) -> Any:
        element = builder.gep(builder.inttoptr(address, double.as_pointer()), [k])
        return element if lanes == 1 else builder.bitcast(element, ir.VectorType(double, lanes).as_pointer())

    place = builder.lshr(k, ir.Constant(k.type, 3))
    bits = builder.load(builder.gep(builder.inttoptr(signs, byte.as_pointer()), [place]))
    if lanes == 1:
        bit = builder.trunc(builder.and_(k, ir.Constant(k.type, 7)), byte)
        minus = builder.trunc(builder.lshr(bits, bit), ir.IntType(1))
    else:
        minus = builder.bitcast(bits, ir.VectorType(ir.IntType(1), lanes))
        undefined = ir.Constant(ir.VectorType(double, lanes), ir.Undefined)
        first = builder.insert_element(undefined, magic, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        magic = builder.shuffle_vector(first, undefined, zeros)
    value = builder.load(pointer(x), align=8)
    value = builder.select(minus, builder.fneg(value), value)
    near = builder.fsub(builder.fadd(value, magic), magic)
    for address, part in ((high, near), (low, builder.fsub(value, near))):
        to = pointer(address)
        builder.store(builder.fadd(builder.load(to, align=8), part), to, align=8)


fold_two_levels: Any = intrinsic(_emit_fold)
"""``fold_two_levels(x, signs, high, low, rounder, count)``: see :func:`_emit_fold`."""


def _emit_extremes(_context: Any, x: Any, count: Any) -> tuple[Any, Any]:
    """Upper halves of the largest and of the smallest magnitude of `count` float64 at `x`, as one number: the largest
    times 2^32, plus the smallest less 1. What has an upper half of 0 is left out of the smallest: all ones without any.

    Words of 32 bits: there are more of them in a vector, and every processor compares them.
    """

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        address, number = arguments
        whole, word = ir.IntType(64), ir.IntType(32)
        vectors = builder.and_(number, ir.Constant(whole, -_LANES))
        ends = []
        for start, end, lanes in ((ir.Constant(whole, 0), vectors, _LANES), (vectors, number, 1)):
            kind = ir.VectorType(word, lanes)
            largest = cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * lanes))
            smallest = cgutils.alloca_once_value(builder, ir.Constant(kind, [0xFFFF_FFFF] * lanes))
            with cgutils.for_range_slice(builder, start, end, ir.Constant(whole, lanes)) as (k, _):
                _emit_look(builder, address, k, lanes, (largest, smallest))
            ends += [(largest, smallest, lanes)]
        most, least = ir.Constant(word, 0), ir.Constant(word, 0xFFFF_FFFF)
        for largest, smallest, lanes in ends:
            several, few = builder.load(largest), builder.load(smallest)
            for lane in range(lanes):
                place = ir.Constant(ir.IntType(32), lane)
                most = _extreme(builder, ">", most, builder.extract_element(several, place))
                least = _extreme(builder, "<", least, builder.extract_element(few, place))
        upper = builder.shl(builder.zext(most, whole), ir.Constant(whole, 32))
        return builder.or_(upper, builder.zext(least, whole))

    return types.uint64(types.uint64, types.int64), generate


def _emit_look(builder: ir.IRBuilder, address: Any, k: Any, lanes: int, into: Any) -> None:
    word = ir.IntType(32)
    pair = ir.VectorType(word, 2 * lanes)
    start = builder.gep(builder.inttoptr(address, ir.DoubleType().as_pointer()), [k])
    words = builder.load(builder.bitcast(start, pair.as_pointer()), align=8)
    odd = ir.Constant(ir.VectorType(word, lanes), [2 * lane + 1 for lane in range(lanes)])
    upper = builder.shuffle_vector(words, ir.Constant(pair, ir.Undefined), odd)
    magnitude = builder.and_(upper, ir.Constant(upper.type, [0x7FFF_FFFF] * lanes))
    # Zeros wrap round to the largest of all: they have no last bit.
    less = builder.sub(magnitude, ir.Constant(upper.type, [1] * lanes))
    for total, relation, value in ((into[0], ">", magnitude), (into[1], "<", less)):
        builder.store(_extreme(builder, relation, builder.load(total), value), total)


def _extreme(builder: ir.IRBuilder, relation: str, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(relation, a, b), a, b)


extremes: Any = intrinsic(_emit_extremes)
"""``extremes(x, count)``: see :func:`_emit_extremes`."""
