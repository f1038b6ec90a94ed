"""The estimate of inner products of two checkpoints that share anchors: exact part, residuals, and the error.

Coefficients come from least squares on the anchors. The identity of :mod:`.estimation` holds for any coefficients, so
they are kept small where large ones would gain nothing: two nearly parallel anchors do no harm.

The error has four sources, added in squares:

* the sketch: the variance of the maximum likelihood estimate;
* the rounding u of the sketches' columns. With the *reach* β = |θ| + Σ_c |B_c| |θ_c|, the sketch of a residual is
  off by at most u β in length, in a direction that has nothing to do with the residuals. The estimate passes
  on √(1 − ρ²) of that, for the residuals' cosine ρ (parallel residuals stay parallel);
* the accuracy of Gram entries, of K and of G: 2 ENTRY_ACCURACY β_i β_j;
* the accuracy of the residuals' lengths, which are differences of Gram entries: their squares are off by
  ENTRY_ACCURACY β². Where that is more than a hundredth of it, the length is not used: the estimate is the
  inner product of the sketches, and the variance that of two residuals as long as the accuracy allows.

The last three are bounds, not standard deviations: where they prevail the stated error is larger than the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.margin_mle import margin_mle, pair_variance
from trajmon_server.hallmarks.resolution import ENTRY_ACCURACY

__all__ = ["Accuracy", "Pairs", "estimate_pairs", "rounding_error"]

_MARGIN_TOLERANCE = 1e-2
_SPREAD = 4.0
"""Rounding errors of k columns of like size add up like random numbers: to √(_SPREAD/k) of their bound, at most."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """One new checkpoint against J old ones in L layers, with k anchors that all of them know."""

    dot_sketch: NDArray[np.float64]
    """[L, J], inner products of sketches, new with old."""
    new_squared: NDArray[np.float64]
    """[L]"""
    new_squared_sketch: NDArray[np.float64]
    """[L]"""
    old_squared: NDArray[np.float64]
    """[L, J]"""
    old_squared_sketch: NDArray[np.float64]
    """[L, J]"""
    new_anchors: NDArray[np.float64]
    """[L, k], the anchors with the new one."""
    new_anchors_sketch: NDArray[np.float64]
    """[L, k]"""
    old_anchors: NDArray[np.float64]
    """[L, k, J], the anchors with the old ones."""
    old_anchors_sketch: NDArray[np.float64]
    """[L, k, J]"""
    anchors: NDArray[np.float64]
    """[L, k, k], the anchors with each other; none is zero."""
    anchors_sketch: NDArray[np.float64]
    """[L, k, k]"""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far the sketches of L layers can be trusted."""

    rates: NDArray[np.float64]
    """[L], 1/k of a sketch of k columns; 0 without collisions."""
    rounding: float
    """Largest relative rounding of a column."""

    @property
    def share(self) -> NDArray[np.float64]:
        """[L, 1], the part of the bound to which rounding errors of the columns add up."""
        rates = self.rates[:, None]
        share: NDArray[np.float64] = np.sqrt(np.where(rates > 0, np.minimum(_SPREAD * rates, 1.0), 1.0))
        return share


@dataclass(frozen=True, slots=True)
class _Side:
    """Residuals of N checkpoints."""

    squared: NDArray[np.float64]
    """[L, N], |r|²; not below zero."""
    squared_sketch: NDArray[np.float64]
    """[L, N]"""
    reach: NDArray[np.float64]
    """[L, N], β."""

    @property
    def doubt(self) -> NDArray[np.float64]:
        """[L, N], what `squared` can be off by."""
        doubt: NDArray[np.float64] = ENTRY_ACCURACY * np.square(self.reach)
        return doubt

    @property
    def is_firm(self) -> NDArray[np.bool_]:
        """[L, N], whether `squared` can be used."""
        return np.asarray(self.doubt <= _MARGIN_TOLERANCE * self.squared)

    @property
    def longest(self) -> NDArray[np.float64]:
        """[L, N], the length that the accuracy allows."""
        return np.sqrt(np.where(self.is_firm, self.squared, self.squared + self.doubt))


