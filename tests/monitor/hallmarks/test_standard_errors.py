"""Stated standard errors against how far the hallmarks really spread when the Gram is off by what it states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import HALLMARKS, Trajectory, hallmark_series, integrity_findings
from trajmon_server.hallmarks.standard_errors import (
    angle_error_degrees,
    cosine_error,
    known_beyond_error,
    length_error,
    telling,
)

T = 12
DRAWS = 2000
EXACT = {"update_angle_degrees", "parameter_norm", "update_norm", "path_length", "update_cosine_lag1"}
MEANS = ("mds", "relative_mds", "length_weighted_mds", "windowed_mds")

Record = Callable[[NDArray[np.float64]], Trajectory]


@pytest.fixture(scope="module")
def truth() -> Trajectory:
    """A walk away from its start, products from the points themselves."""
    rng = np.random.default_rng(11)
    points = 2.0 * rng.normal(size=40) + np.cumsum(0.5 * rng.normal(size=(T, 40)) + 0.1, axis=0)
    updates, away = np.diff(points, axis=0), points - points[0]
    products = np.full((4, T), np.nan)
    products[0, 1:] = np.sum(updates * updates, axis=1)
    products[1, 2:] = np.sum(updates[1:] * updates[:-1], axis=1)
    products[2] = np.sum(away * away, axis=1)
    products[3] = away @ away[1]
    return Trajectory(points @ points.T, *products)


def holes(kept: Callable[[int, int], bool]) -> NDArray[np.bool_]:
    """[T, T] symmetric; `kept(i, j)` for j < i says what row i still knows exactly."""
    rows = [[j < i and not kept(i, j) for j in range(T)] for i in range(T)]
    below = np.array(rows)
    return np.asarray(below | below.T)


# What row i knows with the last two snapshots kept, and with checkpoint 0 and every fourth besides.
SKETCH = holes(lambda i, j: j >= i - 2)
ANCHORED = holes(lambda i, j: j >= i - 2 or j % 4 == 0)


def stated(truth: Trajectory, missing: NDArray[np.bool_], size: float) -> NDArray[np.float64]:
    """Standard errors as estimates have them: relative to how far the two points lie apart."""
    squares = truth.squared_norms
    apart = squares[:, None] + squares[None, :] - 2 * truth.gram
    return np.where(missing, size * apart, 0.0)


def estimated(
    truth: Trajectory, error: NDArray[np.float64], noise: NDArray[np.float64] | None = None
) -> Trajectory:
    """As a server holds it: displacements lack where the snapshots did."""
    missing = error > 0
    gram = truth.gram if noise is None else truth.gram + noise * error
    return replace(
        truth,
        gram=gram,
        displacement_squared=np.where(missing[:, 0], np.nan, truth.displacement_squared),
        displacement_dot=np.where(missing[:, 0] | missing[:, 1], np.nan, truth.displacement_dot),
        gram_error=error,
    )


def independent(rng: np.random.Generator) -> NDArray[np.float64]:
    noise = np.tril(rng.normal(size=(T, T)), -1)
    return noise + noise.T


def in_step(rng: np.random.Generator) -> NDArray[np.float64]:
    """The worst case: all entries err to the same side by as many standard errors."""
    return np.full((T, T), rng.normal())


@pytest.mark.parametrize("noise", [independent, in_step])
@pytest.mark.parametrize("missing", [SKETCH, ANCHORED], ids=["sketch", "anchored"])
def test_no_hallmark_spreads_more_than_its_standard_error(
    truth: Trajectory,
    missing: NDArray[np.bool_],
    noise: Callable[[np.random.Generator], NDArray[np.float64]],
) -> None:
    rng = np.random.default_rng(12)
    error = stated(truth, missing, 0.01)
    right = hallmark_series(truth)
    said = hallmark_series(estimated(truth, error))
    draws = [hallmark_series(estimated(truth, error, noise(rng))) for _ in range(DRAWS // 5)]
    for name in HALLMARKS:
        off = np.stack([draw[name] for draw in draws]) - right[name]
        # A derived displacement differs from the exact one in its last digits, an angle near 0 in more.
        np.testing.assert_allclose(said[name], right[name], rtol=1e-9, atol=1e-5, err_msg=name)
        spread = np.sqrt(np.mean(np.square(off), axis=0))
        errors = said.get(f"error:{name}", np.zeros(T))
        defined = ~np.isnan(right[name])
        assert (np.isnan(errors) == ~defined).all() or f"error:{name}" not in said
        assert (spread[defined] <= 1.12 * errors[defined] + 2e-6).all(), name
        if name in EXACT:
            assert f"error:{name}" not in said


def test_the_bound_on_a_mean_is_met_by_errors_in_step(truth: Trajectory) -> None:
    error = stated(truth, ANCHORED, 0.01)
    said = hallmark_series(estimated(truth, error))
    up = hallmark_series(estimated(truth, error, np.ones((T, T))))
    for name in MEANS:
        moved, errors = up[name] - said[name], said[f"error:{name}"]
        hit = errors > 0
        assert hit.any()
        np.testing.assert_allclose(moved[hit], errors[hit], rtol=1e-9, err_msg=name)


def test_single_values_have_errors_that_are_met(truth: Trajectory) -> None:
    """Not only bounds: with one uncertain number behind it, a hallmark spreads as much as is said."""
    rng = np.random.default_rng(13)
    error = stated(truth, SKETCH, 0.01)
    said = hallmark_series(estimated(truth, error))
    draws = [hallmark_series(estimated(truth, error, independent(rng))) for _ in range(DRAWS)]
    for name in ("distance_from_initialization", "apex_angle_origin_degrees", "tortuosity"):
        spread = np.std([draw[name] for draw in draws], axis=0)
        errors = said[f"error:{name}"]
        hit = errors > 0
        assert hit.sum() == T - 3
        np.testing.assert_allclose(spread[hit], errors[hit], rtol=0.06, err_msg=name)


def test_exact_runs_are_what_they_were(truth: Trajectory, record: Record) -> None:
    for trajectory in (truth, record(np.random.default_rng(3).normal(size=(30, 7)))):
        plain = hallmark_series(trajectory)
        t = len(trajectory)
        zeros = hallmark_series(
            replace(
                trajectory,
                gram_error=np.zeros((t, t)),
                displacement_squared_error=np.zeros(t),
                displacement_dot_error=np.zeros(t),
            )
        )
        assert tuple(plain) == tuple(zeros) == HALLMARKS
        for name in HALLMARKS:
            assert plain[name].tobytes() == zeros[name].tobytes()


def test_what_the_gram_lacks_stays_undefined(truth: Trajectory) -> None:
    error = stated(truth, SKETCH, 0.01)
    trajectory = estimated(truth, error)
    gram = trajectory.gram.copy()
    gram[9, 0] = gram[0, 9] = np.nan
    said = hallmark_series(replace(trajectory, gram=gram))
    for name in ("distance_from_initialization", "apex_angle_origin_degrees", "tortuosity"):
        assert np.isnan(said[name][9])
        assert np.isnan(said[f"error:{name}"][9])
    assert not np.isnan(said["mds"][9])


def test_a_displacement_under_its_error_is_undefined(truth: Trajectory) -> None:
    apart = truth.displacement_squared
    for share, known in ((0.49, True), (0.51, False)):
        error = np.zeros((T, T))
        error[7, 0] = error[0, 7] = share * apart[7]
        said = hallmark_series(estimated(truth, error))
        assert np.isnan(said["distance_from_initialization"][7]) == (not known)
        assert np.isnan(said["apex_angle_initialization_degrees"][7]) == (not known)
        assert not np.isnan(said["relative_mds"][7])


def test_products_of_updates_are_never_estimated(truth: Trajectory) -> None:
    error = stated(truth, SKETCH, 1e-6)
    trajectory = replace(
        estimated(truth, error),
        update_squared=np.full(T, np.nan),
        update_dot=np.full(T, np.nan),
    )
    said = hallmark_series(trajectory)
    for name in ("update_norm", "update_angle_degrees", "update_cosine_lag1", "update_cosine_lag2"):
        assert np.isnan(said[name]).all(), name


def test_an_exact_displacement_says_the_product_with_the_start(truth: Trajectory) -> None:
    error = stated(truth, SKETCH, 0.05)
    completed = replace(truth, gram=truth.gram * np.where(error > 0, 1.01, 1.0), gram_error=error).completed()
    assert completed.gram_error is not None
    np.testing.assert_allclose(completed.gram[0], truth.gram[0], rtol=1e-12)
    assert not completed.gram_error[0].any()
    assert completed.gram_error[8, 3] == error[8, 3]


def test_no_finding_rests_on_an_estimate() -> None:
    points = np.random.default_rng(2).normal(size=(6, 5))
    points[5] = points[2]
    exact = Trajectory.from_gram(points @ points.T)
    assert [found.kind for found in integrity_findings(exact)] == ["identical_checkpoints"]
    error = np.zeros((6, 6))
    error[5, 2] = error[2, 5] = 1e-9
    assert integrity_findings(replace(exact, gram_error=error)) == ()


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, 30.0, 90.0, 150.0, 179.9, 180.0])
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 0.1])
def test_angle_errors(angle: float, size: float) -> None:
    """Against the angle moved by one standard error of its cosine, to the side where it moves more."""
    from mpmath import acos, cos, degrees, mp, radians

    mp.dps = 50
    middle = cos(radians(angle))
    moved = [abs(degrees(acos(max(min(middle + side * size, 1), -1))) - angle) for side in (-1, 1)]
    error = float(angle_error_degrees(angle, size))
    largest = float(max(moved))
    assert error >= 0.999 * largest
    # Never more than what an angle of exactly 0 or 180 degrees moves by, and close to the truth elsewhere.
    assert error <= 2.5 * largest
    if 10 * size < 1 - abs(float(middle)):
        assert error == pytest.approx(largest, rel=0.06)


def test_errors_of_the_parts() -> None:
    assert float(angle_error_degrees(0.0, 0.0)) == 0.0
    assert float(angle_error_degrees(90.0, 50.0)) == 180.0
    assert np.isnan(angle_error_degrees(np.nan, 0.1))
    assert np.isnan(angle_error_degrees(10.0, np.nan))
    rng = np.random.default_rng(4)
    lengths = np.sqrt(9.0 + 0.3 * rng.normal(size=100_000))
    assert float(length_error(9.0, 0.3)) == pytest.approx(lengths.std(), rel=0.02)
    cosines = (2.0 + 0.1 * rng.normal(size=100_000)) / np.sqrt(9.0)
    assert float(cosine_error(2 / 3, 0.1, (9.0, 0.0), (1.0, 0.0))) == pytest.approx(cosines.std(), rel=0.02)
    for first, second in (((9.0, 0.3), (1.0, 0.0)), ((1.0, 0.0), (9.0, 0.3))):
        spread = (2.0 / np.sqrt(9.0 + 0.3 * rng.normal(size=100_000))).std()
        assert float(cosine_error(2 / 3, 0.0, first, second)) == pytest.approx(spread, rel=0.02)
    assert np.isnan(cosine_error(0.5, 0.1, (0.0, 0.0), (1.0, 0.0)))
    assert known_beyond_error(0.0, 0.0)
    assert not known_beyond_error(np.nan, 1.0)
    values, errors = telling(np.array([0.5, 0.5, np.nan]), np.array([0.9, 1.0, 0.1]))
    np.testing.assert_array_equal(values, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(errors, [0.9, np.nan, np.nan])


@pytest.mark.parametrize("name", ["gram_error", "displacement_squared_error", "displacement_dot_error"])
def test_errors_of_another_shape_are_refused(truth: Trajectory, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} of 12 checkpoints needs the shape \(12,.*\), got \(3,\)"):
        replace(truth, **{name: np.zeros(3)})
