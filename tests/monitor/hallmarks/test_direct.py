"""Each hallmark against a direct computation from the stacked parameters with 50 digits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import (
    HALLMARKS,
    Trajectory,
    hallmark_series,
    mds,
    relative_gram,
    relative_mds,
    relative_trajectory_map,
    trajectory_map,
)
from trajmon_server.hallmarks.length_weighted_mds import length_weighted_mds
from trajmon_server.hallmarks.windowed_mds import WINDOW_CHECKPOINTS, windowed_mds

Record = Callable[[NDArray[np.float64]], Trajectory]
Vector = list[Any]
CHECKPOINTS, PARAMETERS = 14, 6


@pytest.fixture(autouse=True)
def fifty_digits() -> Any:
    with mpmath.workdps(50):
        yield


@pytest.fixture(params=["walk", "drift", "oscillation"])
def points(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    """[t, p], about as far from the origin as it moves."""
    rng = np.random.default_rng(7)
    steps = rng.normal(size=(CHECKPOINTS, PARAMETERS))
    if request.param == "drift":
        steps = 0.1 * steps + rng.normal(size=PARAMETERS)
    if request.param == "oscillation":
        steps = 0.3 * steps + rng.normal(size=PARAMETERS) * (-1.0) ** np.arange(CHECKPOINTS)[:, None]
    return np.asarray(np.cumsum(steps, axis=0), dtype=np.float64)


def vectors(points: NDArray[np.float64]) -> list[Vector]:
    return [[mpmath.mpf(float(value)) for value in row] for row in points]


def minus(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b, strict=True)]


def dot(a: Vector, b: Vector) -> Any:
    return mpmath.fsum(x * y for x, y in zip(a, b, strict=True))


def norm(a: Vector) -> Any:
    return mpmath.sqrt(dot(a, a))


def cosine(a: Vector, b: Vector) -> Any:
    return dot(a, b) / (norm(a) * norm(b))


def degrees(a: Vector, b: Vector) -> float:
    unit_a, unit_b = [x / norm(a) for x in a], [x / norm(b) for x in b]
    chord = norm(minus(unit_a, unit_b))
    return float(mpmath.degrees(2 * mpmath.asin(min(chord / 2, mpmath.mpf(1)))))


def mean_direction_squared(points: list[Vector], weights: list[Any] | None = None) -> float:
    """The other form of ω: squared length of the mean unit vector."""
    weights = [mpmath.mpf(1)] * len(points) if weights is None else weights
    total = [mpmath.mpf(0)] * len(points[0])
    for point, weight in zip(points, weights, strict=True):
        total = [x + weight * y / norm(point) for x, y in zip(total, point, strict=True)]
    return float(dot(total, total) / mpmath.fsum(weights) ** 2)


def test_trajectory_map(record: Record, points: NDArray[np.float64]) -> None:
    exact = vectors(points)
    expected = [[float(cosine(a, b)) for b in exact] for a in exact]
    np.testing.assert_allclose(trajectory_map(record(points).gram), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [0, 1, 5, CHECKPOINTS - 1])
def test_relative_trajectory_map(record: Record, points: NDArray[np.float64], tau: int) -> None:
    exact = vectors(points)
    about = [minus(a, exact[tau]) for t, a in enumerate(exact) if t != tau]
    expected = [[float(cosine(a, b)) for b in about] for a in about]
    trajectory = record(points)
    np.testing.assert_allclose(relative_trajectory_map(trajectory, tau), expected, rtol=0, atol=1e-12)
    dots = [[float(dot(a, b)) for b in about] for a in about]
    np.testing.assert_allclose(relative_gram(trajectory.gram, tau), dots, rtol=0, atol=1e-11)
    assert relative_mds(trajectory, tau) == pytest.approx(mean_direction_squared(about), abs=1e-12)


def test_there_is_no_map_about_a_checkpoint_that_is_not_there(record: Record) -> None:
    with pytest.raises(IndexError, match="no checkpoint 3 in a trajectory of 3 checkpoints"):
        relative_trajectory_map(record(np.eye(3)), 3)


def test_mean_directional_similarities(record: Record, points: NDArray[np.float64]) -> None:
    exact, trajectory = vectors(points), record(points)
    assert mds(trajectory) == pytest.approx(mean_direction_squared(exact), abs=1e-13)
    lengths = [mpmath.mpf(0), *(norm(minus(b, a)) for a, b in pairwise(exact))]
    assert length_weighted_mds(trajectory) == pytest.approx(mean_direction_squared(exact, lengths), abs=1e-13)
    expected = [mean_direction_squared(exact[max(0, t - 3) : t + 1]) for t in range(CHECKPOINTS)]
    np.testing.assert_allclose(windowed_mds(trajectory.gram, 4), expected, atol=1e-13)


def direct_series(points: NDArray[np.float64]) -> dict[str, list[float]]:
    exact = vectors(points)
    expected: dict[str, list[float]] = {name: [] for name in HALLMARKS}
    updates = [minus(b, a) for a, b in pairwise(exact)]
    for t, point in enumerate(exact):
        away = [minus(other, exact[0]) for other in exact[1 : t + 1]]
        path = float(mpmath.fsum(norm(update) for update in updates[:t]))
        lengths = [mpmath.mpf(0), *(norm(update) for update in updates[:t])]
        values = {
            "mds": mean_direction_squared(exact[: t + 1]),
            "relative_mds": mean_direction_squared(away) if t else np.nan,
            "length_weighted_mds": mean_direction_squared(exact[: t + 1], lengths) if t else np.nan,
            "windowed_mds": mean_direction_squared(exact[max(0, t + 1 - WINDOW_CHECKPOINTS) : t + 1]),
            "update_angle_degrees": degrees(updates[t - 1], updates[t - 2]) if t > 1 else np.nan,
            "apex_angle_initialization_degrees": degrees(away[-1], away[0]) if t else np.nan,
            "apex_angle_origin_degrees": degrees(point, exact[0]),
            "parameter_norm": float(norm(point)),
            "distance_from_initialization": float(norm(away[-1])) if t else 0.0,
            "update_norm": float(norm(updates[t - 1])) if t else np.nan,
            "path_length": path,
            "tortuosity": path / float(norm(away[-1])) if t else np.nan,
        }
        for lag in range(1, 5):
            defined = t > lag
            values[f"update_cosine_lag{lag}"] = (
                float(cosine(updates[t - 1], updates[t - 1 - lag])) if defined else np.nan
            )
        assert values.keys() == expected.keys()
        for name, value in values.items():
            expected[name].append(value)
    return expected


def test_series(record: Record, points: NDArray[np.float64]) -> None:
    series, expected = hallmark_series(record(points)), direct_series(points)
    assert tuple(series) == HALLMARKS
    for name in HALLMARKS:
        # Angles near 0 and 180 are known to half the digits.
        atol = 2e-6 if name.endswith("degrees") else 1e-11
        np.testing.assert_allclose(series[name], expected[name], rtol=1e-12, atol=atol, err_msg=name)


@pytest.mark.parametrize("angle", [1.0, 30.0, 89.999, 90.0, 135.0, 179.0])
def test_updates_of_a_ten_millionth_of_the_parameters(record: Record, angle: float) -> None:
    rng = np.random.default_rng(3)
    start = rng.normal(size=200)
    start /= np.linalg.norm(start)
    one, other = np.linalg.qr(rng.normal(size=(200, 2)))[0].T
    turned = np.cos(np.radians(angle)) * one + np.sin(np.radians(angle)) * other
    points = np.stack([start, start + 1e-7 * one, start + 1e-7 * one + 1e-7 * turned])
    series, expected = hallmark_series(record(points)), direct_series(points)
    names = ("update_angle_degrees", "apex_angle_initialization_degrees")
    for name in names:
        assert series[name][2] == pytest.approx(expected[name][2], abs=1e-6), name
    for name in ("update_norm", "distance_from_initialization", "path_length", "parameter_norm"):
        assert series[name][2] == pytest.approx(expected[name][2], rel=1e-9), name
    assert series["apex_angle_origin_degrees"][2] == pytest.approx(
        expected["apex_angle_origin_degrees"][2], rel=1e-6
    )
    # What only the Gram knows has no digit left here, and says so.
    assert np.isnan(series["relative_mds"][2])
    assert np.isnan(relative_trajectory_map(record(points), 0)).all()


def test_recorded_trajectories_have_defined_hallmarks(recorded_gram: NDArray[np.float64]) -> None:
    trajectory = Trajectory.from_gram(recorded_gram)
    series = hallmark_series(trajectory)
    assert 0 < mds(trajectory) < 1
    assert 0 < relative_mds(trajectory) < 1
    for name, values in series.items():
        assert np.isfinite(values[5:]).all(), name
    assert np.all(series["tortuosity"][1:] >= 1 - 1e-9)


def test_a_straight_line_and_a_circle(record: Record) -> None:
    line = np.outer(np.arange(1.0, 12.0), [3.0, 4.0])
    assert mds(record(line)) == pytest.approx(1.0, abs=1e-15)
    assert hallmark_series(record(line))["tortuosity"][-1] == pytest.approx(1.0)
    turns = 2 * np.pi * np.arange(12) / 12
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    assert mds(record(circle)) == pytest.approx(0.0, abs=1e-15)
