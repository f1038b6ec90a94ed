"""Which groups have settled, and in which order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from monitor.signals.paths import observed  # noqa: TID251 # tests/monitor
from trajmon_server.signals import Observation
from trajmon_server.signals.settling import THRESHOLD, WINDOW, SettlingState, init, order, update

LAYERS = {"layer:in": slice(0, 10), "layer:middle": slice(10, 20), "layer:out": slice(20, 30)}


def three_layers(stops: tuple[int, int, int], checkpoints: int = 41) -> list[Observation]:
    """Each layer goes straight until its stop, and a thousandth as fast afterwards."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 10))
    speeds = np.array([[1.0 if t < stop else 1e-3 for stop in stops] for t in range(checkpoints - 1)])
    updates = (speeds[:, :, None] * directions).reshape(checkpoints - 1, 30)
    points = np.vstack([np.zeros(30), np.cumsum(updates, axis=0)])
    return observed(points, total=checkpoints - 1, layers=LAYERS)


def fold(seen: list[Observation]) -> list[SettlingState]:
    states = [init()]
    for observation in seen:
        states.append(update(states[-1], observation))
    return states[1:]


def test_the_middle_may_settle_last() -> None:
    states = fold(three_layers((5, 25, 15)))
    assert order(states[WINDOW - 1]) == ()
    assert order(states[18]) == ("layer:in",)
    assert order(states[30]) == ("layer:in", "layer:out")
    assert order(states[40]) == ("layer:in", "layer:out", "layer:middle")
    settled = {name: group.settled_since for name, group in states[40].groups.items()}
    # A window after each stop the fast updates are forgotten; the plan ends at 40, so a little before that.
    assert settled["layer:in"] is not None
    assert 10 <= settled["layer:in"] <= 5 + WINDOW
    assert settled["layer:out"] is not None
    assert 17 <= settled["layer:out"] <= 15 + WINDOW
    for state in states:
        for group in state.groups.values():
            assert (group.settled_since is None) == (group.outlook is None or group.outlook.high >= THRESHOLD)


def test_those_that_settle_together_are_ordered_by_what_remains() -> None:
    seen = three_layers((5, 5, 5))
    state = fold(seen)[-1]
    remaining = [state.groups[name].outlook for name in order(state)]
    assert len(remaining) == 3
    values = [outlook.remaining for outlook in remaining if outlook is not None]
    assert values == sorted(values)


def test_a_group_that_moves_again_is_no_longer_settled() -> None:
    rng = np.random.default_rng(0)
    updates = np.r_[np.ones(5), np.full(15, 1e-3), np.full(10, 2.0)][:, None] * rng.normal(size=10)
    points = np.vstack([np.zeros(10), np.cumsum(updates, axis=0)])
    states = fold(observed(points, total=60, layers={"layer:one": slice(0, 10)}))
    assert order(states[20]) == ("layer:one",)
    assert order(states[-1]) == ()


def test_broken_data_and_standing_still_settle_nothing() -> None:
    seen = three_layers((5, 25, 15))
    for broken in (
        replace(seen[30], finite=False),
        replace(seen[30], complete=False),
        replace(seen[30], previous=28),
        replace(seen[30], update_squared=math.nan),
    ):
        states = fold([*seen[:30], broken, *seen[31:]])
        assert order(states[29]) == ("layer:in", "layer:out")
        assert all(order(state) == () for state in states[30 : 30 + WINDOW])
        assert order(states[40]) != ()
    still = {
        name: replace(group, update_squared=0.0, update_dot=0.0) for name, group in seen[30].groups.items()
    }
    assert order(fold([*seen[:30], replace(seen[30], groups=still)])[-1]) == ()
    unknown = {name: replace(group, update_dot=math.nan) for name, group in seen[30].groups.items()}
    assert order(fold([*seen[:30], replace(seen[30], groups=unknown)])[-1]) == ()
    assert order(fold([replace(one, groups={}) for one in seen])[-1]) == ()


def test_a_rate_that_rises_without_a_schedule_settles_nothing() -> None:
    seen = [replace(one, ahead=None, learning_rate=0.1) for one in three_layers((5, 5, 5))]
    assert len(order(fold(seen)[-1])) == 3
    assert order(fold([*seen[:-1], replace(seen[-1], learning_rate=0.2)])[-1]) == ()
    assert order(fold([*seen[:-1], replace(seen[-1], learning_rate=math.nan)])[-1]) == ()
