"""The formulas of a reader without a server: against 60 digits, and against the server's own code."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon.reading import measures
from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.trajectory import Trajectory

Floats = NDArray[np.float64]


def products_of(points: Floats) -> dict[str, Floats]:
    """The four products of each checkpoint, from differences."""
    t = len(points)
    update = np.full((t, points.shape[1]), np.nan)
    update[1:] = np.diff(points, axis=0)
    moved = points - points[0]
    dot = np.full(t, np.nan)
    dot[2:] = (update[2:] * update[1:-1]).sum(axis=1)
    return {
        "update_squared": (update**2).sum(axis=1),
        "update_dot": dot,
        "displacement_squared": (moved**2).sum(axis=1),
        "displacement_dot": moved @ moved[min(1, t - 1)],
    }


def trajectory(seed: int, t: int = 12, scale: float = 1.0) -> Floats:
    random = np.random.default_rng(seed)
    return 3.0 + np.cumsum(scale * random.standard_normal((t, 7)), axis=0)


def in_many_digits(points: Floats, tau: int | None) -> Floats:
    """Cosines about a checkpoint, or the origin, in 60 digits."""
    with mpmath.workdps(60):
        exact = [[mpmath.mpf(float(x)) for x in point] for point in points]
        about = [mpmath.mpf(0)] * points.shape[1] if tau is None else exact[tau]
        rows = [
            [x - y for x, y in zip(point, about, strict=True)] for i, point in enumerate(exact) if i != tau
        ]
        squares = [mpmath.fdot(row, row) for row in rows]
        return np.array(
            [
                [float(mpmath.fdot(a, b) / mpmath.sqrt(x * y)) for b, y in zip(rows, squares, strict=True)]
                for a, x in zip(rows, squares, strict=True)
            ]
        )


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("tau", [None, 0, 5])
def test_maps_against_many_digits(scale: float, tau: int | None) -> None:
    points = trajectory(seed=1, scale=scale)
    gram = points @ points.T
    moved = products_of(points)["displacement_squared"]
    found = (
        measures.origin_map(gram)
        if tau is None
        else measures.relative_map(gram, tau, moved if tau == 0 else None)
    )
    # A difference of Gram entries loses the square of |theta| / |difference|.
    tolerance = 1e-13 if tau is None else 1e-14 / scale**2 * 10
    np.testing.assert_allclose(found, in_many_digits(points, tau), rtol=0, atol=max(tolerance, 1e-13))


@given(seed=st.integers(0, 10**6), exponent=st.floats(-7, 0), t=st.integers(1, 9), data=st.data())
def test_relative_maps_are_the_servers(seed: int, exponent: float, t: int, data: st.DataObject) -> None:
    points = trajectory(seed, t, 10.0**exponent)
    if data.draw(st.booleans()):
        points[data.draw(st.integers(0, t - 1))] = data.draw(st.sampled_from([0.0, np.nan]))
    if t > 2 and data.draw(st.booleans()):
        points[2] = points[1]
    gram, products = points @ points.T, products_of(points)
    tau = data.draw(st.integers(0, t - 1))
    recorded = products["displacement_squared"] if tau == 0 else None
    np.testing.assert_allclose(
        measures.relative_map(gram, tau, recorded),
        relative_trajectory_map(Trajectory(gram, **products), tau),
        rtol=0,
        atol=1e-15,
    )


def test_under_the_resolution_of_the_gram_nothing_is_said() -> None:
    points = trajectory(seed=3, scale=1e-7)
    gram = points @ points.T
    found = measures.relative_map(gram, 5)
    assert np.isnan(found).all()
    assert np.isnan(measures.running_mean(found)).all()


def test_a_zero_vector_has_no_direction_and_no_part_in_the_mean() -> None:
    points = trajectory(seed=4, t=4)
    points[2] = 0.0
    found = measures.origin_map(points @ points.T)
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    kept = measures.origin_map(points[[0, 1, 3]] @ points[[0, 1, 3]].T)
    assert measures.running_mean(found)[-1] == pytest.approx(kept.mean(), rel=1e-14)
    assert measures.roots(np.array([4.0, 0.0, -1.0, np.inf, np.nan])).tolist()[:2] == [2.0, 0.0]


@pytest.mark.parametrize("degrees", [1e-5, 0.1, 45.0, 90.0, 135.0, 179.9])
@pytest.mark.parametrize("scale", [1.0, 1e-150])
def test_angles_keep_their_digits(degrees: float, scale: float) -> None:
    with mpmath.workdps(60):
        angle = mpmath.radians(degrees)
        first, second = mpmath.mpf(2) * scale, mpmath.mpf(3) * scale
        dot = first * second * mpmath.cos(angle)
        # Of equal legs: the side opposite alone holds the angle, however small.
        opposite = 2 * first**2 * (1 - mpmath.cos(angle))
        a, b, c, d = (np.array([float(x)]) for x in (first**2, second**2, dot, opposite))
    # Out of an inner product, a small angle comes as the root of its rounding.
    allowed = max(1e-11, 2e-13 / max(np.sin(np.radians(degrees)), 1e-7))
    assert measures.angle_degrees(c, a, b)[0] == pytest.approx(degrees, abs=max(allowed, 1e-6))
    assert measures.triangle_degrees(a, a, d)[0] == pytest.approx(degrees, rel=1e-9)


def test_angles_of_nothing_are_undefined() -> None:
    zero, one = np.array([0.0]), np.array([1.0])
    assert np.isnan(measures.angle_degrees(zero, zero, one))
    assert np.isnan(measures.angle_degrees(zero, one, zero))
    assert np.isnan(measures.angle_degrees(np.array([np.nan]), one, one))
    assert np.isnan(measures.triangle_degrees(zero, one, one))
    assert np.isnan(measures.triangle_degrees(one, one, np.array([np.nan])))
    assert measures.angle_degrees(one, one, one) == 0.0
