"""Measures of a trajectory, one a file, each a pure function of Gram rows.

`series` gives every measure as of every checkpoint, `stream` the newest value in O(t) a row; the two agree.
Undefined is NaN: a zero vector has no direction, and what the Gram does not resolve is not shown.
"""

from trajmon_server.hallmarks.integrity import Finding, integrity_findings
from trajmon_server.hallmarks.kernels import polynomial_map, rbf_map
from trajmon_server.hallmarks.mds import mds, mean_directional_similarity, relative_mds
from trajmon_server.hallmarks.random_walk_null import random_walk_mds, random_walk_null
from trajmon_server.hallmarks.relative_map import relative_gram, relative_trajectory_map
from trajmon_server.hallmarks.series import HALLMARKS, hallmark_series
from trajmon_server.hallmarks.stream import GramRow, StreamState
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map

__all__ = [
    "HALLMARKS",
    "Finding",
    "GramRow",
    "StreamState",
    "Trajectory",
    "hallmark_series",
    "integrity_findings",
    "mds",
    "mean_directional_similarity",
    "polynomial_map",
    "random_walk_mds",
    "random_walk_null",
    "rbf_map",
    "relative_gram",
    "relative_mds",
    "relative_trajectory_map",
    "trajectory_map",
]
