"""The standard errors of every hallmark as of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.apex_angles import apex_angle_initialization_error, apex_angle_origin_error
from trajmon_server.hallmarks.lagged_cosines import LAGS, lagged_cosine_errors
from trajmon_server.hallmarks.length_weighted_mds import running_length_weighted_error
from trajmon_server.hallmarks.map_error import map_error
from trajmon_server.hallmarks.mds import running_mds_error
from trajmon_server.hallmarks.relative_error import relative_map_with_error
from trajmon_server.hallmarks.standard_errors import length_error, telling
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.hallmarks.windowed_mds import windowed_means

__all__ = ["error_series", "map_about_start"]


def error_series(
    trajectory: Trajectory, values: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Of the hallmarks that have any: name -> [t], 0 where exact, NaN where the value is undefined.

    `values` are the hallmarks of the same trajectory, completed. Empty for a trajectory without estimates.
    """
    if not trajectory.is_estimated or trajectory.gram_error is None:
        return {}
    found = _maps(trajectory) | _displacements(trajectory, values)
    found |= {f"update_cosine_lag{lag}": lagged_cosine_errors(trajectory, lag) for lag in LAGS}
    named = {name: np.where(np.isnan(values[name]), np.nan, found[name]) for name in values if name in found}
    return {name: errors for name, errors in named.items() if (errors > 0).any()}


def map_about_start(trajectory: Trajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The map about checkpoint 0 and its standard errors, [t-1, t-1] each, of a completed trajectory.

    By differences of estimates alone. Undefined where a displacement is, and where an error says that nothing is known.
    """
    assert trajectory.gram_error is not None
    cosines, errors = relative_map_with_error(trajectory, trajectory.gram_error, None, 1.0, 0)
    unknown = np.isnan(trajectory.displacement_squared[1:])
    return telling(np.where(unknown[:, None] | unknown[None, :], np.nan, cosines), errors)


def _maps(trajectory: Trajectory) -> dict[str, NDArray[np.float64]]:
    assert trajectory.gram_error is not None
    errors = map_error(trajectory.gram, trajectory.gram_error)
    about_start = np.zeros(len(trajectory))
    about_start[1:] = running_mds_error(*map_about_start(trajectory))
    return {
        "mds": running_mds_error(trajectory_map(trajectory.gram), errors),
        "relative_mds": about_start,
        "length_weighted_mds": running_length_weighted_error(trajectory, errors),
        "windowed_mds": windowed_means(errors),
    }


def _displacements(
    trajectory: Trajectory, values: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    squares, norms = trajectory.displacement_squared, trajectory.squared_norms
    nothing = np.zeros(len(squares))
    square_errors, dot_errors = (
        nothing if errors is None else errors
        for errors in (trajectory.displacement_squared_error, trajectory.displacement_dot_error)
    )
    distance = length_error(squares, square_errors)
    first = (float(squares[1]), float(square_errors[1])) if len(squares) > 1 else (float("nan"), 0.0)
    at_start = apex_angle_initialization_error(
        values["apex_angle_initialization_degrees"], (squares, square_errors), first, dot_errors
    )
    at_start[:2] = 0.0
    return {
        "apex_angle_initialization_degrees": at_start,
        "apex_angle_origin_degrees": apex_angle_origin_error(
            values["apex_angle_origin_degrees"], norms, float(norms[0]), square_errors
        ),
        "distance_from_initialization": distance,
        "tortuosity": values["tortuosity"] * distance / np.where(squares > 0, np.sqrt(np.abs(squares)), 1.0),
    }
