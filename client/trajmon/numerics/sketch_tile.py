"""The innermost loops of a sketch: elements widened while their range is found; their signs and sums as whole numbers.

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

from trajmon.numerics.tile import STORED, lanes_of, single, widened

__all__ = ["fold_whole", "widen_and_look"]

_LANES: Final = 8
"""Bits of a byte."""
_NOTHING: Final = 0xFFFF_FFFF

cgutils: Any = untyped_cgutils


def _in_lanes(builder: ir.IRBuilder, count: Any, body: Any) -> None:
    """Emit ``body(k, lanes)`` for the whole vectors below `count`, then for each element of the rest."""
    whole = ir.IntType(64)
    vectors = builder.and_(count, ir.Constant(whole, -_LANES))
    for start, end, lanes in ((ir.Constant(whole, 0), vectors, _LANES), (vectors, count, 1)):
        with cgutils.for_range_slice(builder, start, end, ir.Constant(whole, lanes)) as (k, _):
            body(k, lanes)


def _pointer(builder: ir.IRBuilder, address: Any, k: Any, kind: Any, lanes: int) -> Any:
    element = builder.gep(builder.inttoptr(address, kind.as_pointer()), [k])
    return builder.bitcast(element, lanes_of(kind, lanes).as_pointer())


def _spread(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """A vector of the same value."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def _emit_fold(_context: Any, x: Any, signs: Any, total: Any, rounder: Any, count: Any) -> tuple[Any, Any]:
    """total[k] += s(k) x[k] / unit for k < count, in whole numbers modulo 2^64; `rounder` is 1.5 * 2^52 units.

    `x`: address of float64, whole multiples of the unit of at most 2^51 of them: added to the rounder, they are in the
    last bits of the sum. `signs`: address of bytes, bit k % 8 of byte k // 8 set for minus. `total`: of int64.
    """

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        x, signs, total, rounder, count = arguments
        byte, double, whole = ir.IntType(8), ir.DoubleType(), ir.IntType(64)

        def step(k: Any, lanes: int) -> None:
            bits = builder.load(_pointer(builder, signs, builder.lshr(k, ir.Constant(k.type, 3)), byte, 1))
            if lanes == 1:
                bit = builder.trunc(builder.and_(k, ir.Constant(k.type, 7)), byte)
                minus = builder.trunc(builder.lshr(bits, bit), ir.IntType(1))
            else:
                minus = builder.bitcast(bits, ir.VectorType(ir.IntType(1), lanes))
            value = builder.load(_pointer(builder, x, k, double, lanes), align=8)
            value = builder.select(minus, builder.fneg(value), value)
            zero = _spread(builder, rounder, lanes)
            units = builder.bitcast(builder.fadd(value, zero), lanes_of(whole, lanes))
            units = builder.sub(units, builder.bitcast(zero, units.type))
            to = _pointer(builder, total, k, whole, lanes)
            builder.store(builder.add(builder.load(to, align=8), units), to, align=8)

        _in_lanes(builder, count, step)

    return types.void(x, signs, total, rounder, count), generate


fold_whole: Any = intrinsic(_emit_fold)
"""``fold_whole(x, signs, total, rounder, count)``: see :func:`_emit_fold`."""


def _emit_widen(_context: Any, x: Any, address: Any, count: Any, like: Any) -> tuple[Any, Any]:
    """x[k] = element k at `address`, as float64, for k < count; upper halves of the largest and of the smallest
    magnitude of them, as one number: the largest times 2^32, plus the smallest less 1.

    What has an upper half of 0 is left out of the smallest: all ones without any. `like` tells the dtype.
    """

    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        x, address, count, _ = arguments
        whole, word = ir.IntType(64), ir.IntType(32)
        found = {}
        for lanes in (_LANES, 1):
            kind = ir.VectorType(word, lanes)
            largest = cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * lanes))
            smallest = cgutils.alloca_once_value(builder, ir.Constant(kind, [_NOTHING] * lanes))
            found[lanes] = (largest, smallest)

        def step(k: Any, lanes: int) -> None:
            stored = builder.load(
                _pointer(builder, address, k, STORED[like], lanes), align=like.bitwidth // 8
            )
            value = widened(builder, stored, like, lanes)
            builder.store(value, _pointer(builder, x, k, ir.DoubleType(), lanes), align=8)
            _emit_look(builder, _words(builder, stored, like, lanes), found[lanes])

        _in_lanes(builder, count, step)
        most, least = ir.Constant(word, 0), ir.Constant(word, _NOTHING)
        for lanes, (largest, smallest) in found.items():
            several, few = builder.load(largest), builder.load(smallest)
            for lane in range(lanes):
                place = ir.Constant(word, lane)
                most = _extreme(builder, ">", most, builder.extract_element(several, place))
                least = _extreme(builder, "<", least, builder.extract_element(few, place))
        if like != types.float64:
            one = ir.Constant(word, 1)
            nothing = builder.icmp_unsigned("==", least, ir.Constant(word, _NOTHING))
            smallest = builder.sub(_upper_half(builder, builder.add(least, one)), one)
            most, least = _upper_half(builder, most), builder.select(nothing, least, smallest)
        upper = builder.shl(builder.zext(most, whole), ir.Constant(whole, 32))
        return builder.or_(upper, builder.zext(least, whole))

    return types.uint64(x, address, count, like), generate


def _words(builder: ir.IRBuilder, stored: Any, like: Any, lanes: int) -> Any:
    """A vector of words that compare as magnitudes do, but for the sign bit: there are twice as many in a register,
    and every processor compares them. They are the elements as float32, or the upper halves of float64.
    """
    word = ir.IntType(32)
    if like != types.float64:
        return builder.bitcast(single(builder, stored, like, lanes), ir.VectorType(word, lanes))
    pair = ir.VectorType(word, 2 * lanes)
    odd = ir.Constant(ir.VectorType(word, lanes), [2 * lane + 1 for lane in range(lanes)])
    return builder.shuffle_vector(builder.bitcast(stored, pair), ir.Constant(pair, ir.Undefined), odd)


def _emit_look(builder: ir.IRBuilder, words: Any, into: Any) -> None:
    lanes = words.type.count
    magnitude = builder.and_(words, ir.Constant(words.type, [0x7FFF_FFFF] * lanes))
    # Zeros wrap round to the largest of all: they have no last bit.
    less = builder.sub(magnitude, ir.Constant(words.type, [1] * lanes))
    for total, relation, found in ((into[0], ">", magnitude), (into[1], "<", less)):
        builder.store(_extreme(builder, relation, builder.load(total), found), total)


def _upper_half(builder: ir.IRBuilder, word: Any) -> Any:
    """Of the float64 that a float32 is, given and returned as bits."""
    value = builder.fpext(builder.bitcast(word, ir.FloatType()), ir.DoubleType())
    bits = builder.bitcast(value, ir.IntType(64))
    return builder.trunc(builder.lshr(bits, ir.Constant(bits.type, 32)), word.type)


def _extreme(builder: ir.IRBuilder, relation: str, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(relation, a, b), a, b)


widen_and_look: Any = intrinsic(_emit_widen)
"""``widen_and_look(x, address, count, like)``: see :func:`_emit_widen`."""
