"""Norm-based measures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["distance_from_initialization", "parameter_norm", "update_norm"]


def parameter_norm(trajectory: Trajectory) -> NDArray[np.float64]:
    """‖θ_t‖: [t]. Source: Hallmarks, sec. 2(iii)."""
    return np.sqrt(_square(trajectory.squared_norms))


def distance_from_initialization(trajectory: Trajectory) -> NDArray[np.float64]:
    """‖θ_t−θ_0‖: [t]. Source: Hallmarks, sec. 2(iii)."""
    return np.sqrt(_square(trajectory.displacement_squared))


def update_norm(trajectory: Trajectory) -> NDArray[np.float64]:
    """‖θ_t−θ_{t−1}‖, of the update that led to t: [t], NaN at 0. Source: Hallmarks, sec. 2(iii)."""
    return np.sqrt(_square(trajectory.update_squared))


def _square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Only finite, non-negative squares have a root; a zero length is a length."""
    return np.where((values >= 0) & (values < np.inf), values, np.nan)
