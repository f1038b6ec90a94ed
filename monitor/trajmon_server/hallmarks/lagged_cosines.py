"""Cosines between updates that lie further apart than one checkpoint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.resolution import above_resolution, cancellation
from trajmon_server.hallmarks.standard_errors import known_beyond_error
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["LAGS", "lagged_cosine_errors", "lagged_update_cosines"]

LAGS = (1, 2, 3, 4)
"""Lags that the series and the exporter carry."""


def lagged_update_cosines(trajectory: Trajectory, lag: int) -> NDArray[np.float64]:
    """cos(θ_t−θ_{t−1}, θ_{t−k}−θ_{t−k−1}) for lag k: [t], NaN up to k and where the Gram does not resolve it.

    A sign that alternates with the lag is micro-oscillation about a direction that holds; values near 0 at
    every lag are a random walk. Lag 1 is the cosine of the update angle and comes from the exact products.
    Raises ValueError for a lag under 1. Ours.
    """
    if lag < 1:
        raise ValueError(f"a lag is at least 1, not {lag}")
    values = np.full(len(trajectory), np.nan)
    if len(trajectory) <= lag + 1:
        return values
    gram, norms, squares = trajectory.gram, trajectory.squared_norms, trajectory.update_squared[1:]
    if lag == 1:
        dots = trajectory.update_dot[2:]
    else:
        dots = (gram[1:, 1:] - gram[1:, :-1] - gram[:-1, 1:] + gram[:-1, :-1]).diagonal(-lag)
    lengths = defined_length(squares)
    cosines = clamp_cosine(dots / (lengths[lag:] * lengths[:-lag]))
    if lag > 1:
        ratios = cancellation(norms[1:], norms[:-1], squares)
        cosines = np.where(above_resolution(ratios[lag:], ratios[:-lag], lengths_exact=True), cosines, np.nan)
    values[lag + 1 :] = cosines
    return np.where(known_beyond_error(lagged_cosine_errors(trajectory, lag), 1.0), values, np.nan)


def lagged_cosine_errors(trajectory: Trajectory, lag: int) -> NDArray[np.float64]:
    """Their standard errors, at most: [t], 0 where exact. Lag 1 is exact or undefined."""
    errors = np.zeros(len(trajectory))
    if trajectory.gram_error is None or lag == 1 or len(trajectory) <= lag + 1:
        return errors
    entries, squares = trajectory.gram_error, trajectory.update_squared[1:]
    sums = (entries[1:, 1:] + entries[1:, :-1] + entries[:-1, 1:] + entries[:-1, :-1]).diagonal(-lag)
    lengths = defined_length(squares)
    found = sums / (lengths[lag:] * lengths[:-lag])
    errors[lag + 1 :] = np.where(sums > 0, found, 0.0)
    return errors
