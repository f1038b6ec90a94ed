"""The Gram row in exact rational arithmetic: slow, obvious, and what the fast one is tested with.

Every element becomes a ``fractions.Fraction``, sums and differences are exact, and only the final value is
rounded to float64. float16 and bfloat16 are read by their definition, not by the fast path's bit steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.gram import GramRow, PathIndices
from trajmon.numerics.layout import Layer, Layout
from trajmon_protos.record import LayerStatus

__all__ = ["elements", "gram_row", "pack"]

_Elements = list[Fraction] | None
"""None: missing, or NaN or Inf among them."""


def gram_row(
    layout: Layout,
    new: NDArray[np.uint8],
    stored: Sequence[NDArray[np.uint8] | None],
    path: PathIndices,
    *,
    threads: int = 1,
) -> GramRow:
    """The same as :func:`trajmon.numerics.gram.gram_row`; `threads` makes no difference."""
    del threads
    path.check(len(stored))
    num_layers, n = len(layout.layers), len(stored) + 1
    gram = np.full((num_layers, n), np.nan)
    products = np.full((num_layers, 4), np.nan)
    status = np.full(num_layers, LayerStatus.EXACT, np.uint8)
    for index, (layer, offset) in enumerate(zip(layout.layers, layout.offsets_bytes, strict=True)):
        theta = _exact(layer, offset, new)
        older = [None if snapshot is None else _exact(layer, offset, snapshot) for snapshot in stored]
        if any(snapshot is None for snapshot in stored):
            status[index] = LayerStatus.SNAPSHOT_MISSING
        row = np.array([_rounded(_dot(theta, other)) for other in [*older, theta]])
        gram[index] = np.where(np.isfinite(row), row, np.nan)
        # A snapshot whose product with the new one is beyond float64 counts like one that is not finite.
        older = [
            other if math.isfinite(entry) else None for other, entry in zip(older, row[:-1], strict=True)
        ]
        products[index], overflow = _products(theta, older, path)
        if not math.isfinite(gram[index, -1]) or overflow:
            status[index] = LayerStatus.NON_FINITE
            gram[index] = products[index] = np.nan
    return GramRow(gram, products, status)


def elements(layer: Layer, offset_bytes: int, snapshot: NDArray[np.uint8]) -> list[float]:
    """A layer's elements in a snapshot, as Python floats, which hold each of the four dtypes exactly."""
    data = snapshot[offset_bytes : offset_bytes + layer.nbytes]
    if layer.dtype == "float64":
        return [float(value) for value in data.view("<f8")]
    if layer.dtype == "float32":
        return [float(value) for value in data.view("<f4")]
    exponent_bits, mantissa_bits = (5, 10) if layer.dtype == "float16" else (8, 7)
    return [_decoded(int(bits), exponent_bits, mantissa_bits) for bits in data.view("<u2")]


def pack(layout: Layout, values: Sequence[Sequence[float] | NDArray[np.float64]]) -> NDArray[np.uint8]:
    """A snapshot that holds these elements, one sequence a layer, each rounded to its layer's dtype.

    >>> from trajmon.numerics.layout import Group
    >>> layer = Layer("w", (2,), "bfloat16")
    >>> elements(layer, 0, pack(Layout((layer,), (Group("network", (0,)),)), [[1.0, -2.5]]))
    [1.0, -2.5]
    """
    snapshot = np.zeros(layout.nbytes, np.uint8)
    for layer, offset, numbers in zip(layout.layers, layout.offsets_bytes, values, strict=True):
        data = snapshot[offset : offset + layer.nbytes]
        if layer.dtype != "bfloat16":
            data.view(layer.dtype)[:] = numbers
            continue
        words = np.array(numbers, np.float32).view(np.uint32).astype(np.uint64)
        # To nearest, ties to even; a NaN must not be rounded into Inf.
        rounded = (words + 0x7FFF + (words >> 16 & 1)) >> 16
        data.view(np.uint16)[:] = np.where(np.isnan(numbers), 0x7FC0, rounded)
    return snapshot


def _decoded(bits: int, exponent_bits: int, mantissa_bits: int) -> float:
    """IEEE 754, section 3.4: sign, biased exponent, trailing significand."""
    mantissa = bits & ((1 << mantissa_bits) - 1)
    exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1)
    sign = -1.0 if bits >> (mantissa_bits + exponent_bits) else 1.0
    bias = (1 << (exponent_bits - 1)) - 1
    if exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits)


def _exact(layer: Layer, offset_bytes: int, snapshot: NDArray[np.uint8]) -> _Elements:
    values = elements(layer, offset_bytes, snapshot)
    return [Fraction(value) for value in values] if all(map(math.isfinite, values)) else None


def _dot(a: _Elements, b: _Elements) -> Fraction | None:
    if a is None or b is None:
        return None
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _minus(a: _Elements, b: _Elements) -> _Elements:
    return None if a is None or b is None else [x - y for x, y in zip(a, b, strict=True)]


def _products(
    theta: _Elements, older: list[_Elements], path: PathIndices
) -> tuple[tuple[float, float, float, float], bool]:
    """The four update products, and whether one that exists is beyond float64."""
    if path.previous is None:
        return (math.nan, math.nan, 0.0, 0.0), False
    update = _minus(theta, older[path.previous])
    displacement = _minus(theta, older[0])
    first_step = displacement if path.first is None else _minus(older[path.first], older[0])
    before: _Elements = None
    if path.before_previous is not None:
        before = _minus(older[path.previous], older[path.before_previous])
    exact = (
        _dot(update, update),
        _dot(update, before),
        _dot(displacement, displacement),
        _dot(displacement, first_step),
    )
    a, b, c, d = (_rounded(value) for value in exact)
    return (a, b, c, d), any(map(math.isinf, (a, b, c, d)))


def _rounded(value: Fraction | None) -> float:
    """Correctly rounded; NaN for what does not exist, Inf for what is beyond float64."""
    if value is None:
        return math.nan
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf
