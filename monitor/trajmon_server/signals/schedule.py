"""Learning rates ahead and behind, out of the plans that checkpoints carry."""

from __future__ import annotations

import math

from trajmon_server.signals.base import Ahead, Observation
from trajmon_server.signals.forecast import Horizon
from trajmon_server.signals.track import Track

__all__ = ["ROUNDING", "has_schedule", "look_ahead", "rate_behind", "rates_ahead"]

ROUNDING = 1e-6
"""Of rates that are differences of sums over a million steps."""


def look_ahead(track: Track, seen: Observation, rate: float) -> Horizon:
    """The plan, as far as it is known; else as long again as so far, at `rate`."""
    if seen.ahead is None:
        return Horizon(track.elapsed * rate, track.elapsed * rate * rate)
    if has_schedule(seen):
        return Horizon(seen.ahead.rate_sum, seen.ahead.rate_squared_sum)
    return Horizon(seen.ahead.steps * rate, seen.ahead.steps * rate * rate)


def has_schedule(seen: Observation) -> bool:
    """Whether rates ahead are known, in the unit of the rates so far."""
    return seen.ahead is not None and seen.learning_rate is not None and math.isfinite(seen.ahead.rate_sum)


def rates_ahead(seen: Observation, rate: float, horizon: Horizon) -> float:
    """Their mean, over the current one; 1 where there is no schedule or nothing ahead."""
    if seen.ahead is None or not has_schedule(seen) or not seen.ahead.steps:
        return 1.0
    return horizon.rate_sum / seen.ahead.steps / rate


def rate_behind(track: Track, seen: Observation, before: Ahead | None) -> float:
    """Mean learning rate of the update; 1 where none is known.

    Out of what two plans have ahead, if they are of the same schedule: the rate in force at a checkpoint is the next
    update's in many trainings, whose schedulers have stepped already.
    """
    if seen.learning_rate is None:
        return 1.0
    if not 0 <= seen.learning_rate < math.inf or before is None or seen.ahead is None:
        return seen.learning_rate
    if before.steps - seen.ahead.steps == track.steps:
        total = before.rate_sum - seen.ahead.rate_sum
        squares = before.rate_squared_sum - seen.ahead.rate_squared_sum
        slack = ROUNDING * (track.steps * (squares + before.rate_squared_sum * ROUNDING))
        # Sums that no rates can have come of two plans: the schedule was changed between them.
        if 0 < total < math.inf and total * total <= track.steps * squares + slack:
            return total / track.steps
    return seen.learning_rate
