from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import Trajectory

RECORDED = ("gpt_adamw_0", "res_lazy_0", "res_sgd_step_0", "vgg_sgd_const_0")


def record(points: NDArray[np.float64]) -> Trajectory:
    """What an agent would send of stacked parameters [t, p]: sums in extended precision, then rounded."""
    exact = points.astype(np.longdouble)
    t = len(points)
    update_squared, update_dot = np.full(t, np.nan), np.full(t, np.nan)
    updates = exact[1:] - exact[:-1]
    update_squared[1:] = np.sum(updates * updates, axis=1)
    update_dot[2:] = np.sum(updates[1:] * updates[:-1], axis=1)
    away = exact - exact[0]
    first = away[1] if t > 1 else away[0]
    return Trajectory(
        gram=np.asarray(exact @ exact.T, dtype=np.float64),
        update_squared=update_squared,
        update_dot=update_dot,
        displacement_squared=np.sum(away * away, axis=1).astype(np.float64),
        displacement_dot=np.sum(away * first, axis=1).astype(np.float64),
    )


@pytest.fixture(name="record")
def record_fixture() -> Callable[[NDArray[np.float64]], Trajectory]:
    return record


@pytest.fixture(params=RECORDED)
def recorded_gram(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    """Network-level Gram [T, T] of a real training."""
    with np.load(Path(__file__).parent / "recorded" / f"{request.param}.npz", allow_pickle=False) as archive:
        gram: NDArray[np.float64] = archive["gram"].sum(axis=0)
    return gram
