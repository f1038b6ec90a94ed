"""What the Gram resolves is right; what it does not resolve is undefined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import Trajectory, relative_trajectory_map
from trajmon_server.hallmarks.lagged_cosines import lagged_update_cosines
from trajmon_server.hallmarks.resolution import COSINE_TOLERANCE

Record = Callable[[NDArray[np.float64]], Trajectory]
RATIOS = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]


def near(ratio: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Twelve points [t, p] within `ratio` of a start of length 1, and the exact cosines of their displacements."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=3000)
    start /= np.linalg.norm(start)
    moves = rng.normal(size=(12, 3000)) + rng.normal(size=3000)
    moves *= ratio / np.linalg.norm(moves, axis=1, keepdims=True)
    points = np.vstack([start, start + moves])
    away = points[1:].astype(np.longdouble) - points[0].astype(np.longdouble)
    lengths = np.sqrt(np.sum(away * away, axis=1))
    return points, np.asarray((away @ away.T) / np.outer(lengths, lengths), dtype=np.float64)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(4))
def test_a_defined_entry_is_within_tolerance(record: Record, ratio: float, seed: int) -> None:
    points, exact = near(ratio, seed)
    # Accumulated plainly in float64, in another order than the exact sums.
    plain = Trajectory.from_gram(points @ points.T)
    for trajectory in (record(points), plain):
        about = relative_trajectory_map(trajectory, 0)
        defined = ~np.isnan(about)
        assert np.all(np.abs(about - exact)[defined] <= COSINE_TOLERANCE)
        if ratio >= 1e-4:
            assert defined.all()
        if ratio <= 1e-6:
            assert not defined.any()


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_decision_is_needed(ratio: float) -> None:
    points, exact = near(ratio, 1)
    gram = points @ points.T
    dots = gram[1:, 1:] - gram[1:, :1] - gram[:1, 1:] + gram[0, 0]
    lengths = np.sqrt(np.abs(dots.diagonal()))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.nanmax(np.abs(dots / np.outer(lengths, lengths) - exact))
    # Naive subtraction is fine where the entries are shown and garbage not far below.
    assert (error < COSINE_TOLERANCE) if ratio >= 1e-5 else (ratio > 1e-8 or error > 0.1)


@pytest.mark.parametrize("ratio", RATIOS)
def test_products_out_of_a_gram_alone(record: Record, ratio: float) -> None:
    points, _ = near(ratio, 2)
    exact, derived = record(points), Trajectory.from_gram(points @ points.T)
    for name in ("update_squared", "displacement_squared"):
        truth, value = getattr(exact, name), getattr(derived, name)
        defined = ~np.isnan(value) & (truth > 0)
        assert np.all(np.abs(value - truth)[defined] <= COSINE_TOLERANCE * truth[defined]), name
        assert defined[1:].all() if ratio >= 1e-4 else (ratio > 1e-6 or not defined.any()), name
    scale = np.sqrt(exact.update_squared[2:] * exact.update_squared[1:-1])
    error = np.abs(derived.update_dot - exact.update_dot)[2:] / scale
    assert np.all(error[~np.isnan(error)] <= COSINE_TOLERANCE)
    scale = np.sqrt(exact.displacement_squared[1:] * exact.displacement_squared[1])
    error = np.abs(derived.displacement_dot - exact.displacement_dot)[1:] / scale
    assert np.all(error[~np.isnan(error)] <= COSINE_TOLERANCE)
    assert derived.displacement_squared[0] == 0.0


@pytest.mark.parametrize("ratio", RATIOS)
def test_lagged_cosines_follow_the_same_rule(record: Record, ratio: float) -> None:
    points, _ = near(ratio, 3)
    updates = np.diff(points.astype(np.longdouble), axis=0)
    lengths = np.sqrt(np.sum(updates * updates, axis=1))
    values = lagged_update_cosines(record(points), 2)[3:]
    exact = np.sum(updates[2:] * updates[:-2], axis=1) / (lengths[2:] * lengths[:-2])
    defined = ~np.isnan(values)
    assert np.all(np.abs(values - exact)[defined] <= COSINE_TOLERANCE)
    assert defined.all() if ratio >= 1e-4 else (ratio > 1e-6 or not defined.any())
    # Lag 1 has exact products: always defined, always right.
    first = lagged_update_cosines(record(points), 1)[2:]
    truth = np.sum(updates[1:] * updates[:-1], axis=1) / (lengths[1:] * lengths[:-1])
    np.testing.assert_allclose(first, truth.astype(np.float64), atol=1e-12)


def test_products_out_of_a_gram_of_a_far_walk_are_exact(record: Record) -> None:
    points = np.cumsum(np.random.default_rng(8).normal(size=(10, 40)), axis=0)
    exact, derived = record(points), Trajectory.from_gram(points @ points.T)
    for name in ("update_squared", "update_dot", "displacement_squared", "displacement_dot"):
        np.testing.assert_allclose(
            getattr(derived, name), getattr(exact, name), rtol=1e-11, atol=1e-11, err_msg=name
        )


def test_lengths_out_of_the_gram_need_more_than_exact_ones(record: Record) -> None:
    # The start and orthogonal moves of 7.5e-6: between the two limits of the error model.
    points = np.vstack([np.eye(5)[0], np.eye(5)[0] + 7.5e-6 * np.eye(5)[1:]])
    assert np.isfinite(relative_trajectory_map(record(points), 0)).all()
    assert np.isnan(relative_trajectory_map(record(points), 1)[0, 0])
