"""Real vectors for tests of policies, and what a server would observe of them: the oracle is the vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.signals import Ahead, GroupObservation, Observation
from trajmon_server.signals.base import LAGS

Points = NDArray[np.float64]
"""[T, N]: parameters at every checkpoint."""


def drifting(
    checkpoints: int,
    size: int,
    drift: float,
    noise: float,
    seed: int,
    rates: NDArray[np.float64] | None = None,
) -> Points:
    """Updates η (d + n): a drift of length `drift` and independent noise of that expected length."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=size)
    direction *= drift / np.linalg.norm(direction)
    factors = np.ones(checkpoints - 1) if rates is None else rates
    updates = direction + rng.normal(size=(checkpoints - 1, size)) * noise / math.sqrt(size)
    start = rng.normal(size=size)
    return np.vstack([start, start + np.cumsum(updates * factors[:, None], axis=0)])


def group_of(points: Points, t: int) -> GroupObservation:
    """The products of one scope at checkpoint t."""
    updates = np.diff(points, axis=0)

    def dot(lag: int) -> float:
        return float(updates[t - 1] @ updates[t - 1 - lag]) if t - 1 - lag >= 0 else math.nan

    return GroupObservation(
        update_squared=dot(0) if t else math.nan,
        update_dot=dot(1),
        displacement_squared=float(np.sum((points[t] - points[0]) ** 2)),
        lagged_dots=tuple(dot(lag) for lag in LAGS),
    )


def observed(
    points: Points,
    rates: NDArray[np.float64] | None = None,
    *,
    total: int | None = None,
    layers: dict[str, slice] | None = None,
    **same: Any,
) -> list[Observation]:
    """One observation a checkpoint. `total`: planned number of updates; `same`: fields alike in all of them."""
    seen = []
    for t in range(len(points)):
        network = group_of(points, t)
        ahead = None
        if total is not None:
            left = None if rates is None else rates[t:total]
            ahead = (
                Ahead(total - t) if left is None else Ahead(total - t, float(left.sum()), float(left @ left))
            )
        seen.append(
            Observation(
                checkpoint=t,
                previous=t - 1 if t else None,
                step=None,
                finite=True,
                complete=True,
                age_seconds=None,
                learning_rate=float(rates[t - 1]) if rates is not None and t else None,
                update_squared=network.update_squared,
                update_dot=network.update_dot,
                displacement_squared=network.displacement_squared,
                norm_squared=float(points[t] @ points[t]),
                lagged_dots=network.lagged_dots,
                ahead=ahead,
                groups={name: group_of(points[:, part], t) for name, part in (layers or {}).items()},
                **same,
            )
        )
    return seen