def estimate_pairs(pairs: Pairs, accuracy: Accuracy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inner products of the new checkpoint with the old ones, [L, J], and their standard errors, [L, J]."""
    weights = _Weights(pairs, accuracy)
    columns, columns_sketch = pairs.new_anchors[:, :, None], pairs.new_anchors_sketch[:, :, None]
    b_new, b_old = weights.of(columns), weights.of(pairs.old_anchors)
    new = _Side(
        np.maximum(pairs.new_squared[:, None] - _own(b_new, columns, pairs.anchors), 0.0),
        pairs.new_squared_sketch[:, None] - _own(b_new, columns_sketch, pairs.anchors_sketch),
        weights.reach(b_new, pairs.new_squared[:, None]),
    )
    old = _Side(
        np.maximum(pairs.old_squared - _own(b_old, pairs.old_anchors, pairs.anchors), 0.0),
        pairs.old_squared_sketch - _own(b_old, pairs.old_anchors_sketch, pairs.anchors_sketch),
        weights.reach(b_old, pairs.old_squared),
    )
    exact = _across(b_new, b_old, columns, pairs.old_anchors, pairs.anchors)
    sketched = _across(b_new, b_old, columns_sketch, pairs.old_anchors_sketch, pairs.anchors_sketch)
    rest, error = _residual_product(pairs.dot_sketch - sketched, new, old, accuracy)
    return exact + rest, error


def rounding_error(
    accuracy: Accuracy,
    estimate: NDArray[np.float64],
    first: tuple[NDArray[np.float64], NDArray[np.float64]],
    second: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """What rounded sketches add to an estimate's error, [L, J]; `first` and `second` are length and reach."""
    (length, reach), (other_length, other_reach) = first, second
    bound = length * other_length
    cosine = np.minimum(np.abs(estimate) / np.where(bound > 0, bound, 1.0), 1.0)
    crossed = reach * other_length + other_reach * length
    error: NDArray[np.float64] = (
        accuracy.rounding * accuracy.share * np.sqrt((1 - cosine) * (1 + cosine)) * crossed
        + accuracy.rounding**2 * reach * other_reach
    )
    return error


class _Weights:
    """Least squares on the anchors, in units of their lengths."""

    def __init__(self, pairs: Pairs, accuracy: Accuracy) -> None:
        count = pairs.anchors.shape[1]
        self._lengths = np.sqrt(np.einsum("lkk->lk", pairs.anchors))
        cosines = pairs.anchors / (self._lengths[:, :, None] * self._lengths[:, None, :])
        # A coefficient gains a shorter residual, by the sketch's error, and costs accuracy of the entries.
        gain = np.maximum(np.sqrt(accuracy.rates), max(accuracy.rounding, ENTRY_ACCURACY))
        ridge = count * ENTRY_ACCURACY / gain
        self._regular = cosines + ridge[:, None, None] * np.eye(count)

    def of(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients B [L, N, k] of N checkpoints, from their inner products with the anchors, [L, k, N]."""
        try:
            scaled = np.linalg.solve(self._regular, columns / self._lengths[:, :, None])
        except np.linalg.LinAlgError:
            # No Gram is like that, so a client sent nonsense; any coefficients will do.
            scaled = np.zeros(columns.shape)
        return np.swapaxes(scaled / self._lengths[:, :, None], 1, 2)

    def reach(self, coefficients: NDArray[np.float64], squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """[L, N]"""
        spread: NDArray[np.float64] = (np.abs(coefficients) * self._lengths[:, None, :]).sum(axis=2)
        return np.sqrt(np.maximum(squared, 0.0)) + spread


def _own(
    coefficients: NDArray[np.float64], columns: NDArray[np.float64], anchors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the anchors have in squared lengths, [L, N]: 2 B K_C· − B K_CC B'."""
    beyond = 2 * np.swapaxes(columns, 1, 2) - coefficients @ anchors
    own: NDArray[np.float64] = np.einsum("lnk,lnk->ln", coefficients, beyond)
    return own


def _across(
    new: NDArray[np.float64],
    old: NDArray[np.float64],
    new_columns: NDArray[np.float64],
    old_columns: NDArray[np.float64],
    anchors: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What they have in inner products, [L, J]: B_i K_Cj + K_iC B_j' − B_i K_CC B_j'."""
    beyond = np.swapaxes(new_columns, 1, 2) - new @ anchors
    across: NDArray[np.float64] = (new @ old_columns + beyond @ np.swapaxes(old, 1, 2))[:, 0]
    return across


def _residual_product(
    sketched: NDArray[np.float64], new: _Side, old: _Side, accuracy: Accuracy
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rates = accuracy.rates[:, None]
    bound = new.longest * old.longest
    plain = np.minimum(np.maximum(sketched, -bound), bound)
    both = new.is_firm & old.is_firm
    likeliest = margin_mle(sketched, new.squared, old.squared, new.squared_sketch, old.squared_sketch)
    rest = np.where(both, likeliest, plain)
    variance = np.where(
        both, pair_variance(rest, new.squared, old.squared, rates), 2 * rates * np.square(bound)
    )
    rounded = rounding_error(
        accuracy, np.where(both, rest, 0.0), (new.longest, new.reach), (old.longest, old.reach)
    )
    floor = 2 * ENTRY_ACCURACY * new.reach * old.reach
    for side in (new, old):
        floor = floor + np.abs(rest) * side.doubt / np.where(
            both & (side.squared > 0), 2 * side.squared, np.inf
        )
    return rest, np.sqrt(variance + np.square(rounded) + np.square(floor))
