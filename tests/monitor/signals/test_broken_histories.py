"""No policy says `switch` out of missing or broken data, in thousands of generated histories; each is deterministic.

TRAJMON_HISTORIES says how many the default gets, `make switch-bench` asks for 100 000.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.signals import (
    POLICIES,
    Advice,
    AdviceState,
    Ahead,
    GroupObservation,
    Observation,
    make_policy,
)
from trajmon_server.signals.base import LAGS
from trajmon_server.signals.settling import init as settling_init
from trajmon_server.signals.settling import order
from trajmon_server.signals.settling import update as settle

DEFAULT = "remaining_displacement/2"
HISTORIES = 2_000
DEFAULT_HISTORIES = int(os.environ.get("TRAJMON_HISTORIES", "14300"))
LENGTH = 13
STALE_SECONDS = 3600.0

EASY: dict[str, dict[str, float]] = {
    "remaining_displacement/1": {},
    "remaining_displacement/2": {"doubt": 0.1},
    "mds_threshold/1": {"threshold": 0.5, "resume_threshold": 0.1},
    "look_back_cosine/1": {"threshold": 1e-2, "resume_threshold": 0.1},
    "planned_fraction/1": {"threshold": 0.1},
    "update_norm_change/1": {"threshold": 2.0, "resume_threshold": 5.0},
    "effective_perturbation/1": {"threshold": 0.9, "resume_threshold": 0.95},
}
"""Settings under which healthy histories often end in a switch, so that the property is not empty."""

UPDATES: dict[str, int] = {
    "remaining_displacement/1": 4,
    "remaining_displacement/2": 8,
    "mds_threshold/1": 2,
    "look_back_cosine/1": 2,
    "planned_fraction/1": 1,
    "update_norm_change/1": 2,
    "effective_perturbation/1": 5,
}
"""How many sound updates in a row the least switch rests on."""

WILD = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 1e-308, 5e-324)
FIELDS = (
    "update_squared",
    "update_dot",
    "displacement_squared",
    "norm_squared",
    "learning_rate",
    "age_seconds",
    "mds",
    "objective",
    "objective_tolerance",
)
DAMAGES: tuple[dict[str, Any], ...] = (
    {"finite": False},
    {"complete": False},
    {"previous": 77},
    {"previous": None},
    {"step": 0},
    {"step": -5},
    {"age_seconds": 7200.0},
    {"lagged_dots": ()},
    {"lagged_dots": (math.nan,) * 3},
    {"lagged_dots": (math.inf,) * 3},
    {"ahead": Ahead(-1)},
    {"ahead": Ahead(5, math.inf, 1.0)},
    {"ahead": Ahead(5, 1.0, 1e-9)},
    {"groups": {}},
    {"groups": {"norm": GroupObservation(math.nan, math.nan, math.nan)}},
    {"groups": {"norm": GroupObservation(math.inf, math.inf, math.inf)}},
    {"groups": {"norm": GroupObservation(-1.0, 0.0, 0.0)}},
    {"update_squared": math.nan, "update_dot": math.nan, "displacement_squared": math.nan, "finite": False},
    {"update_squared": 0.0, "update_dot": 0.0, "lagged_dots": (0.0,) * 3},
)


def histories(count: int, seed: int) -> Iterator[list[Observation]]:
    """Settled and unsettled trainings; numbers drawn at once, then damaged, left out, doubled and put out of order."""
    rng = np.random.default_rng(seed)
    shape = (count, LENGTH)
    lengths: NDArray[np.float64] = 10.0 ** rng.uniform(
        -5, rng.choice([-3.5, -0.5], size=(count, 1)), size=shape
    )
    cosines = rng.uniform(-1, 1, size=(*shape, 4))
    mds = rng.uniform(0.4, 1.0, size=shape)
    damaged = rng.random(shape) < rng.choice([0.0, 0.03, 0.2, 0.6], size=(count, 1))
    kinds = rng.integers(len(DAMAGES) + len(FIELDS) * len(WILD), size=shape)
    shuffles = rng.random(count)
    places = rng.integers(LENGTH, size=(count, 2))
    for h in range(count):
        history = [_healthy(t, lengths[h], cosines[h, t], float(mds[h, t])) for t in range(LENGTH)]
        for t in np.flatnonzero(damaged[h]):
            history[t] = _damage(history[t], int(kinds[h, t]))
        first, second = (int(place) for place in places[h])
        if shuffles[h] < 0.15:
            history[first], history[second] = history[second], history[first]
        elif shuffles[h] < 0.3:
            history.insert(second, history[first])
        elif shuffles[h] < 0.45:
            del history[min(first, second) : max(first, second)]
        elif shuffles[h] < 0.55:
            history = history[: second + 1]
        yield history


def _healthy(t: int, lengths: NDArray[np.float64], cosines: NDArray[np.float64], mds: float) -> Observation:
    size = float(lengths[t])
    dots = [
        float(cosines[k]) * size * float(lengths[t - lag]) if t > lag else math.nan
        for k, lag in enumerate((1, *LAGS))
    ]
    norm = GroupObservation(0.1 * size * size, dots[0], 0.1)
    return Observation(
        checkpoint=t,
        previous=t - 1 if t else None,
        step=10 * t,
        finite=True,
        complete=True,
        age_seconds=1.0,
        learning_rate=0.1,
        update_squared=size * size if t else math.nan,
        update_dot=dots[0],
        displacement_squared=1.0 if t else 0.0,
        mds=mds,
        norm_squared=2.0,
        lagged_dots=tuple(dots[1:]),
        objective=1.0 + 1e-9 * (t % 2),
        objective_tolerance=0.01,
        ahead=Ahead(10 * (LENGTH - t), (LENGTH - t) * 1.0, (LENGTH - t) * 0.1),
        groups={"norm": norm},
    )


def _damage(seen: Observation, kind: int) -> Observation:
    if kind < len(DAMAGES):
        return replace(seen, **DAMAGES[kind])
    field, wild = divmod(kind - len(DAMAGES), len(WILD))
    return replace(seen, **dict[str, Any]({FIELDS[field]: WILD[wild]}))


def follow(name: str, history: list[Observation]) -> list[Advice]:
    policy = make_policy(name, EASY[name])
    state, said = policy.init(), []
    for observation in history:
        state, advice = policy.update(state, observation)
        said.append(advice)
    return said


def sound(seen: Observation, before: Observation) -> bool:
    """The rule written again, without a look at the policies."""
    return (
        seen.finite
        and seen.complete
        and seen.previous == before.checkpoint
        and 0 < seen.update_squared < math.inf
        and 0 < seen.displacement_squared < math.inf
        and seen.step is not None
        and before.step is not None
        and seen.step > before.step
    )


def usable(name: str, last: list[Observation]) -> bool:
    """Whether the fields that this policy alone needs are there in the observations of its last updates."""
    rates_known = all(one.learning_rate is None or 0 < one.learning_rate < math.inf for one in last)
    dots_known = all(math.isfinite(one.update_dot) for one in last[1:])
    newest = last[-1]
    match name:
        case "remaining_displacement/1":
            return rates_known and dots_known
        case "remaining_displacement/2":
            plan = newest.ahead is None or newest.ahead.is_possible
            # Lagged products need not be known: consecutive ones serve then.
            # At a rate of 0 the plan says what it was on the way.
            rates = all(one.learning_rate is None or 0 <= one.learning_rate < math.inf for one in last)
            return rates and dots_known and plan
        case "mds_threshold/1":
            return math.isfinite(newest.mds)
        case "look_back_cosine/1":
            return all(0 < one.norm_squared < math.inf for one in last)
        case "planned_fraction/1":
            return newest.ahead is not None and newest.ahead.is_possible
        case "update_norm_change/1":
            return rates_known
        case _:
            reach = [(one.update_dot, *one.lagged_dots)[:i] for i, one in enumerate(last)]
            return all(len(dots) == i and all(map(math.isfinite, dots)) for i, dots in enumerate(reach))


def objective_known(history: list[Observation]) -> bool:
    """Whether enough objectives are known on the unbroken path to the end, and what a switch may cost.

    They are finite since the last learning rate that is none: across it there is no distance.
    """
    path = [history[-1]]
    rated = True
    since = 1
    for before, seen in zip(history[-2::-1], history[:0:-1], strict=True):
        if not sound(seen, before):
            break
        rated = rated and seen.learning_rate is not None and 0 < seen.learning_rate < math.inf
        path.append(before)
        since += rated
    known = [one.objective for one in path if not math.isnan(one.objective)]
    lately = [one.objective for one in path[:since] if not math.isnan(one.objective)]
    return len(known) >= 6 and all(map(math.isfinite, lately)) and history[-1].objective_tolerance > 0


def fresh(seen: Observation) -> bool:
    return seen.age_seconds is None or seen.age_seconds <= STALE_SECONDS


@pytest.mark.parametrize("name", POLICIES)
def test_never_a_switch_out_of_broken_data(name: str) -> None:
    switches = recovered = 0
    needed = UPDATES[name]
    count = DEFAULT_HISTORIES if name == DEFAULT else HISTORIES
    for number, history in enumerate(histories(count, seed=len(name))):
        said = follow(name, history)
        if number < 300:
            assert repr(said) == repr(follow(name, history))
        broken_before = False
        for i, advice in enumerate(said):
            assert advice.checkpoint == history[i].checkpoint
            assert advice.reason
            assert all(map(math.isfinite, advice.evidence.values()))
            if advice.state is AdviceState.UNKNOWN:
                assert advice.reason.endswith("No advice.")
                broken_before |= i > needed
            if advice.switch:
                switches += 1
                recovered += broken_before
                assert i >= needed
                assert history[0].previous is None
                assert history[0].finite
                assert history[0].complete
                last = history[i - needed + 1 : i + 1]
                assert all(sound(seen, history[j]) for j, seen in enumerate(last, start=i - needed))
                assert usable(name, last)
                assert fresh(history[i])
                if name == DEFAULT and not said[i - 1].switch:
                    # One that was said holds until the parameters move again.
                    assert objective_known(history[: i + 1])
    # Many of these histories do end in a switch, some of them after damage.
    assert switches > count / 20
    assert recovered > count / 1000


@pytest.mark.parametrize("name", POLICIES)
def test_two_checkpoints_and_constant_parameters_never_switch(name: str) -> None:
    healthy = next(history for history in histories(50, seed=1) if len(history) == LENGTH)
    if name != "planned_fraction/1":
        assert not any(advice.switch for advice in follow(name, healthy[:2]))
    still = [
        replace(one, update_squared=0.0, update_dot=0.0, lagged_dots=(0.0,) * 3, displacement_squared=0.0)
        for one in healthy
    ]
    assert {advice.state for advice in follow(name, still)[1:]} == {AdviceState.UNKNOWN}
    gone = [replace(one, update_squared=math.nan, displacement_squared=math.nan) for one in healthy]
    assert {advice.state for advice in follow(name, gone)[1:]} == {AdviceState.UNKNOWN}


@pytest.mark.parametrize("name", POLICIES)
def test_states_are_never_changed_in_place(name: str) -> None:
    policy = make_policy(name, EASY[name])
    state = policy.init()
    for observation in next(history for history in histories(50, seed=2) if len(history) == LENGTH):
        before = repr(state)
        after, advice = policy.update(state, observation)
        assert repr(state) == before
        assert policy.update(state, observation)[1] == advice
        state = after


def test_groups_never_raise_and_never_settle_out_of_broken_data() -> None:
    settled = 0
    for history in histories(2000, seed=3):
        state = settling_init()
        for i, observation in enumerate(history):
            state = settle(state, observation)
            if order(state):
                settled += 1
                last = history[i - 7 : i + 1]
                assert i >= 8
                assert all(sound(seen, history[j]) for j, seen in enumerate(last, start=i - 8))
                assert all(math.isfinite(one.groups["norm"].update_dot) for one in last[1:])
    assert settled > 100
