"""Sketches as statistics sees them: random signs, folded into bins. Knows nothing of the product's sketches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.estimation import EstimatorState, add, start

__all__ = ["collision_rate", "estimated", "fold", "held", "random_signs", "with_holes", "within"]

Array = NDArray[np.float64]


def random_signs(rng: np.random.Generator, count: int) -> Array:
    """[count], +1 or -1."""
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), dtype=np.uint8))[:count]
    signs: Array = 2.0 * bits.astype(np.float64) - 1.0
    return signs


def fold(points: Array, signs: Array, bins: int) -> Array:
    """Sketches [..., min(n, bins)] of vectors [..., n]: column b adds up the signed elements i with i mod bins = b."""
    n = points.shape[-1]
    width = min(n, bins)
    padded = np.zeros((*points.shape[:-1], -(-n // width) * width))
    padded[..., :n] = points * signs
    folded: Array = padded.reshape(*points.shape[:-1], -1, width).sum(axis=-2)
    return folded


def collision_rate(n: int, bins: int) -> float:
    """Ordered pairs of different elements in one bin, counted one by one, over n²."""
    if n <= bins:
        return 0.0
    sizes = np.bincount(np.arange(n) % bins)
    return float(np.sum(sizes * (sizes - 1.0)) / n**2)


def held(newest: int, keep: int) -> list[int]:
    """Snapshots at hand for the row of checkpoint `newest` with a budget of `keep`, itself among them.

    After the row before: 0, the multiples of the least power of two with which all fit, and the last two; with
    `keep` = 2 only the last two.
    """
    last = newest - 1
    recent = [number for number in (last - 1, last, newest) if number >= 0]
    if keep == 2:
        return recent
    step = 1
    while len({*range(0, last + 1, step), last - 1, last} - {-1, -2}) > keep:
        step *= 2
    return sorted({*range(0, last + 1, step), *recent})


def with_holes(gram: Array, keep: int) -> list[Array]:
    """The rows [L, i+1] that a client with that budget computes of a full Gram [L, T, T]."""
    rows = []
    for newest in range(gram.shape[1]):
        row = np.full((len(gram), newest + 1), np.nan)
        known = held(newest, keep)
        row[:, known] = gram[:, newest, known]
        rows.append(row)
    return rows


def estimated(
    rows: Iterable[Array], sketch_gram: Array, rates: Array, rounding: float
) -> tuple[Array, Array, EstimatorState]:
    """Rows [L, i+1] filled in, as symmetric Gram and standard errors [L, T, T]; errors are 0 where exact."""
    state = start(rates, rounding)
    shape = sketch_gram.shape
    values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for newest, row in enumerate(rows):
        state, filled = add(state, row, sketch_gram[:, newest, : newest + 1])
        known = ~np.isnan(row)
        value, error = np.where(known, row, filled.estimate), np.where(known, 0.0, filled.error)
        values[:, newest, : newest + 1] = values[:, : newest + 1, newest] = value
        errors[:, newest, : newest + 1] = errors[:, : newest + 1, newest] = error
    return values, errors, state


def within(difference: Array, error: Array) -> float:
    """Share of the true values within 1.96 standard errors."""
    return float(np.mean(np.abs(difference) <= 1.96 * error))
