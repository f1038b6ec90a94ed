"""Cosines and distances between the checkpoints of two runs that never met, from their sketches.

Both runs have the same layers and one sketch specification. Layers come one at a time, so memory holds the sketches of
one layer and a few [T, U] arrays. Layers have independent signs, so that their variances add.

About the initializations the sketches' difference is taken first; see :mod:`.relative_error`. Where a displacement's
length is not known exactly, in any layer, the lengths come from the sketches as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.margin_mle import margin_mle, pair_variance
from trajmon_server.hallmarks.residuals import Accuracy, rounding_error
from trajmon_server.hallmarks.resolution import ENTRY_ACCURACY

__all__ = ["CrossMap", "LayerPair", "cross_map"]

_FLOAT32_ROUNDING = 2.0**-24
_BLOCK_ENTRIES = 1 << 17
"""Entries of the map that are worked on at a time."""


class LayerPair(NamedTuple):
    """One layer in two runs, of T and U checkpoints."""

    sketches_a: NDArray[np.floating]
    """[T, W]; NaN where undefined."""
    sketches_b: NDArray[np.floating]
    """[U, W]"""
    squared_norms_a: NDArray[np.float64]
    """[T], ‖θ_t‖², exact; NaN where undefined."""
    squared_norms_b: NDArray[np.float64]
    """[U]"""
    rate: float
    """1/k of the layer's sketch; 0 without collisions."""
    displacement_squared_a: NDArray[np.float64] | None = None
    """[T], ‖θ_t−θ_0‖², exact, NaN where not known; used about the initializations only."""
    displacement_squared_b: NDArray[np.float64] | None = None
    """[U]"""


@dataclass(frozen=True, slots=True)
class CrossMap:
    """Checkpoints of run a against those of run b, [T, U] each; NaN where undefined."""

    map: NDArray[np.float64]
    """Cosines in [-1, 1]."""
    error: NDArray[np.float64]
    """Standard errors of the cosines."""
    distance: NDArray[np.float64]
    """Lengths of the differences, in units of the parameters."""
    distance_error: NDArray[np.float64]
    """Standard errors of the lengths."""


def cross_map(
    layers: Iterable[LayerPair], *, from_initialization: bool = False, rounding: float = _FLOAT32_ROUNDING
) -> CrossMap:
    """Cosine and distance between every checkpoint of one run and every one of another, over all layers given.

    With `from_initialization`, of the displacements from either run's first row, which is taken for its
    initialization. Where all sketches and norms of two checkpoints are equal, so are the checkpoints: cosine 1,
    distance 0, without error. The cosine is NaN where either side has no direction. `rounding` is the largest
    relative rounding of the sketches' columns. Raises ValueError without a layer, and for arrays whose shapes do not
    belong together.
    """
    sums: _Sums | None = None
    for index, layer in enumerate(layers):
        pair = LayerPair(*layer)
        if sums is None:
            sums = _Sums(len(pair.sketches_a), len(pair.sketches_b))
        _check(pair, index, sums)
        sides = [
            _side(pair.sketches_a, pair.squared_norms_a, pair.displacement_squared_a, from_initialization),
            _side(pair.sketches_b, pair.squared_norms_b, pair.displacement_squared_b, from_initialization),
        ]
        sums.add(sides[0], sides[1], Accuracy(np.array([pair.rate]), rounding))
    if sums is None:
        raise ValueError("a map across runs needs at least one layer that both runs have")
    return sums.result()


@dataclass(frozen=True, slots=True)
class _Side:
    """One layer of one run: vectors, or their displacements."""

    sketches: NDArray[np.float64]
    margins: NDArray[np.float64]
    """[T], exact squared lengths; NaN where not known."""
    reach: NDArray[np.float64]
    """[T], what the rounding of the sketches is relative to."""
    identity: list[bytes]
    """[T], equal for equal sketches."""

    def __getitem__(self, rows: slice) -> _Side:
        return _Side(self.sketches[rows], self.margins[rows], self.reach[rows], self.identity[rows])


