"""The default's next version: plan, interval, power of the norm scalars, objective."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monitor.signals.paths import Points, drifting, observed  # noqa: TID251 # tests/monitor
from trajmon_server.signals import Advice, AdviceState, Ahead, GroupObservation, Observation, make_policy
from trajmon_server.signals.remaining_displacement_2 import RemainingDisplacement2Policy

CONSTANT = np.full(60, 0.1)


def follow(seen: list[Observation], **settings: float) -> list[Advice]:
    policy = make_policy("remaining_displacement/2", settings)
    state, said = policy.init(), []
    for observation in seen:
        state, advice = policy.update(state, observation)
        said.append(advice)
    return said


def words(said: list[Advice]) -> list[str]:
    return [advice.state.value for advice in said]


def first(said: list[Advice]) -> int | None:
    return next((advice.checkpoint for advice in said if advice.switch), None)


def powerful(seen: list[Observation], share: float = 0.05) -> list[Observation]:
    """The same with a group `norm` that has this share in the squared updates."""
    return [
        replace(one, groups={"norm": GroupObservation(share * one.update_squared, math.nan, math.nan)})
        for one in seen
    ]


@pytest.fixture
def straight() -> Points:
    """41 checkpoints on a line."""
    return drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=np.full(40, 0.1))


def test_on_a_straight_line_it_switches_when_a_tenth_is_left(straight: Points) -> None:
    said = follow(powerful(observed(straight, CONSTANT[:40], total=40)))
    # What is left is (40 - t) / t of the way so far: under 0.1 from 37 on; confirmed at 38.
    assert words(said)[36:] == ["explore", "candidate", "switch", "switch", "switch"]
    assert said[36].evidence["forecast_remaining_displacement"] == pytest.approx(4 / 36, rel=1e-6)
    assert said[38].reason == (
        "By the planned end the parameters would move by about 5.3% (5.3% to 5.3%) of their distance from the "
        "initialization, 0.0% of it a random walk; training only the normalisation scalars should cost little. "
        "A lower end over 20.0% would take this back."
    )
    assert said[20].reason == (
        "By the planned end the parameters would move by about 100.0% (100.0% to 100.0%) of their distance from the "
        "initialization, 0.0% of it a random walk. Train all parameters: a switch needs the upper end under 10.0%, "
        "10.0 times less than now."
    )
    assert said[37].reason.endswith("under the threshold of 10.0%; waiting for confirmation.")


def test_without_a_plan_training_goes_on_as_long_again(straight: Points) -> None:
    said = follow(powerful(observed(straight, CONSTANT[:40])))
    assert said[-1].evidence["forecast_remaining_displacement"] == pytest.approx(1.0, rel=1e-6)
    assert said[-1].reason.startswith(
        "If training went on as long again the parameters would move by about 100.0%"
    )
    assert "switch" not in words(said)


def test_steps_ahead_without_their_rates_go_on_at_the_current_one(straight: Points) -> None:
    seen = powerful(observed(straight, CONSTANT[:40], total=40))
    only_steps = [replace(one, ahead=Ahead(one.ahead.steps)) for one in seen if one.ahead is not None]
    assert words(follow(only_steps)) == words(follow(seen))


def test_a_schedule_ahead_is_used_before_it_comes() -> None:
    rates = np.r_[np.full(20, 0.1), np.full(20, 0.001)]
    points = drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=rates)
    planned = follow(powerful(observed(points, rates, total=40)))
    # At 20 the way so far is 2, the way ahead 0.02: the drop has not happened yet.
    assert planned[20].evidence["forecast_remaining_displacement"] == pytest.approx(0.01, rel=1e-6)
    assert first(planned) == 20
    assert first(follow(powerful(observed(points, rates)))) == 22


def test_while_the_rate_rises_only_a_schedule_gives_a_forecast() -> None:
    rates = np.r_[np.linspace(0.01, 0.1, 20), np.full(20, 0.1)]
    points = drifting(41, 30, drift=1.0, noise=0.1, seed=0, rates=rates)
    said = follow(observed(points, rates))
    assert said[15].reason.startswith("The learning rate has risen and its schedule is not known")
    assert said[15].state is AdviceState.UNKNOWN
    assert follow(observed(points, rates, total=40))[15].state is AdviceState.EXPLORE


def test_a_plan_that_cannot_be_gives_no_advice(straight: Points) -> None:
    seen = powerful(observed(straight, CONSTANT[:40], total=40))
    for plan in (
        Ahead(-1),
        Ahead(3, -0.1, 0.1),
        Ahead(3, math.inf, 0.1),
        Ahead(3, 0.3, math.nan),
        Ahead(3, math.nan, 0.3),
        Ahead(3, 0.3, 0.01),
        Ahead(0, 0.3, 0.1),
    ):
        broken = [*seen[:38], replace(seen[38], ahead=plan)]
        said = follow(broken)
        assert said[38].state is AdviceState.UNKNOWN
        assert said[38].reason == "The plan as of checkpoint 38 is impossible. No advice."
    assert follow(seen)[38].switch


def test_a_finished_plan_leaves_nothing(straight: Points) -> None:
    said = follow(powerful(observed(straight, CONSTANT[:40], total=40)))
    assert said[40].evidence["forecast_high"] == 0


def test_the_upper_end_decides_on_a_switch_and_the_lower_on_taking_it_back() -> None:
    points = drifting(41, 400, drift=1.0, noise=1.0, seed=3, rates=np.full(40, 0.1))
    seen = powerful(observed(points, CONSTANT[:40], total=40))
    sure, doubtful = follow(seen, doubt=0.0), follow(seen, doubt=100.0)
    assert first(sure) is not None
    assert (first(doubtful) or 41) > (first(sure) or 0)
    for advice in doubtful[9:]:
        assert advice.evidence["forecast_low"] <= advice.evidence["forecast_remaining_displacement"]
        assert advice.evidence["forecast_remaining_displacement"] <= advice.evidence["forecast_high"]
        if advice.switch:
            assert advice.evidence["forecast_high"] < 0.1


def test_only_a_lower_end_over_the_other_threshold_takes_a_switch_back() -> None:
    points = drifting(41, 400, drift=1.0, noise=1.0, seed=3, rates=np.full(40, 0.1))
    seen = powerful(observed(points, CONSTANT[:40], total=40))[:40]
    said = {}
    for steps in range(1, 40):
        # Plans grow: the same checkpoint with more of the way ahead.
        last = follow([*seen[:39], replace(seen[39], ahead=Ahead(steps))], doubt=10.0)
        assert last[38].switch
        low, high = (last[39].evidence[end] for end in ("forecast_low", "forecast_high"))
        said[low > 0.2, high > 0.2] = last[39]
    assert {ends: advice.state.value for ends, advice in said.items()} == {
        (False, False): "switch",
        (False, True): "switch",
        (True, True): "resume",
    }
    assert said[True, True].reason.endswith(
        "a random walk: train everything again, until the upper end is under 10.0%."
    )


@pytest.mark.parametrize(
    ("share", "threshold"),
    [(0.5, 0.1), (0.01, 0.1), (0.005, 0.05), (1e-4, 0.025), (math.nan, 0.025), (1.5, 0.025)],
)
def test_less_power_of_the_norm_scalars_asks_for_a_smaller_forecast(
    straight: Points, share: float, threshold: float
) -> None:
    said = follow(powerful(observed(straight, CONSTANT[:40], total=40), share))
    assert said[-1].evidence["threshold"] == pytest.approx(threshold)
    # Under 0.1 from 37 on, under 0.05 from 39 on, under 0.025 at 40 only.
    assert first(said) == {0.1: 38, 0.05: 40, 0.025: None}[threshold]


def test_without_a_group_norm_the_threshold_is_the_smallest(straight: Points) -> None:
    said = follow(observed(straight, CONSTANT[:40], total=40))
    assert said[-1].evidence["threshold"] == pytest.approx(0.025)
    assert "norm_update_share" not in said[-1].evidence


def test_the_share_is_that_of_the_vectors() -> None:
    points = drifting(41, 30, drift=1.0, noise=2.0, seed=0)
    said = follow(observed(points, layers={"norm": slice(0, 5)}))
    updates = np.diff(points, axis=0)[-8:]
    assert said[-1].evidence["norm_update_share"] == pytest.approx(
        np.sum(updates[:, :5] ** 2) / np.sum(updates**2)
    )


def falling(seen: list[Observation], rate: float, tolerance: float = 0.01) -> list[Observation]:
    return [
        replace(one, objective=1.0 - rate * one.checkpoint, objective_tolerance=tolerance) for one in seen
    ]


def test_an_objective_that_still_falls_holds_a_switch_back_where_norm_scalars_are_weak() -> None:
    quiet = observed(
        drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=np.r_[np.full(10, 1.0), np.full(30, 1e-4)])
    )
    seen = [replace(one, learning_rate=1.0, ahead=Ahead(40 - one.checkpoint)) for one in quiet]
    assert first(follow(seen)) is not None
    # 0.1 at each checkpoint, 0.75 of it beyond the power of the norm scalars, over what is ahead.
    said = follow(falling(seen, 0.001))
    assert said[30].evidence["objective_still_to_gain"] == pytest.approx(0.01)
    assert first(said) == 28
    assert said[25].state is AdviceState.EXPLORE
    assert said[25].reason.endswith("the objective still falls by more than a switch may cost.")
    assert first(follow(powerful(falling(seen, 0.001)))) == first(follow(seen))
    assert first(follow(falling(seen, -0.001))) == first(follow(seen))


@pytest.mark.parametrize("wild", [math.inf, -math.inf])
def test_an_objective_of_which_too_little_is_known_is_a_doubt(wild: float) -> None:
    quiet = observed(
        drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=np.r_[np.full(10, 1.0), np.full(30, 1e-4)])
    )
    seen = [replace(one, learning_rate=1.0, ahead=Ahead(40 - one.checkpoint)) for one in quiet]
    assert first(follow([replace(one, objective=wild, objective_tolerance=0.01) for one in seen])) is None
    rare = [
        replace(one, objective=0.5 if one.checkpoint % 7 == 0 else math.nan, objective_tolerance=0.01)
        for one in seen
    ]
    assert first(follow(rare)) is None
    often = [
        replace(one, objective=0.5 if one.checkpoint % 2 == 0 else math.nan, objective_tolerance=0.01)
        for one in seen
    ]
    assert first(follow(often)) == first(follow(seen))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"threshold": 0.3},
            "threshold and resume_threshold must be in this order between 0 and inf, not 0.3 and 0.2",
        ),
        ({"threshold": math.nan}, "must be in this order"),
        ({"confirmations": 0}, "confirmations must be at least 1, not 0"),
        ({"window": 5}, "window must be at least 6 updates, not 5"),
        ({"doubt": -1.0}, "doubt must be 0 or more, not -1"),
        ({"least_power": 0.0}, "full_power_share and least_power must be over 0 and at most 1"),
        ({"full_power_share": 2.0}, "full_power_share and least_power must be over 0 and at most 1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemainingDisplacement2Policy(**changes)
