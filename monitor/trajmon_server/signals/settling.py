"""Which groups have settled, and in which order: the forecast of every group, on its own.

No prefix is assumed: the layers in the middle may settle last (Hallmarks, sec. 5). A group has settled once its own
remaining relative displacement is forecast under a threshold, and is no longer settled when it is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trajmon_server.signals.base import LAGS, Ahead, Observation
from trajmon_server.signals.forecast import Forecast, ScopeUpdate, forecast
from trajmon_server.signals.schedule import ROUNDING, has_schedule, look_ahead, rate_behind
from trajmon_server.signals.track import Track, follow

__all__ = ["GroupSettling", "SettlingState", "init", "order", "update"]

DOUBT = 1.0
THRESHOLD = 0.1
WINDOW = max(LAGS) + 4


@dataclass(frozen=True, slots=True)
class GroupSettling:
    """One group as of the newest checkpoint."""

    recent: tuple[ScopeUpdate, ...] = ()
    outlook: Forecast | None = None
    """None where nothing can be said."""
    settled_since: int | None = None
    """Checkpoint from which on the upper end of the forecast was under the threshold without a break."""


@dataclass(frozen=True, slots=True)
class SettlingState:
    """All groups of a run."""

    track: Track = field(default_factory=Track)
    groups: Mapping[str, GroupSettling] = field(default_factory=dict)
    ahead: Ahead | None = None
    """The plan as of the checkpoint before."""


def init() -> SettlingState:
    """Before the first checkpoint."""
    return SettlingState()


def update(state: SettlingState, seen: Observation) -> SettlingState:
    """With one more checkpoint. After broken data no group is settled until a whole window is there again."""
    track, problem = follow(state.track, seen)
    if problem is not None or not track.unbroken:
        return SettlingState(track, {}, seen.ahead)
    rate = rate_behind(track, seen, state.ahead)
    usable = 0 < rate < math.inf and (seen.ahead is None or seen.ahead.is_possible)
    groups = {}
    for name, group in seen.groups.items():
        before = state.groups.get(name, GroupSettling())
        one = ScopeUpdate(group.update_squared, group.update_dot, group.lagged_dots, rate, track.steps)
        # What stands still has no direction: it is not called settled, it is not judged.
        moves = usable and group.update_squared > 0
        moved = replace(before, recent=(*before.recent, one)[-WINDOW:] if moves else ())
        outlook = None
        rises = (
            bool(moved.recent)
            and not has_schedule(seen)
            and rate > min(update.rate for update in moved.recent) * (1 + ROUNDING)
        )
        if len(moved.recent) == WINDOW and not rises:
            horizon = look_ahead(track, seen, rate)
            outlook = forecast(moved.recent, group.displacement_squared, horizon, DOUBT)
        settled = outlook is not None and outlook.high < THRESHOLD
        since = before.settled_since if settled else None
        if settled and since is None:
            since = seen.checkpoint
        groups[name] = replace(moved, outlook=outlook, settled_since=since)
    return SettlingState(track, groups, seen.ahead)


def order(state: SettlingState) -> tuple[str, ...]:
    """Names of the settled groups, the one that settled first in front; by forecast where they settled together."""
    settled = [
        (group.settled_since, group.outlook.remaining, name)
        for name, group in state.groups.items()
        if group.settled_since is not None and group.outlook is not None
    ]
    return tuple(name for _, _, name in sorted(settled))
