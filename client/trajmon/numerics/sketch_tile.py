"""The innermost loop of a sketch: signs, rounding and sums of consecutive elements, in two levels.

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

__all__ = ["fold_two_levels"]

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
