"""The default policy: plan, interval, what full training would still gain, noise of a rate about to fall."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monitor.signals.paths import Points, drifting, observed  # noqa: TID251 # tests/monitor
from trajmon_server.signals import Advice, AdviceState, Ahead, Observation, make_policy
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


def told(
    seen: list[Observation], objective: Callable[[int], float] = lambda _: 0.5, tolerance: float = 0.01
) -> list[Observation]:
    """The same with an objective by checkpoint; at rest unless said otherwise."""
    # No two measurements have the same bits.
    return [
        replace(
            one,
            objective=objective(one.checkpoint) + 1e-12 * (one.checkpoint % 11),
            objective_tolerance=tolerance,
        )
        for one in seen
    ]


@pytest.fixture
def straight() -> Points:
    """41 checkpoints on a line."""
    return drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=np.full(40, 0.1))


def test_on_a_straight_line_it_switches_when_less_than_a_quarter_is_left(straight: Points) -> None:
    said = follow(told(observed(straight, CONSTANT[:40], total=40)))
    # What is left is (40 - t) / t of the way so far: a quarter at 32, less from 33 on; confirmed at 34.
    assert words(said)[31:36] == ["explore", "explore", "candidate", "switch", "switch"]
    assert said[36].evidence["forecast_remaining_displacement"] == pytest.approx(4 / 36, rel=1e-6)
    assert said[38].reason == (
        "By the planned end the parameters would move by about 5.3% (5.3% to 5.3%) of their distance from the "
        "initialization, 0.0% of it a random walk. Training only the normalisation scalars should cost little. "
        "A lower end over 50.0% would take this back."
    )
    assert said[20].reason == (
        "By the planned end the parameters would move by about 100.0% (100.0% to 100.0%) of their distance from the "
        "initialization, 0.0% of it a random walk. Train all parameters. A switch needs the upper end under 25.0%, "
        "4.0 times less than now."
    )
    assert said[33].reason.endswith("That is little enough for a switch; waiting for confirmation.")


def test_without_an_objective_next_to_nothing_may_be_left(straight: Points) -> None:
    blind = follow(observed(straight, CONSTANT[:40], total=40))
    assert blind[39].evidence["threshold"] == 0.03
    # At 39 of 40 it is 2.6 per cent, confirmed at the end.
    assert first(blind) == 40
    assert (
        first(follow(observed(straight, CONSTANT[:40], total=40), blind_threshold=0.03, confirmations=1))
        == 39
    )


def test_without_a_plan_training_goes_on_as_long_again(straight: Points) -> None:
    said = follow(told(observed(straight, CONSTANT[:40])))
    assert said[-1].evidence["forecast_remaining_displacement"] == pytest.approx(1.0, rel=1e-6)
    assert said[-1].reason.startswith(
        "If training went on as long again the parameters would move by about 100.0%"
    )
    assert "switch" not in words(said)


def test_without_plan_and_objective_a_forecast_of_twice_the_run_decides() -> None:
    said = follow(
        observed(
            drifting(
                60, 30, drift=1.0, noise=0.0, seed=0, rates=np.power(0.8, np.arange(59, dtype=np.float64))
            )
        )
    )
    # The updates shrink by a fifth; that is taken to be over, so the last one times the number of updates is ahead.
    signal = first(said)
    assert signal is not None
    assert said[signal].evidence["threshold"] == 0.15
    assert said[signal - 2].evidence["forecast_high"] >= 0.15 > said[signal - 1].evidence["forecast_high"]


def test_steps_ahead_without_their_rates_go_on_at_the_current_one(straight: Points) -> None:
    seen = told(observed(straight, CONSTANT[:40], total=40))
    only_steps = [replace(one, ahead=Ahead(one.ahead.steps)) for one in seen if one.ahead is not None]
    assert words(follow(only_steps)) == words(follow(seen))


def test_a_fall_of_the_rate_is_waited_for_and_settles() -> None:
    rates = np.r_[np.full(20, 0.1), np.full(20, 0.001)]
    points = drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=rates)
    said = follow(told(observed(points, rates, total=40)))
    # At 20 the way so far is 2, the way ahead 0.02: the fall has not happened yet.
    assert said[20].evidence["forecast_remaining_displacement"] == pytest.approx(0.01, rel=1e-6)
    assert said[20].evidence["rate_ahead_ratio"] == pytest.approx(0.01)
    assert said[20].reason.endswith(
        "Train all parameters. The learning rate is about to fall, to 1% of what it is now on average: a switch "
        "before that would freeze the noise of the present rate."
    )
    assert said[22].reason.endswith(
        "The learning rate has just changed: a switch needs 4 updates at about the new one."
    )
    # Four updates at the new rate at 24, confirmed at 25.
    assert words(said)[19:26] == ["explore"] * 5 + ["candidate", "switch"]
    assert first(follow(told(observed(points, rates, total=40)), rate_fall=0.0, settling=3)) == 18


def test_a_second_fall_does_not_take_a_switch_back() -> None:
    rates = np.r_[np.full(15, 0.1), np.full(15, 0.001), np.full(10, 1e-5)]
    points = drifting(41, 30, drift=1.0, noise=0.3, seed=0, rates=rates)
    said = words(follow(told(observed(points, rates, total=40))))
    assert said[20:] == ["switch"] * 21


def test_after_a_fall_only_updates_at_the_new_rate_are_believed() -> None:
    rates = np.r_[np.full(20, 0.1), np.full(20, 0.001)]
    points = drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=rates)
    # At the low rate the drift per unit of rate is three times as large.
    points[21:] = points[20] + 3 * (points[21:] - points[20])
    said = follow(told(observed(points, rates, total=40)))
    left = np.linalg.norm(points[40] - points[24]) / np.linalg.norm(points[24] - points[0])
    assert said[24].evidence["forecast_remaining_displacement"] == pytest.approx(left, rel=1e-6)
    assert said[22].evidence["forecast_remaining_displacement"] < 0.9 * left


def test_while_the_rate_rises_only_a_schedule_gives_a_forecast() -> None:
    rates = np.r_[np.linspace(0.01, 0.1, 20), np.full(20, 0.1)]
    points = drifting(41, 30, drift=1.0, noise=0.1, seed=0, rates=rates)
    said = follow(observed(points, rates))
    assert said[15].reason.startswith("The learning rate has risen and its schedule is not known")
    assert said[15].state is AdviceState.UNKNOWN
    assert follow(observed(points, rates, total=40))[15].state is AdviceState.EXPLORE


def test_a_plan_that_cannot_be_gives_no_advice(straight: Points) -> None:
    seen = told(observed(straight, CONSTANT[:40], total=40))
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
    said = follow(told(observed(straight, CONSTANT[:40], total=40)))
    assert said[40].evidence["forecast_high"] == 0
    assert said[40].evidence["expected_gain_high"] == 0


def test_the_upper_end_decides_on_a_switch_and_the_lower_on_taking_it_back() -> None:
    points = drifting(41, 400, drift=1.0, noise=1.0, seed=3, rates=np.full(40, 0.1))
    seen = told(observed(points, CONSTANT[:40], total=40))
    sure, doubtful = follow(seen, doubt=0.0), follow(seen, doubt=100.0)
    assert first(sure) is not None
    assert (first(doubtful) or 41) > (first(sure) or 0)
    for advice in doubtful[9:]:
        assert advice.evidence["forecast_low"] <= advice.evidence["forecast_remaining_displacement"]
        assert advice.evidence["forecast_remaining_displacement"] <= advice.evidence["forecast_high"]
        if advice.switch:
            assert advice.evidence["forecast_high"] < 0.25


def test_only_a_lower_end_over_the_other_threshold_takes_a_switch_back() -> None:
    points = drifting(41, 400, drift=1.0, noise=1.0, seed=3, rates=np.full(40, 0.1))
    seen = told(observed(points, CONSTANT[:40], total=40))[:40]
    said = {}
    for steps in range(1, 60):
        # Plans grow: the same checkpoint with more of the way ahead.
        last = follow([*seen[:39], replace(seen[39], ahead=Ahead(steps))], doubt=10.0)
        assert last[38].switch
        low, high = (last[39].evidence[end] for end in ("forecast_low", "forecast_high"))
        said[low > 0.5, high > 0.5] = last[39]
    assert {ends: advice.state.value for ends, advice in said.items()} == {
        (False, False): "switch",
        (False, True): "switch",
        (True, True): "resume",
    }
    assert (
        "a random walk. Train everything again. A switch needs the upper end under 25.0%"
        in said[True, True].reason
    )


def slowing() -> list[Observation]:
    """Ten long updates, then short ones that go on in the same way: little displacement is left from 10 on."""
    quiet = observed(
        drifting(41, 30, drift=1.0, noise=0.0, seed=0, rates=np.r_[np.full(10, 1.0), np.full(30, 1e-2)])
    )
    return [replace(one, learning_rate=1.0, ahead=Ahead(40 - one.checkpoint)) for one in quiet]


def test_an_objective_that_still_falls_holds_a_switch_back() -> None:
    assert first(follow(told(slowing()))) is not None
    # 0.0008 at each checkpoint: at 31 there are nine ahead, 1.5 times 0.0072 is more than 0.01; at 32, 1.5 times
    # 0.0064 is not.
    said = follow(told(slowing(), lambda t: 1.0 - 0.0008 * t), margin=1.5)
    assert said[30].evidence["expected_gain"] == pytest.approx(0.008)
    assert said[30].evidence["expected_gain_high"] == pytest.approx(0.008)
    assert words(said)[31:35] == ["explore", "candidate", "switch", "switch"]
    assert said[25].reason.endswith(
        "Full training would still gain 0.012 (at most 0.012) of the objective; a switch may cost 0.01 and needs a "
        "forecast 1.5 times under it."
    )
    # The other way round, nothing is to be gained.
    assert first(follow(told(slowing(), lambda t: 1.0 + 0.001 * t))) == first(follow(told(slowing())))


def test_an_objective_does_not_fall_under_its_floor() -> None:
    # It fell to 0.004 at 12: as a line there is more than that to gain until 25.
    fell = told(slowing(), lambda t: 0.5 if t < 12 else 0.004)
    bounded = follow([replace(one, objective_floor=0.0) for one in fell])
    assert bounded[16].evidence["expected_gain"] == pytest.approx(0.004, rel=1e-6)
    assert bounded[16].evidence["expected_gain_high"] == pytest.approx(0.004, rel=1e-6)
    assert first(bounded) == first(follow(told(slowing())))
    # Where nothing says that it ends there, it may fall on.
    assert (first(follow(fell)) or 41) > 20
    # At the floor the same value again is a measurement: there is nothing better.
    perfect = [replace(one, objective=0.0, objective_floor=0.0) for one in fell]
    assert first(follow(perfect)) == first(follow(told(slowing())))


def test_a_value_handed_over_again_is_no_measurement() -> None:
    """As by trainers that evaluate once an epoch, and are asked for their newest metrics more often."""
    measured = told(slowing(), lambda t: 2.0 - 0.02 * t)
    for period in (2, 5, 10, 20):
        rare = [
            replace(one, objective=measured[one.checkpoint // period * period].objective) for one in measured
        ]
        assert first(follow(rare)) is None, period
    dead = [replace(one, objective=2.3) for one in measured]
    assert first(follow(dead)) is None
    # One that stands out is no rise, however often it is handed over.
    calm = told(slowing(), lambda t: 0.5)
    stuck = [replace(one, objective=0.9) if 30 <= one.checkpoint < 33 else one for one in calm]
    assert "resume" not in words(follow(stuck))


def test_an_objective_that_is_no_longer_measured_is_no_ground_for_a_switch() -> None:
    calm = told(slowing(), lambda t: 0.5)
    silent = [replace(one, objective=math.nan) if one.checkpoint > 12 else one for one in calm]
    # Little enough displacement is ahead from 21 on only: eight checkpoints without a measurement too late.
    small = {"threshold": 0.02, "unplanned_threshold": 0.015, "blind_threshold": 0.01}
    assert first(follow(calm, **small)) in range(21, 24)
    said = follow(silent, **small)
    assert first(said) is None
    assert said[-1].reason.endswith("The objective has not been measured for 28 checkpoints.")


def test_an_objective_that_was_given_as_nan_takes_a_switch_back() -> None:
    assert "resume" in words(switched_then(lambda _: math.inf))


def test_objectives_that_cannot_be_added_up_raise_nothing() -> None:
    blind = [replace(one, objective=math.nan) for one in told(slowing())]
    huge = [replace(one, objective=1.7e308 * (-1) ** one.checkpoint) for one in told(slowing())]
    said = follow([*blind[:25], *huge[25:]], blind_threshold=0.15)
    assert said[24].switch
    assert len(said) == 41


def test_a_resume_with_other_rates_is_no_learning_rate() -> None:
    # The plan says 0.1 until the end, then from 30 on 0.05 of the same number of steps.
    rates = np.r_[np.full(30, 0.1), np.full(30, 0.05)]
    points = drifting(61, 30, drift=1.0, noise=0.5, seed=0, rates=rates)
    seen = observed(points, rates)
    planned = [
        replace(one, ahead=Ahead(60 - t, (60 - t) * rate, (60 - t) * rate * rate))
        for t, one in enumerate(seen)
        for rate in (0.1 if t < 30 else 0.05,)
    ]
    falling = told(planned, lambda t: 1.0 - 0.01 * t if t < 30 else 0.7 - 0.005 * (t - 30), tolerance=0.02)
    for advice in follow(falling):
        left = (60 - advice.checkpoint) * 0.005
        assert not advice.switch or left < 0.04, advice


def test_where_the_rate_becomes_known_the_objectives_before_do_not_count() -> None:
    points = drifting(61, 30, drift=1.0, noise=0.5, seed=0, rates=np.full(60, 0.001))
    seen = [
        replace(one, learning_rate=None if one.checkpoint < 24 else 0.001)
        for one in observed(points, np.full(60, 0.001), total=60)
    ]
    falling = told(seen, lambda t: 1.0 - 0.01 * t, tolerance=0.02)
    assert all(not advice.switch or advice.checkpoint >= 57 for advice in follow(falling))


def test_one_broken_rate_does_not_silence_it_for_good() -> None:
    calm = told(slowing())
    for wild in (math.nan, math.inf, -1.0):
        broken = [replace(one, learning_rate=wild) if one.checkpoint == 12 else one for one in calm]
        assert first(follow(broken)) in range(20, 30), wild


def test_where_the_scheduler_has_stepped_already_the_plan_says_what_the_rate_was() -> None:
    rates = np.r_[np.full(20, 0.1), np.full(20, 0.001)]
    points = drifting(41, 30, drift=1.0, noise=0.3, seed=0, rates=rates)
    right = told(observed(points, rates, total=40))
    # As with schedulers that step before the checkpoint: the rate in force is the next update's, 0 at the end.
    early = [replace(one, learning_rate=float([*rates, 0.0][one.checkpoint])) for one in right]
    assert [advice.state for advice in follow(early)] == [advice.state for advice in follow(right)]
    for one, other in zip(follow(early), follow(right), strict=True):
        assert one.evidence == pytest.approx(other.evidence, rel=1e-6)


def test_scatter_of_the_objective_is_doubt() -> None:
    noise = np.random.default_rng(0).normal(size=41)

    def signal(size: float) -> int:
        return first(follow(told(slowing(), lambda t: 0.5 + size * float(noise[t])))) or 41

    assert signal(0.0) < signal(0.01) < signal(0.1)


def test_before_the_objective_falls_the_displacement_holds_a_switch_back(straight: Points) -> None:
    """As in grokking: nothing is gained for long, and much will be."""
    said = follow(told(observed(straight, CONSTANT[:40], total=40), lambda t: 1.0 if t < 30 else 0.1))
    assert "switch" not in words(said)[:30]


@pytest.mark.parametrize("wild", [math.inf, -math.inf])
def test_an_objective_of_which_too_little_is_known_is_a_doubt(wild: float) -> None:
    assert first(follow(told(slowing(), lambda _: wild))) is None
    rare = follow(told(slowing(), lambda t: 0.5 if t % 7 == 0 else math.nan))
    # With the sixth value, at 35, there is enough.
    assert first(rare) == 36
    assert "How far the objective still falls is not known" in rare[34].reason
    often = told(slowing(), lambda t: 0.5 if t % 2 == 0 else math.nan)
    assert first(follow(often)) == first(follow(told(slowing())))
    for tolerance in (math.nan, 0.0, -1.0):
        assert first(follow(told(slowing(), tolerance=tolerance))) is None


def switched_then(objective: Callable[[int], float]) -> list[Advice]:
    """At rest until 30, the switch long advised; then as said."""
    return follow(told(slowing(), lambda t: 0.5 if t < 30 else objective(t)))


def test_an_objective_that_becomes_worse_takes_a_switch_back() -> None:
    assert words(switched_then(lambda t: 0.5))[26:] == ["switch"] * 15
    # Twice what a switch may cost is 0.02.
    assert "resume" not in words(switched_then(lambda t: 0.519))
    said = switched_then(lambda t: 0.521)
    # Of the objectives from then on, six are needed again, and a confirmation.
    assert words(said)[29:38] == ["switch", "switch", *["resume"] * 4, "candidate", "switch", "switch"]
    assert said[31].evidence["objective_rise"] == pytest.approx(0.021)
    assert said[31].reason.startswith(
        "Since the switch was advised the objective has become worse by 0.021 or more: train everything again."
    )
    # One checkpoint that stands out is no rise.
    assert "resume" not in words(switched_then(lambda t: 0.9 if t == 33 else 0.5))


def test_scatter_before_the_switch_is_no_rise_after_it() -> None:
    noise = np.random.default_rng(0).normal(size=41) * 0.003
    said = follow(told(slowing(), lambda t: 0.5 + float(noise[t]), tolerance=0.02))
    assert first(said) is not None
    assert "resume" not in words(said)


def test_a_switch_is_taken_back_where_no_forecast_can_be_made() -> None:
    calm = told(slowing(), lambda t: 0.5)[:31]
    # The plan has ended, and the rate rises: there is no forecast, and the objective is worse.
    after = [
        replace(one, ahead=None, learning_rate=5.0, objective=0.8 + 1e-6 * one.checkpoint)
        for one in told(slowing(), lambda t: 0.5)[31:]
    ]
    said = follow([*calm, *after])
    assert said[30].switch
    assert words(said)[31:34] == ["unknown", "resume", "unknown"]
    assert "its schedule is not known" in said[32].reason
    still = [replace(one, objective=0.5 + 1e-12 * (one.checkpoint % 3)) for one in after]
    assert set(words(follow([*calm, *still]))[31:38]) == {"unknown"}


def test_a_break_in_the_path_forgets_what_was_gained_before() -> None:
    seen = told(slowing(), lambda t: 1.0 - 0.001 * t)
    broken = [*seen[:20], replace(seen[20], finite=False), *seen[21:]]
    said = follow(broken)
    assert said[20].state is AdviceState.UNKNOWN
    assert {advice.state for advice in said[21:28]} == {AdviceState.UNKNOWN}
    assert "expected_gain" in said[-1].evidence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"threshold": 0.6},
            "threshold and resume_threshold must be in this order between 0 and inf, not 0.6 and 0.5",
        ),
        ({"unplanned_threshold": 0.01}, "blind_threshold and unplanned_threshold must be in this order"),
        ({"threshold": math.nan}, "must be in this order"),
        ({"confirmations": 0}, "confirmations must be at least 1, not 0"),
        ({"window": 5}, "window must be at least 6 updates, not 5"),
        ({"settling": 9}, r"settling must be from 3 to window \(8\), not 9"),
        ({"objectives": 5}, "objectives must be at least 6, not 5"),
        ({"doubt": -1.0}, "doubt must be 0 or more, not -1"),
        ({"gain_doubt": math.nan}, "gain_doubt must be 0 or more, not nan"),
        ({"margin": 0.5}, "margin must be 1 or more, not 0.5"),
        ({"rate_fall": 2.0}, "rate_fall must be from 0 to 1, not 2"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemainingDisplacement2Policy(**changes)
