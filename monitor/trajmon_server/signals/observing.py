"""From what is known of a checkpoint to what a policy sees: one way for a live run and for a recorded one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trajmon_server.hallmarks.stream import GramRow
from trajmon_server.signals.base import LAGS, Ahead, GroupObservation, Observation

__all__ = ["observe", "observe_group"]


def observe_group(
    row: GramRow, displacement_squared: float, lagged_dots: Mapping[int, float]
) -> GroupObservation:
    """Of one group or layer; `lagged_dots` by lag, as :func:`trajmon_server.hallmarks.stream_lags.lagged_dots`."""
    return GroupObservation(
        update_squared=row.update_squared,
        update_dot=row.update_dot,
        displacement_squared=displacement_squared,
        lagged_dots=tuple(lagged_dots.get(lag, math.nan) for lag in LAGS),
    )


def observe(
    *,
    checkpoint: int,
    previous: int | None,
    step: int | None,
    finite: bool,
    complete: bool,
    learning_rate: float | None,
    network: GroupObservation,
    norm_squared: float,
    hallmarks: Mapping[str, float],
    groups: Mapping[str, GroupObservation],
    objective: float,
    objective_floor: float,
    objective_tolerance: float,
    ahead: Ahead | None,
) -> Observation:
    """Of a checkpoint. Everything has to be said: what only one of the two ways knew would be seen by that one alone.

    `hallmarks` of the network, as of this checkpoint; `norm_squared` is ‖θ_t‖².
    """
    # No age: what a row says must not depend on when it is analysed. Staleness is judged when advice is read.
    return Observation(
        checkpoint=checkpoint,
        previous=previous,
        step=step,
        finite=finite,
        complete=complete,
        age_seconds=None,
        learning_rate=learning_rate,
        update_squared=network.update_squared,
        update_dot=network.update_dot,
        displacement_squared=network.displacement_squared,
        mds=hallmarks.get("mds", math.nan),
        relative_mds=hallmarks.get("relative_mds", math.nan),
        norm_squared=norm_squared,
        lagged_dots=network.lagged_dots,
        objective=objective,
        objective_floor=objective_floor,
        objective_tolerance=objective_tolerance,
        ahead=ahead,
        groups=groups,
    )
