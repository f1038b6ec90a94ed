"""One scale for several maps, so that equal colours mean equal entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajmon.plot.colors import Scale, ScaleKind, choose_scale

__all__ = ["common_scale"]


def common_scale(
    maps: Sequence[NDArray[np.float64]], kind: ScaleKind = "fixed", low: float | None = None
) -> Scale:
    """The least scale that holds the scales of all maps, [T, T] each; as :func:`choose_scale` for one map.

    A map without a defined entry has no say. `low` replaces the lower end.

    >>> common_scale([np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 0.9], [0.9, 1.0]])], "fitted")
    Scale(low=0.5, high=0.9)
    """
    scales = [choose_scale(entries, kind, low) for entries in maps if np.isfinite(entries).any()]
    if not scales:
        return choose_scale(np.empty((0, 0)), kind, low)
    return Scale(min(scale.low for scale in scales), max(scale.high for scale in scales))
