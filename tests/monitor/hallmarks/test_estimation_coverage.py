"""Stated errors against true ones: 300 seeds and more, gentle and structured layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from support.folding import collision_rate, estimated, fold, random_signs, with_holes, within
from trajmon_server.hallmarks.estimation import Filled, add, group_sums, start

Array = NDArray[np.float64]
Matrix = Callable[[np.random.Generator, tuple[int, int]], Array]
CLOSE = 2.0**-53
"""Rounding of sketches that are not rounded to float32."""
SEEDS = 300
LAYERS, CHECKPOINTS, ELEMENTS, BINS = 4, 16, 2000, 251


@cache
def walks() -> list[tuple[Array, Array]]:
    """True Grams [L, T, T] of random walks, a seed each, and the sketches' Grams."""
    found = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        points = 0.3 * rng.normal(size=(LAYERS, CHECKPOINTS, ELEMENTS))
        points[:, 0] = rng.normal(size=(LAYERS, ELEMENTS))
        points = np.cumsum(points + 0.1 * rng.normal(size=(LAYERS, 1, ELEMENTS)), axis=1)
        sketch = np.stack([fold(layer, random_signs(rng, ELEMENTS), BINS) for layer in points])
        found.append((points @ points.transpose(0, 2, 1), sketch @ sketch.transpose(0, 2, 1)))
    return found


@cache
def filled_walks(keep: int) -> tuple[Array, Array, Array]:
    """Estimates, errors, true Grams [seed, L, T, T]."""
    rates = np.full(LAYERS, collision_rate(ELEMENTS, BINS))
    found = [(*estimated(with_holes(gram, keep), sketch, rates, CLOSE)[:2], gram) for gram, sketch in walks()]
    values, errors, grams = (np.array(each) for each in zip(*found, strict=True))
    return values, errors, grams


@pytest.mark.parametrize("keep", [2, 4, 6])
def test_holes_of_a_walk_are_covered(keep: int) -> None:
    """Without anchors (only the last two kept), with one or two, with three or four."""
    values, errors, grams = filled_walks(keep)
    holes = errors[0, 0] > 0
    difference, error = (values - grams)[:, :, holes], errors[:, :, holes]
    assert 0.93 <= within(difference, error) <= 0.97
    assert abs(np.mean(np.square(difference / error)) - 1) <= 0.1
    known = ~holes
    np.testing.assert_allclose(values[:, :, known], grams[:, :, known], rtol=1e-14)


def test_anchors_shrink_the_error() -> None:
    errors = [np.mean(filled_walks(keep)[1][:, :, -1]) for keep in (2, 4, 6)]
    assert errors[2] < 0.75 * errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("keep", [2, 6])
def test_group_sums_are_covered(keep: int) -> None:
    values, errors, grams = filled_walks(keep)
    newest = CHECKPOINTS - 1
    differences, stated = [], []
    for value, error, gram in zip(values, errors, grams, strict=True):
        holes = error[:, newest] > 0
        row = np.where(holes, np.nan, value[:, newest])
        filled = Filled(np.where(holes, value[:, newest], np.nan), np.where(holes, error[:, newest], np.nan))
        estimate, spread = group_sums(row, filled, [range(LAYERS), [1, 2]])
        for index, members in enumerate(([0, 1, 2, 3], [1, 2])):
            hole = ~np.isnan(estimate[index])
            differences.append((estimate[index] - gram[members, newest].sum(axis=0))[hole])
            stated.append(spread[index][hole])
    assert 0.93 <= within(np.concatenate(differences), np.concatenate(stated)) <= 0.97
    ratio = np.concatenate(differences) / np.concatenate(stated)
    assert abs(np.mean(np.square(ratio)) - 1) <= 0.1


def heavy_column(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    matrix = rng.normal(size=shape)
    matrix[:, 7] *= 100
    return matrix


def rank_one(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1]))


def lognormal_columns(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    scales: Array = np.exp(2 * rng.normal(size=shape[1]))
    return rng.normal(size=shape) * scales


@pytest.mark.parametrize("make", [heavy_column, rank_one, lognormal_columns])
@pytest.mark.parametrize(("shape", "bins"), [((96, 1024), 1021), ((24, 4096), 4093)])
def test_structured_matrices_do_not_break_it(make: Matrix, shape: tuple[int, int], bins: int) -> None:
    """Widths beside a number of bins. The stated error may be too large: heavy elements meet seldom."""
    n = shape[0] * shape[1]
    rate = collision_rate(n, bins)
    rng = np.random.default_rng(17)
    # Two shared matrices, mixed and moved: cosines from about 0 to about 0.99, and some below 0.
    base = np.stack([make(rng, shape).ravel() for _ in range(2)])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    turns = np.deg2rad([0, 10, 35, 70, 100, 150])
    points = np.stack([np.cos(turn) * base[0] + np.sin(turn) * base[1] for turn in turns])
    gram = points @ points.T
    differences, errors = [], []
    for _ in range(SEEDS):
        sketch = fold(points, random_signs(rng, n), bins)
        sketch_gram = (sketch @ sketch.T)[None]
        state = start(np.array([rate]), CLOSE)
        for newest in range(len(points)):
            row = np.full((1, newest + 1), np.nan)
            row[0, -1] = gram[newest, newest]
            state, filled = add(state, row, sketch_gram[:, newest, : newest + 1])
            differences.append((filled.estimate - gram[newest, : newest + 1])[0, :-1])
            errors.append(filled.error[0, :-1])
    difference, error = np.concatenate(differences), np.concatenate(errors)
    coverage, spread = within(difference, error), np.sqrt(np.mean(np.square(difference / error)))
    print(f"{make.__name__} {shape}: coverage {coverage:.3f}, rms of error over stated {spread:.3f}")
    assert coverage >= 0.93
    assert spread <= 1.1


def test_a_power_of_two_of_bins_is_broken_by_columns_and_the_test_would_see_it() -> None:
    rng = np.random.default_rng(19)
    points = np.stack([heavy_column(rng, (96, 1024)).ravel() for _ in range(2)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    truth = float(points[0] @ points[1])
    ratios = []
    for _ in range(100):
        sketch = fold(points, random_signs(rng, points.shape[1]), 1024)
        gram = sketch @ sketch.T
        state = start(np.array([1 / 1024]), CLOSE)
        state, _ = add(state, np.array([[1.0]]), gram[None, 0, :1])
        state, filled = add(state, np.array([[np.nan, 1.0]]), gram[None, 1])
        ratios.append((filled.estimate[0, 0] - truth) / filled.error[0, 0])
    assert np.sqrt(np.mean(np.square(ratios))) > 2