def _side(
    sketches: NDArray[np.floating],
    squared_norms: NDArray[np.float64],
    displacement_squared: NDArray[np.float64] | None,
    from_initialization: bool,
) -> _Side:
    values = sketches.astype(np.float64)
    lengths = np.sqrt(np.maximum(squared_norms, 0.0))
    margins = np.asarray(squared_norms, dtype=np.float64)
    if from_initialization and len(values):
        values, lengths = values - values[0], lengths + lengths[0]
        missing = np.full(len(values), np.nan)
        margins = (
            missing if displacement_squared is None else np.asarray(displacement_squared, dtype=np.float64)
        )
    values += 0.0  # so that -0.0 and 0.0 have the same bytes
    return _Side(values, margins, lengths, [row.tobytes() for row in values])


class _Sums:
    """What all layers so far add up to, [T, U] each."""

    def __init__(self, first: int, second: int) -> None:
        self.shape = (first, second)
        self._dot, self._variance = np.zeros(self.shape), np.zeros(self.shape)
        self._margin_a, self._margin_b = np.zeros((first, 1)), np.zeros((1, second))
        self._same = np.ones(self.shape, dtype=bool)
        self._sketched = _SketchedSums(self.shape)

    def add(self, a: _Side, b: _Side, accuracy: Accuracy) -> None:
        """One more layer."""
        self._margin_a += a.margins[:, None]
        self._margin_b += b.margins[None, :]
        codes: dict[bytes, int] = {}
        codes_a, codes_b = (
            np.array([codes.setdefault(row, len(codes)) for row in side.identity], dtype=np.int64)
            for side in (a, b)
        )
        own_b = np.einsum("uw,uw->u", b.sketches, b.sketches)
        for rows in _blocks(*self.shape):
            part = a[rows]
            same = codes_a[rows, None] == codes_b[None, :]
            # Two unknown lengths of equal sketches are as equal as two known ones; NaN sketches equal nothing.
            unknown = np.isnan(part.margins[:, None]) & np.isnan(b.margins[None, :])
            same &= (part.margins[:, None] == b.margins[None, :]) | unknown
            same &= ~np.isnan(own_b)[None, :]
            dot = part.sketches @ b.sketches.T
            own_a = np.einsum("tw,tw->t", part.sketches, part.sketches)
            self._same[rows] &= same
            self._add_by_margins(rows, part, b, (dot, own_a, own_b), same, accuracy)
            self._sketched.add(rows, part, b, (dot, own_a, own_b), accuracy)

    def _add_by_margins(
        self,
        rows: slice,
        a: _Side,
        b: _Side,
        sketched: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
        same: NDArray[np.bool_],
        accuracy: Accuracy,
    ) -> None:
        dot, own_a, own_b = sketched
        m1, m2 = a.margins[:, None], b.margins[None, :]
        estimate = margin_mle(dot, m1, m2, own_a[:, None], own_b[None, :])
        estimate = np.where(same, m1, estimate)
        first = (np.sqrt(np.maximum(m1, 0.0)), a.reach[:, None])
        second = (np.sqrt(np.maximum(m2, 0.0)), b.reach[None, :])
        bounds = rounding_error(accuracy, estimate, first, second) + 2 * ENTRY_ACCURACY * first[1] * second[1]
        variance = pair_variance(estimate, m1, m2, accuracy.rates[0]) + np.square(bounds)
        self._dot[rows] += estimate
        self._variance[rows] += np.where(same, 0.0, variance)

    def result(self) -> CrossMap:
        """The map over all layers."""
        lengths = defined_length(self._margin_a) * defined_length(self._margin_b)
        spread = np.sqrt(self._variance)
        cosines, errors = clamp_cosine(self._dot / lengths), np.minimum(spread / lengths, 1.0)
        squares, square_errors = self._margin_a + self._margin_b - 2 * self._dot, 2 * spread
        by_sketch = np.isnan(squares)
        if by_sketch.any():
            other = self._sketched.result()
            cosines, errors = np.where(by_sketch, other[0], cosines), np.where(by_sketch, other[1], errors)
            squares = np.where(by_sketch, other[2], squares)
            square_errors = np.where(by_sketch, other[3], square_errors)
        defined = ~np.isnan(cosines)
        cosines = np.where(self._same & defined, 1.0, cosines)
        errors = np.where(self._same & defined, 0.0, errors)
        squares = np.where(self._same, 0.0, np.maximum(squares, 0.0))
        square_errors = np.where(self._same, 0.0, square_errors)
        # The change of the root when its square grows by the error: right to first order, and finite at 0.
        distance = np.sqrt(squares)
        return CrossMap(cosines, errors, distance, np.sqrt(squares + square_errors) - distance)


