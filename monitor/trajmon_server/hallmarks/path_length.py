"""Length of the path and how far it is from straight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.norms import distance_from_initialization, update_norm
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["path_length", "tortuosity"]


def path_length(trajectory: Trajectory) -> NDArray[np.float64]:
    """Σ_{s≤t} ‖θ_s−θ_{s−1}‖: [t], 0 at 0; undefined from the first undefined update on.

    A lower bound: what happens between checkpoints is not seen. Ours.
    """
    lengths = update_norm(trajectory)
    lengths[:1] = 0.0
    return np.cumsum(lengths)


def tortuosity(trajectory: Trajectory) -> NDArray[np.float64]:
    """Path length over ‖θ_t−θ_0‖: [t], 1 for a straight path, NaN where the displacement is 0. Ours."""
    distance = distance_from_initialization(trajectory)
    ratio: NDArray[np.float64] = path_length(trajectory) / np.where(distance > 0, distance, np.nan)
    return ratio
