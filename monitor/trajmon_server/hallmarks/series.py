"""Every hallmark as of every checkpoint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks import apex_angles, norms, path_length, update_angle
from trajmon_server.hallmarks.lagged_cosines import LAGS, lagged_update_cosines
from trajmon_server.hallmarks.length_weighted_mds import running_length_weighted_mds
from trajmon_server.hallmarks.mds import running_mds
from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.series_errors import error_series, map_about_start
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.hallmarks.windowed_mds import windowed_mds

__all__ = ["ERROR", "HALLMARKS", "hallmark_series"]

HALLMARKS = (
    "mds",
    "relative_mds",
    "length_weighted_mds",
    "windowed_mds",
    "update_angle_degrees",
    "apex_angle_initialization_degrees",
    "apex_angle_origin_degrees",
    "parameter_norm",
    "distance_from_initialization",
    "update_norm",
    "path_length",
    "tortuosity",
    *(f"update_cosine_lag{lag}" for lag in LAGS),
)
"""Names of the hallmarks, in the order in which they are shown."""
ERROR = "error:"
"""Before the name of a hallmark: its standard error."""


def hallmark_series(trajectory: Trajectory) -> dict[str, NDArray[np.float64]]:
    """All of :data:`HALLMARKS`, each [t] with the value as of each checkpoint, NaN where undefined.

    Of each hallmark that somewhere rests on estimates there is its standard error as well, under ``error:NAME``: [t],
    0 where exact, NaN where the hallmark is undefined. Without estimates there is none.
    Means run over the checkpoints so far; `relative_mds` is about the initialization. O(t²) time and memory;
    the values of the newest checkpoint alone come in O(t) from :mod:`trajmon_server.hallmarks.stream`.
    """
    trajectory = trajectory.completed()
    about_start = np.full(len(trajectory), np.nan)
    if len(trajectory):
        about_start[1:] = running_mds(
            map_about_start(trajectory)[0]
            if trajectory.is_estimated
            else relative_trajectory_map(trajectory, 0)
        )
    values = {
        "mds": running_mds(trajectory_map(trajectory.gram)),
        "relative_mds": about_start,
        "length_weighted_mds": running_length_weighted_mds(trajectory),
        "windowed_mds": windowed_mds(trajectory.gram),
        "update_angle_degrees": update_angle.update_angle_degrees(trajectory),
        "apex_angle_initialization_degrees": apex_angles.apex_angle_initialization_degrees(trajectory),
        "apex_angle_origin_degrees": apex_angles.apex_angle_origin_degrees(trajectory),
        "parameter_norm": norms.parameter_norm(trajectory),
        "distance_from_initialization": norms.distance_from_initialization(trajectory),
        "update_norm": norms.update_norm(trajectory),
        "path_length": path_length.path_length(trajectory),
        "tortuosity": path_length.tortuosity(trajectory),
        **{f"update_cosine_lag{lag}": lagged_update_cosines(trajectory, lag) for lag in LAGS},
    }
    errors = error_series(trajectory, values)
    return values | {f"{ERROR}{name}": array for name, array in errors.items()}
