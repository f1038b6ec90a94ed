"""Cosines and distances between the checkpoints of two runs, out of the parameters themselves. Pure.

One pass over the elements, block by block: a block of every checkpoint is widened to float64, so the two runs may be
stored in different precisions, and each snapshot is read once however many it is compared with. About the
initializations the difference is taken first, element by element, and never from inner products.

|a - b|² = |a|² + |b|² - 2<a, b> loses digits where a and b are close. So a second pass sums the squares of the
differences for those pairs whose squared distance is below :data:`NEAR` of |a|² + |b|²; equal vectors get exactly 0.
Sums over blocks are compensated. An inner product is off by less than 1e-12 |a||b|, a distance by less than 1e-8 of
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics.compiling import SUMS, compiled
from trajmon.numerics.layout import Layer, Layout

__all__ = ["NEAR", "CrossProducts", "Vectors", "cross_products"]

NEAR: Final = 1e-4
_BLOCK_BYTES: Final = 64 << 20
"""Of all checkpoints' blocks together."""
_SHORTEST, _LONGEST = 256, 1 << 16


@dataclass(frozen=True, slots=True)
class Vectors:
    """Checkpoints of one run."""

    layout: Layout
    snapshots: Sequence[NDArray[np.uint8]]
    """T of [layout.nbytes], at addresses that are multiples of 8."""
    origin: NDArray[np.uint8] | None = None
    """What is taken off each; None: nothing."""

    def block(self, layer: int, start: int, stop: int) -> NDArray[np.float64]:
        """Elements of a layer in all checkpoints, [T, stop - start]."""
        shape = self.layout.layers[layer]
        offset = self.layout.offsets_bytes[layer]
        values = np.empty((len(self.snapshots), stop - start))
        for into, snapshot in zip(values, self.snapshots, strict=True):
            into[:] = _elements(shape, offset, snapshot, start, stop)
        if self.origin is not None:
            values -= _elements(shape, offset, self.origin, start, stop)
        return values


@dataclass(frozen=True, slots=True)
class CrossProducts:
    """T vectors against U others; NaN where an element is NaN or Inf, or a sum is beyond float64."""

    dot: NDArray[np.float64]
    """[T, U]"""
    squared_a: NDArray[np.float64]
    """[T]"""
    squared_b: NDArray[np.float64]
    """[U]"""
    squared_distance: NDArray[np.float64]
    """[T, U]"""

    def cosines(self) -> NDArray[np.float64]:
        """[T, U] in [-1, 1], exactly 1 for equal vectors; NaN where one has no direction."""
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = [np.sqrt(np.where(s > 0, s, np.nan)) for s in (self.squared_a, self.squared_b)]
            cosines = np.clip(self.dot / lengths[0][:, None] / lengths[1][None, :], -1.0, 1.0)
        same = (self.squared_distance == 0) & np.isfinite(cosines)
        return np.where(same, 1.0, cosines)

    def distances(self) -> NDArray[np.float64]:
        """[T, U]"""
        return np.sqrt(self.squared_distance)


def cross_products(a: Vectors, b: Vectors, layers: Sequence[int]) -> CrossProducts:
    """Inner products and squared distances over the given layers, which both layouts have in one order and shape.

    Memory: 64 MiB of blocks, or 4 KiB for each checkpoint if that is more, and a few arrays [T, U].
    """
    shape = (len(a.snapshots), len(b.snapshots))
    dot, own_a, own_b = _Sum(shape), _Sum((shape[0],)), _Sum((shape[1],))
    # NaN and Inf in a checkpoint make its own entries NaN, and are no fault of the sums.
    with np.errstate(invalid="ignore", over="ignore"):
        for x, y in _blocks(a, b, layers):
            dot.add(x @ y.T)
            own_a.add(np.einsum("tk,tk->t", x, x))
            own_b.add(np.einsum("uk,uk->u", y, y))
        dots, squared_a, squared_b = dot.result(), own_a.result(), own_b.result()
        both = squared_a[:, None] + squared_b[None, :]
        squares = both - 2 * dots
        near = squares <= NEAR * both
        if near.any():
            direct = _Sum(shape)
            for x, y in _blocks(a, b, layers):
                part = np.zeros(shape)
                _add_squared_distances(x, y, near, part)
                direct.add(part)
            squares = np.where(near, direct.result(), squares)
        squares[~np.isfinite(squares)] = np.nan
    return CrossProducts(dots, squared_a, squared_b, squares)


class _Sum:
    """A sum of arrays with Neumaier's compensation; not finite: NaN."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._total, self._carry = np.zeros(shape), np.zeros(shape)

    def add(self, values: NDArray[np.float64]) -> None:
        total = self._total + values
        larger = np.abs(self._total) >= np.abs(values)
        self._carry += np.where(larger, (self._total - total) + values, (values - total) + self._total)
        self._total = total

    def result(self) -> NDArray[np.float64]:
        """A carry beside an infinite sum is NaN."""
        summed: NDArray[np.float64] = self._total + self._carry
        return np.where(np.isfinite(summed), summed, np.nan)


def _blocks(
    a: Vectors, b: Vectors, layers: Sequence[int]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    count = max(1, len(a.snapshots) + len(b.snapshots))
    length = min(_LONGEST, max(_SHORTEST, _BLOCK_BYTES // (8 * count)))
    for layer in layers:
        numel = a.layout.layers[layer].num_parameters
        for start in range(0, numel, length):
            stop = min(start + length, numel)
            yield a.block(layer, start, stop), b.block(layer, start, stop)


def _elements(
    layer: Layer, offset_bytes: int, snapshot: NDArray[np.uint8], start: int, stop: int
) -> NDArray[np.floating]:
    data = snapshot[offset_bytes : offset_bytes + layer.nbytes]
    if layer.dtype == "bfloat16":
        words = data.view("<u2")[start:stop].astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)
    names = {"float64": "<f8", "float32": "<f4", "float16": "<f2"}
    elements: NDArray[np.floating] = data.view(names[layer.dtype])[start:stop]
    return elements


@compiled(fastmath=SUMS)
def _add_squared_distances(
    x: NDArray[np.float64], y: NDArray[np.float64], near: NDArray[np.bool_], sums: NDArray[np.float64]
) -> None:
    for t in range(x.shape[0]):
        for u in range(y.shape[0]):
            if near[t, u]:
                total = 0.0
                for i in range(x.shape[1]):
                    difference = x[t, i] - y[u, i]
                    total += difference * difference
                sums[t, u] += total
