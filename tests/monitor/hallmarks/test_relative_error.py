"""Maps about a checkpoint, and under kernels, with standard errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from support.folding import collision_rate, estimated, fold, random_signs, with_holes, within
from trajmon_server.hallmarks import Trajectory, relative_trajectory_map, trajectory_map
from trajmon_server.hallmarks.kernels import polynomial_map, rbf_map
from trajmon_server.hallmarks.map_error import map_error, polynomial_map_error, rbf_map_error
from trajmon_server.hallmarks.relative_error import relative_map_with_error

Array = NDArray[np.float64]
Record = Callable[[Array], Trajectory]
CLOSE, FLOAT32 = 2.0**-53, 2.0**-24
N, BINS, CHECKPOINTS, SEEDS = 2000, 251, 8, 600
RATE = collision_rate(N, BINS)


def near(rng: np.random.Generator, ratio: float) -> Array:
    """A walk [T, n] that goes about `ratio` of its start's length."""
    steps = rng.normal(size=(CHECKPOINTS, N)) + 0.5 * rng.normal(size=N)
    steps[0] = 0.0
    walk: Array = rng.normal(size=N) + ratio * np.cumsum(steps, axis=0) / np.sqrt(CHECKPOINTS)
    return walk


def filled(
    record: Record, points: Array, rng: np.random.Generator, keep: int, rounding: float
) -> tuple[Trajectory, Array, Array, Trajectory]:
    """With estimates, their errors, the sketches' Gram, and exact."""
    exact = record(points)
    sketch = fold(points, random_signs(rng, N), BINS)
    if rounding == FLOAT32:
        sketch = sketch.astype(np.float32).astype(np.float64)
    sketch_gram = sketch @ sketch.T
    rows = with_holes(exact.gram[None], keep)
    values, errors, _ = estimated(rows, sketch_gram[None], np.array([RATE]), rounding)
    squared, dot = exact.displacement_squared.copy(), exact.displacement_dot.copy()
    if keep == 2:
        squared[3:], dot[3:] = np.nan, np.nan
    without = Trajectory(values[0], exact.update_squared, exact.update_dot, squared, dot)
    return without, errors[0], sketch_gram, exact


@pytest.mark.parametrize(
    ("keep", "tau", "most"),
    # About the start, kept: exact lengths, one estimate an entry. Else bounds or cosines of sketches: may be larger.
    [(4, 0, 0.97), (2, 0, 1.0), (4, 3, 1.0), (2, 7, 1.0)],
)
@pytest.mark.parametrize("ratio", [1.0, 1e-3])
def test_maps_about_a_checkpoint_are_covered(
    record: Record, ratio: float, keep: int, tau: int, most: float
) -> None:
    rng = np.random.default_rng(1)
    differences, stated = [], []
    for _ in range(SEEDS):
        estimates, errors, sketch, exact = filled(record, near(rng, ratio), rng, keep, CLOSE)
        cosines, error = relative_map_with_error(estimates, errors, sketch, RATE, tau, rounding=CLOSE)
        truth = relative_trajectory_map(exact, tau)
        assert np.isfinite(cosines).all()
        assert np.isfinite(error).all()
        known = error < 1e-6
        np.testing.assert_allclose(cosines[known], truth[known], atol=1e-5)
        differences.append((cosines - truth)[~known])
        stated.append(error[~known])
    difference, error = np.concatenate(differences), np.concatenate(stated)
    print(
        f"ratio {ratio:g} keep {keep} tau {tau}: {within(difference, error):.3f}, rms {np.std(difference):.4f}"
    )
    assert 0.93 <= within(difference, error) <= most
    spread = np.mean(np.square(difference / error))
    assert spread <= 1.1
    if most < 1:
        assert spread >= 0.9


@pytest.mark.parametrize("keep", [2, 4])
def test_float32_sketches_are_right_at_a_thousandth(record: Record, keep: int) -> None:
    """The error is that of a cosine of displacements, as at any other distance."""
    rng = np.random.default_rng(2)
    rms = []
    for ratio in (1.0, 1e-3):
        off, inside = [], []
        for _ in range(60):
            estimates, errors, sketch, exact = filled(record, near(rng, ratio), rng, keep, FLOAT32)
            cosines, error = relative_map_with_error(estimates, errors, sketch, RATE, 0)
            off.append(cosines - relative_trajectory_map(exact))
            inside.append(np.mean(np.abs(off[-1]) <= 1.96 * error + 1e-12))
        assert np.mean(inside) >= 0.93
        rms.append(np.sqrt(np.mean(np.square(off))))
    assert rms[1] <= 1.2 * rms[0] <= 0.06