class _SketchedSums:
    """The same where lengths are not known: cosines of sketches, with the delta method over independent layers.

    With u, v the sketches of a layer, the covariances in units of the rate are: uv with uv: m1 m2 + a²; uu with uu:
    2 m1²; uv with uu: 2 a m1; uu with vv: 2 a².
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._dot, self._products, self._squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._with_a, self._with_b = np.zeros(shape), np.zeros(shape)
        self._bounds, self._distance_variance = np.zeros(shape), np.zeros(shape)
        self._own_a, self._own_b = np.zeros((shape[0], 1)), np.zeros((1, shape[1]))
        self._fourth_a, self._fourth_b = np.zeros((shape[0], 1)), np.zeros((1, shape[1]))

    def add(
        self,
        rows: slice,
        a: _Side,
        b: _Side,
        sketched: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
        accuracy: Accuracy,
    ) -> None:
        """One more layer, some rows of it."""
        dot, own_a, own_b = sketched[0], sketched[1][:, None], sketched[2][None, :]
        rate = accuracy.rates[0]
        self._dot[rows] += dot
        self._own_a[rows] += own_a
        self._fourth_a[rows] += rate * np.square(own_a)
        if rows.start == 0:
            self._own_b += own_b
            self._fourth_b += rate * np.square(own_b)
        self._products[rows] += rate * own_a * own_b
        self._squares[rows] += rate * np.square(dot)
        self._with_a[rows] += rate * dot * own_a
        self._with_b[rows] += rate * dot * own_b
        lengths = (np.sqrt(own_a), np.sqrt(own_b))
        bounds = rounding_error(
            accuracy, np.zeros(dot.shape), (lengths[0], a.reach[:, None]), (lengths[1], b.reach[None, :])
        )
        self._bounds[rows] += np.square(bounds + 2 * ENTRY_ACCURACY * a.reach[:, None] * b.reach[None, :])
        self._distance_variance[rows] += 2 * rate * np.square(np.maximum(own_a + own_b - 2 * dot, 0.0))

    def result(self) -> tuple[NDArray[np.float64], ...]:
        """Cosines, their errors, squared distances, their errors."""
        lengths = defined_length(self._own_a) * defined_length(self._own_b)
        cosines = clamp_cosine(self._dot / lengths)
        own_a, own_b = (np.where(own > 0, own, np.nan) for own in (self._own_a, self._own_b))
        variance = (self._products + self._squares) / np.square(lengths)
        variance += (
            np.square(cosines) / 2 * (self._fourth_a / np.square(own_a) + self._fourth_b / np.square(own_b))
        )
        variance += np.square(cosines) * self._squares / np.square(lengths)
        variance -= 2 * cosines / lengths * (self._with_a / own_a + self._with_b / own_b)
        variance = np.maximum(variance, 0.0) + self._bounds / np.square(lengths)
        squares = self._own_a + self._own_b - 2 * self._dot
        square_errors = np.sqrt(self._distance_variance + 4 * self._bounds)
        return cosines, np.minimum(np.sqrt(variance), 1.0), squares, square_errors


def _blocks(first: int, second: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ENTRIES // max(1, second))
    return (slice(start, min(start + step, first)) for start in range(0, first, step))


def _check(pair: LayerPair, index: int, sums: _Sums) -> None:
    for run, sketches, norms, displacements, count in (
        ("a", pair.sketches_a, pair.squared_norms_a, pair.displacement_squared_a, sums.shape[0]),
        ("b", pair.sketches_b, pair.squared_norms_b, pair.displacement_squared_b, sums.shape[1]),
    ):
        shapes = [norms.shape] + ([] if displacements is None else [displacements.shape])
        if sketches.ndim != 2 or len(sketches) != count or any(shape != (count,) for shape in shapes):
            raise ValueError(
                f"layer {index} of run {run}: sketches {sketches.shape} and squared lengths "
                f"{shapes} are not of {count} checkpoints"
            )
    if pair.sketches_a.shape[1] != pair.sketches_b.shape[1]:
        raise ValueError(
            f"layer {index}: the sketches of run a have {pair.sketches_a.shape[1]} columns, "
            f"those of run b {pair.sketches_b.shape[1]}"
        )
    if not 0 <= pair.rate <= 1:
        raise ValueError(f"layer {index}: the rate {pair.rate} is not within [0, 1]")
