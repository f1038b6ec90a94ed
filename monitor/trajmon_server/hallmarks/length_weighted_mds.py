"""Mean directional similarity in which a checkpoint counts by the step that led to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.norms import update_norm
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map

__all__ = ["length_weighted_mds", "running_length_weighted_error", "running_length_weighted_mds"]


def length_weighted_mds(trajectory: Trajectory) -> float:
    """Σ w_i w_j C_ij / Σ w_i w_j with w_t = ‖θ_t−θ_{t−1}‖, over the defined entries.

    The initialization, which no step led to, has weight 0. So two trajectories along the same path with
    unequal numbers of checkpoints come out nearly alike. NaN if no weight is defined and positive. Source:
    named without a formula in Hallmarks, sec. 8; the weights are ours.
    """
    values = running_length_weighted_mds(trajectory)
    return float(values[-1]) if len(values) else float("nan")


def running_length_weighted_mds(trajectory: Trajectory) -> NDArray[np.float64]:
    """The same as of each checkpoint: [t]."""
    return _weighted_means(trajectory, trajectory_map(trajectory.gram))


def running_length_weighted_error(trajectory: Trajectory, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Its standard error, at most: the mean of the map's `errors`, [t, t], with the same weights. [t]."""
    return _weighted_means(trajectory, errors)


def _weighted_means(trajectory: Trajectory, entries: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = update_norm(trajectory)
    weights[:1] = 0.0
    pairs = np.outer(weights, weights)
    weighted = pairs * entries
    defined = ~np.isnan(weighted)
    sums = _running(np.where(defined, weighted, 0.0))
    totals = _running(np.where(defined, pairs, 0.0))
    means: NDArray[np.float64] = sums / np.where(totals > 0, totals, np.nan)
    return means


def _running(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.tril(symmetric, -1).sum(axis=1)
    sums: NDArray[np.float64] = np.cumsum(2 * below + symmetric.diagonal())
    return sums
