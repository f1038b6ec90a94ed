"""Mean directional similarity, about the origin and about the initialization."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import mean_of_defined
from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map

__all__ = ["mds", "mean_directional_similarity", "relative_mds", "running_mds", "running_mds_error"]


def mean_directional_similarity(cosines: NDArray[np.float64]) -> float:
    """Mean of all n² entries of a map, the diagonal included: ω.

    Entries that are undefined are left out; NaN if none is defined. Without undefined entries it is the
    squared length of the mean unit vector. Source: Hallmarks, sec. 2(i).

    >>> mean_directional_similarity(np.array([[1.0, 0.5], [0.5, 1.0]]))
    0.75
    """
    return mean_of_defined(cosines)


def mds(trajectory: Trajectory) -> float:
    """Mean directional similarity about the origin: ω. Source: Hallmarks, sec. 2(i)."""
    return mean_directional_similarity(trajectory_map(trajectory.gram))


def relative_mds(trajectory: Trajectory, tau: int = 0) -> float:
    """Mean directional similarity about checkpoint τ, over the others: ω_τ. Source: Hallmarks, sec. 2(i)."""
    return mean_directional_similarity(relative_trajectory_map(trajectory, tau))


def running_mds(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω of each leading block of an [n, n] map: [n], entry i over the first i + 1 points."""
    defined = ~np.isnan(cosines)
    sums = _leading_block_sums(np.where(defined, cosines, 0.0))
    counts = _leading_block_sums(defined.astype(np.float64))
    means: NDArray[np.float64] = sums / np.where(counts > 0, counts, np.nan)
    return means


def running_mds_error(cosines: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of :func:`running_mds`, at most: the mean of the entries' standard errors, [n].

    Estimates of one run share the signs of their sketches, so their errors need not average out.
    """
    return running_mds(np.where(np.isnan(cosines), np.nan, errors))


def _leading_block_sums(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.tril(symmetric, -1).sum(axis=1)
    sums: NDArray[np.float64] = np.cumsum(2 * below + symmetric.diagonal())
    return sums
