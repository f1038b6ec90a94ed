"""The trajectory map: cosines about the origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length

__all__ = ["trajectory_map"]


def trajectory_map(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine between every two checkpoints, seen from the origin: C.

    [t, t] Gram in, [t, t] in [-1, 1] out; NaN where an entry is missing or a checkpoint is the zero vector.
    Source: Hallmarks, sec. 2, "Trajectory Map".

    >>> trajectory_map(np.array([[1.0, 1.0], [1.0, 4.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    lengths = defined_length(gram.diagonal())
    cosines = clamp_cosine(gram / np.outer(lengths, lengths))
    # A point is parallel to itself, whatever the rounding of the division says.
    np.fill_diagonal(cosines, np.where(np.isnan(cosines.diagonal()), np.nan, 1.0))
    return cosines