def test_exact_trajectories_keep_their_map(record: Record) -> None:
    points = near(np.random.default_rng(3), 1.0)
    exact = record(points)
    for tau in (0, 4, 7):
        for sketch in (None, points @ points.T):
            cosines, errors = relative_map_with_error(exact, np.zeros_like(exact.gram), sketch, RATE, tau)
            np.testing.assert_allclose(cosines, relative_trajectory_map(exact, tau), rtol=1e-15)
            assert (errors == 0).all()


def test_what_coincides_or_is_not_resolved_is_undefined(record: Record) -> None:
    rng = np.random.default_rng(4)
    points = near(rng, 1.0)
    points[5] = points[0]
    points[6] = points[0] * (1 + 1e-12)
    estimates, errors, sketch, _ = filled(record, points, rng, 4, FLOAT32)
    cosines, error = relative_map_with_error(estimates, errors, sketch, RATE, 0)
    for place in (4, 5):
        assert np.isnan(cosines[place]).all()
        assert np.isnan(cosines[:, place]).all()
        assert np.isnan(error[place]).all()
        assert np.isnan(error[:, place]).all()
    others = np.delete(np.arange(7), [4, 5])
    assert np.isfinite(cosines[np.ix_(others, others)]).all()
    for empty in (Trajectory.from_gram(np.array([[1.0]])), Trajectory.from_gram(np.array([[np.nan]]))):
        cosines, error = relative_map_with_error(empty, np.zeros((1, 1)), None, RATE, 0)
        assert cosines.shape == error.shape == (0, 0)
    with pytest.raises(IndexError, match="no checkpoint 8 in a trajectory of 8"):
        relative_map_with_error(estimates, errors, sketch, RATE, 8)


def test_an_estimate_that_says_nothing_has_the_error_of_one_that_says_nothing() -> None:
    gram = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.9], [0.9, 0.9, 1.0]])
    errors = 10.0 * (1 - np.eye(3))
    cosines, error = relative_map_with_error(Trajectory.from_gram(gram), errors, None, 1.0, 1)
    assert np.isfinite(cosines).all()
    assert error.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def spread_of(function: Callable[[Array], Array], gram: Array, errors: Array) -> Array:
    """Standard deviation [t, t] of a map when entries of the Gram move by their errors, independently."""
    rng = np.random.default_rng(5)
    maps = []
    for _ in range(2000):
        noise = np.triu(rng.normal(size=gram.shape), 1)
        maps.append(function(gram + (noise + noise.T) * errors))
    return np.asarray(np.std(maps, axis=0))


def test_maps_about_the_origin_and_under_kernels_against_monte_carlo() -> None:
    points = near(np.random.default_rng(6), 1.0)[:5] / 30
    gram = points @ points.T
    errors = 0.002 * np.array([[abs(i - j) for j in range(5)] for i in range(5)], dtype=float)
    cases: list[tuple[Array, Callable[[Array], Array]]] = [
        (map_error(gram, errors), trajectory_map),
        (rbf_map_error(gram, errors, 1.0), lambda each: rbf_map(each, 1.0)),
        (polynomial_map_error(gram, errors, 3, 0.5), lambda each: polynomial_map(each, 3, 0.5)),
    ]
    for stated, function in cases:
        np.testing.assert_allclose(stated, spread_of(function, gram, errors), rtol=0.12, atol=1e-12)
        assert (stated.diagonal() == 0).all()


def test_undefined_entries_have_no_error() -> None:
    gram = np.array([[1.0, np.nan, 0.0], [np.nan, 1.0, 0.0], [0.0, 0.0, 0.0]])
    errors = np.zeros((3, 3))
    for stated, values in (
        (map_error(gram, errors), trajectory_map(gram)),
        (rbf_map_error(gram, errors, 1.0), rbf_map(gram, 1.0)),
        (polynomial_map_error(gram, errors), polynomial_map(gram)),
    ):
        np.testing.assert_array_equal(np.isnan(stated), np.isnan(values))
    assert np.isnan(polynomial_map_error(np.full((2, 2), np.nan), np.zeros((2, 2)))).all()
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        rbf_map_error(np.eye(2), np.zeros((2, 2)), 0.0)
    with pytest.raises(ValueError, match="degree must be at least 1"):
        polynomial_map_error(np.eye(2), np.zeros((2, 2)), 0)
    # Orthogonal: a parabola is flat there, its error is not nothing.
    assert polynomial_map_error(np.eye(2), 0.1 * (1 - np.eye(2)), 2, 0.0)[0, 1] == pytest.approx(0.01)
