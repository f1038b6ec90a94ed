"""The angle between consecutive updates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import angle_degrees
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["update_angle_degrees"]


def update_angle_degrees(trajectory: Trajectory) -> NDArray[np.float64]:
    """∠(θ_t−θ_{t−1}, θ_{t−1}−θ_{t−2}) in degrees: [t], NaN at 0, at 1 and where an update is zero.

    From the exact products, so its accuracy does not depend on how small the updates are: 1e-12 degrees
    between 1 and 179 degrees, 1e-6 nearer to 0 and 180. Obtuse means oscillation. Source: Hallmarks, sec.
    2(ii).
    """
    squares = trajectory.update_squared
    values = np.full(len(trajectory), np.nan)
    values[2:] = angle_degrees(trajectory.update_dot[2:], squares[2:], squares[1:-1])
    return values
