"""Mean directional similarity of the latest checkpoints only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import mean_of_defined
from trajmon_server.hallmarks.trajectory_map import trajectory_map

__all__ = ["WINDOW_CHECKPOINTS", "windowed_mds", "windowed_means"]

WINDOW_CHECKPOINTS = 10


def windowed_mds(
    gram: NDArray[np.float64], window_checkpoints: int = WINDOW_CHECKPOINTS
) -> NDArray[np.float64]:
    """ω over the last `window_checkpoints` as of each checkpoint, over fewer at the start: [t].

    Shows a change of direction that the mean over the whole trajectory dilutes. Ours, after Hallmarks, sec.
    2(i).
    """
    if window_checkpoints < 1:
        raise ValueError(f"a window holds at least one checkpoint, not {window_checkpoints}")
    return windowed_means(trajectory_map(gram), window_checkpoints)


def windowed_means(
    entries: NDArray[np.float64], window_checkpoints: int = WINDOW_CHECKPOINTS
) -> NDArray[np.float64]:
    """Mean of the defined entries of each block of the last checkpoints: [t, t] in, [t] out."""
    values = np.empty(len(entries))
    for stop in range(1, len(entries) + 1):
        start = max(0, stop - window_checkpoints)
        values[stop - 1] = mean_of_defined(entries[start:stop, start:stop])
    return values
