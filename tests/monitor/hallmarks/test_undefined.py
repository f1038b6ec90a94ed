"""Undefined is NaN, and never enters a mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import (
    HALLMARKS,
    Trajectory,
    hallmark_series,
    mds,
    mean_directional_similarity,
    relative_mds,
    relative_trajectory_map,
    trajectory_map,
)
from trajmon_server.hallmarks.directions import angle_degrees, clamp_cosine, triangle_angle_degrees
from trajmon_server.hallmarks.lagged_cosines import lagged_update_cosines
from trajmon_server.hallmarks.length_weighted_mds import length_weighted_mds
from trajmon_server.hallmarks.windowed_mds import windowed_mds

Record = Callable[[NDArray[np.float64]], Trajectory]


@pytest.fixture
def points() -> NDArray[np.float64]:
    return np.random.default_rng(11).normal(size=(8, 5))


def test_a_zero_vector_has_no_direction(record: Record, points: NDArray[np.float64]) -> None:
    points[3] = 0.0
    cosines = trajectory_map(record(points).gram)
    assert np.isnan(cosines[3]).all()
    assert np.isnan(cosines[:, 3]).all()
    without = np.delete(points, 3, axis=0)
    assert mds(record(points)) == pytest.approx(mds(record(without)), abs=1e-15)


def test_a_missing_row_leaves_the_mean_of_the_others(record: Record, points: NDArray[np.float64]) -> None:
    trajectory = record(points)
    gram = trajectory.gram.copy()
    gram[5], gram[:, 5] = np.nan, np.nan
    damaged = Trajectory(
        gram,
        trajectory.update_squared,
        trajectory.update_dot,
        trajectory.displacement_squared,
        trajectory.displacement_dot,
    )
    without = record(np.delete(points, 5, axis=0))
    assert mds(damaged) == pytest.approx(mds(without), abs=1e-15)
    assert relative_mds(damaged) == pytest.approx(relative_mds(without), abs=1e-13)


def test_a_return_to_the_initialization_has_no_relative_direction(
    record: Record, points: NDArray[np.float64]
) -> None:
    points[4] = points[0]
    about = relative_trajectory_map(record(points), 0)
    assert np.isnan(about[3]).all()
    series = hallmark_series(record(points))
    assert np.isnan(series["apex_angle_initialization_degrees"][4])
    assert np.isnan(series["tortuosity"][4])
    assert series["distance_from_initialization"][4] == 0.0
    assert series["apex_angle_origin_degrees"][4] == 0.0


def test_a_zero_update_has_no_angle_but_a_length(record: Record, points: NDArray[np.float64]) -> None:
    points[4] = points[3]
    series = hallmark_series(record(points))
    assert series["update_norm"][4] == 0.0
    assert np.isnan(series["update_angle_degrees"][[4, 5]]).all()
    assert np.isfinite(series["update_angle_degrees"][[3, 6]]).all()
    assert np.isnan(series["update_cosine_lag2"][4])


def test_an_unknown_update_leaves_the_path_length_unknown(
    record: Record, points: NDArray[np.float64]
) -> None:
    trajectory = record(points)
    trajectory.update_squared[4] = np.nan
    lengths = hallmark_series(trajectory)["path_length"]
    assert np.isfinite(lengths[:4]).all()
    assert np.isnan(lengths[4:]).all()


def test_nothing_defined_is_nan() -> None:
    nothing = Trajectory.from_gram(np.full((4, 4), np.nan))
    for name, values in hallmark_series(nothing).items():
        defined = values[~np.isnan(values)]
        # The path from the initialization to itself has length 0, whatever is known of it.
        assert defined.tolist() == ([0.0] if name == "path_length" else []), name
    assert np.isnan(mean_directional_similarity(np.full((3, 3), np.nan)))
    assert np.isnan(length_weighted_mds(Trajectory.from_gram(np.empty((0, 0)))))
    empty = hallmark_series(Trajectory.from_gram(np.empty((0, 0))))
    assert {name: values.shape for name, values in empty.items()} == dict.fromkeys(HALLMARKS, (0,))


def test_one_checkpoint() -> None:
    series = hallmark_series(Trajectory.from_gram(np.array([[4.0]])))
    assert series["mds"].tolist() == [1.0]
    assert series["parameter_norm"].tolist() == [2.0]
    assert np.isnan(series["relative_mds"]).all()


def test_cosines_and_angles_stay_in_range() -> None:
    assert clamp_cosine([1 + 2e-16, -1 - 1e-12, 0.5]).tolist() == [1.0, -1.0, 0.5]
    assert np.isnan(clamp_cosine(np.nan))
    scales = [1e-200, 1.0, 3.0, 1e200]
    assert angle_degrees(scales, scales, scales).tolist() == [0.0] * 4
    assert angle_degrees([-value for value in scales], scales, scales).tolist() == [180.0] * 4
    assert float(triangle_angle_degrees(1.0, 1.0, 4.0)) == 180.0
    assert float(triangle_angle_degrees(1.0, 1.0, 4.1)) == 180.0


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs one \[t, t\] and four \[t\] arrays, got \[\(2, 2\), \(3,\)"):
        Trajectory(np.eye(2), np.empty(3), np.empty(2), np.empty(2), np.empty(2))


def test_windows_and_lags_are_positive(record: Record, points: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="a window holds at least one checkpoint, not 0"):
        windowed_mds(record(points).gram, 0)
    with pytest.raises(ValueError, match="a lag is at least 1, not 0"):
        lagged_update_cosines(record(points), 0)
