"""Inner products of the newest update with earlier ones, out of the last two Gram rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine
from trajmon_server.hallmarks.lagged_cosines import LAGS
from trajmon_server.hallmarks.resolution import above_resolution

__all__ = ["BEYOND_NEIGHBOURS", "LAG_NAMES", "lagged_cosines", "lagged_dots", "lagged_errors"]

BEYOND_NEIGHBOURS = LAGS[1:]
"""Lags whose inner products come out of the Gram; that of neighbours is a product of its own."""
LAG_NAMES = tuple(f"update_cosine_lag{lag}" for lag in LAGS)


def lagged_dots(
    gram: NDArray[np.float64],
    previous_gram: NDArray[np.float64],
    squares: NDArray[np.float64],
    update_squares: Sequence[float],
) -> dict[int, float]:
    """⟨θ_t−θ_{t−1}, θ_{t−k}−θ_{t−k−1}⟩ by lag k of BEYOND_NEIGHBOURS; NaN where undefined or not resolved.

    `gram` and `previous_gram` are the last two rows, [t + 1] and [t]; `squares`, [t + 1], holds ‖θ_s‖²;
    `update_squares` ends with ‖θ_s−θ_{s−1}‖² of the last checkpoints, the newest last.
    """
    # Few numbers, so plain floats: arrays of three cost more than they save.
    t = len(previous_gram)
    dots = dict.fromkeys(BEYOND_NEIGHBOURS, math.nan)
    newest = _length(update_squares[-1])
    if t < 2 or math.isnan(newest):
        return dots
    newest_ratio = _reach(squares, t) / newest
    for lag in BEYOND_NEIGHBOURS:
        end = t - lag
        if end < 1:
            break
        ratio = _reach(squares, end) / _length(update_squares[-1 - lag])
        if above_resolution(ratio, newest_ratio, lengths_exact=True):
            dots[lag] = float(gram[end] - gram[end - 1] - previous_gram[end] + previous_gram[end - 1])
    return dots


def lagged_cosines(
    update_dot: float, dots: Mapping[int, float], update_squares: Sequence[float]
) -> dict[str, float]:
    """By name, lag 1 from the exact product; NaN where undefined."""
    newest = _length(update_squares[-1])
    values = dict.fromkeys(LAG_NAMES, math.nan)
    for lag, name in zip(LAGS, LAG_NAMES, strict=True):
        if lag < len(update_squares):
            dot = update_dot if lag == 1 else dots[lag]
            values[name] = float(clamp_cosine(dot / (_length(update_squares[-1 - lag]) * newest)))
    return values


def lagged_errors(
    gram_error: NDArray[np.float64], previous: NDArray[np.float64], update_squares: Sequence[float]
) -> dict[str, float]:
    """Standard errors of the cosines, at most, by name; 0 where exact. `previous`: errors of the row before."""
    t = len(previous)
    found = dict.fromkeys(LAG_NAMES, 0.0)
    for lag, name in zip(LAGS, LAG_NAMES, strict=True):
        end = t - lag
        if lag > 1 and end >= 1:
            total = float(gram_error[end] + gram_error[end - 1] + previous[end] + previous[end - 1])
            if total > 0:
                found[name] = total / (_length(update_squares[-1 - lag]) * _length(update_squares[-1]))
    return found


def _reach(squares: NDArray[np.float64], t: int) -> float:
    """Length of the longer one of two neighbours; NaN where there is none."""
    square = float(np.maximum(squares[t], squares[t - 1]))
    return math.sqrt(square) if 0 <= square < math.inf else math.nan


def _length(square: float) -> float:
    return math.sqrt(square) if 0 < square < math.inf else math.nan
