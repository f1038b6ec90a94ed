"""How norms have grown of late. Pure."""

from __future__ import annotations

import math

from trajmon_server.hallmarks.stream import StreamState

__all__ = ["GROWTH_CHECKPOINTS", "growth", "update_ratio"]

GROWTH_CHECKPOINTS = 8
"""How far back on the path a norm is compared."""
_LENGTH, _UPDATE = 1, 6
"""Rows of a state's points: ‖θ_s‖ and ‖θ_s−θ_{s−1}‖."""


def growth(state: StreamState) -> tuple[float, float]:
    """Parameter norm and update norm, each over its value eight checkpoints earlier on the path.

    NaN where there are fewer, where the earlier norm is 0 or undefined, and for updates where the earlier checkpoint
    is the initialization, which no update led to. Both are exact, also where maps are estimates.
    """
    earlier = state.checkpoints - 1 - GROWTH_CHECKPOINTS
    if earlier < 0:
        return math.nan, math.nan
    parameters = _ratio(state.values["parameter_norm"], float(state.points[_LENGTH, earlier]))
    # 0 at the initialization, as of an update that changed nothing.
    return parameters, _ratio(state.values["update_norm"], float(state.points[_UPDATE, earlier]))


def update_ratio(state: StreamState) -> float:
    """Norm of the last update over that of the parameters it led to; NaN where undefined."""
    return _ratio(state.values["update_norm"], state.values["parameter_norm"])


def _ratio(value: float, base: float) -> float:
    """Not above what a double holds, and not of what is undefined: NaN then."""
    if not base > 0.0:
        return math.nan
    ratio = value / base
    return ratio if math.isfinite(ratio) else math.nan
