"""The default policy: what it says, and what it never says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trajmon_server.signals import (
    Advice,
    AdviceState,
    Observation,
    Policy,
    RemainingDisplacementPolicy,
    RemainingDisplacementState,
)

POLICY: Policy[RemainingDisplacementState] = RemainingDisplacementPolicy()
WINDOW, STALE_SECONDS = 4, 3600.0


def observe(checkpoint: int, update: float, cosine: float = 0.5, rate: float | None = 0.1) -> Observation:
    """A healthy observation at distance 1 from the initialization, with updates of one length."""
    return Observation(
        checkpoint=checkpoint,
        previous=checkpoint - 1 if checkpoint else None,
        step=100 * checkpoint,
        finite=True,
        complete=True,
        age_seconds=1.0,
        learning_rate=rate,
        update_squared=update**2 if checkpoint else math.nan,
        update_dot=cosine * update**2 if checkpoint > 1 else math.nan,
        displacement_squared=1.0 if checkpoint else 0.0,
    )


def follow(history: list[Observation]) -> list[Advice]:
    state, said = POLICY.init(), []
    for observation in history:
        state, advice = POLICY.update(state, observation)
        said.append(advice)
    return said


def words(history: list[Observation]) -> list[str]:
    return [advice.state.value for advice in follow(history)]


def quiet(checkpoints: int) -> list[Observation]:
    """A training that has all but ended."""
    return [observe(t, 1e-4) for t in range(checkpoints)]


def test_the_forecast_is_that_of_drift_and_noise() -> None:
    # Ten updates of length 0.04 that repeat with cosine 0.25: each is a drift of 0.02 and noise of 0.02 sqrt(3).
    advice = follow([observe(t, 0.04, cosine=0.25) for t in range(11)])[-1]
    assert advice.evidence["forecast_drift"] == pytest.approx(10 * 0.02)
    assert advice.evidence["forecast_noise"] == pytest.approx(math.sqrt(10 * 12e-4))
    assert advice.evidence["forecast_remaining_displacement"] == pytest.approx(math.sqrt(0.04 + 0.012))
    assert advice.evidence["last_update_relative"] == pytest.approx(0.04)
    assert advice.evidence["horizon_steps"] == 1000
    assert advice.state is AdviceState.EXPLORE
    assert advice.reason == (
        "If training went on as long again at the current learning rate, the parameters would move by about 22.8% of "
        "their distance from the initialization; the threshold is 10%. Train all parameters."
    )
    assert advice.policy == "remaining_displacement/1"


def test_a_drop_of_the_learning_rate_scales_the_forecast_at_once() -> None:
    history = [observe(t, 0.02, rate=0.1) for t in range(11)]
    before = follow(history)[-1].evidence["forecast_remaining_displacement"]
    dropped = replace(
        observe(11, 0.002, rate=0.01), step=1100, update_dot=0.5 * 0.02 * 0.002, displacement_squared=1.0
    )
    after = follow([*history, dropped])[-1].evidence["forecast_remaining_displacement"]
    assert after == pytest.approx(before / 10, rel=0.15)


def test_oscillation_is_noise_not_negative_drift() -> None:
    advice = follow([observe(t, 0.02, cosine=-0.9) for t in range(11)])[-1]
    assert advice.evidence["forecast_drift"] == 0
    assert advice.evidence["forecast_noise"] == pytest.approx(0.02 * math.sqrt(10))


def test_the_spacing_of_checkpoints_does_not_matter() -> None:
    # The same straight path at constant speed, recorded every step and every fifth step towards the end.
    dense = [observe(t, 0.01, cosine=1.0) for t in range(41)]
    dense = [replace(seen, step=seen.checkpoint) for seen in dense]
    sparse = dense[:21]
    for t in range(21, 25):
        longer = replace(observe(t, 0.05, cosine=1.0), step=20 + 5 * (t - 20))
        sparse.append(replace(longer, update_dot=0.05 * (0.05 if t > 21 else 0.01)))
    forecasts = [follow(run)[-1].evidence["forecast_remaining_displacement"] for run in (dense, sparse)]
    assert forecasts[0] == pytest.approx(forecasts[1], rel=1e-9)


def test_candidate_then_switch_and_switch_stays() -> None:
    assert words(quiet(8)) == ["unknown"] * 4 + ["candidate"] + ["switch"] * 3
    assert follow(quiet(5))[4].reason.endswith("under the threshold of 10%; waiting for confirmation.")
    assert follow(quiet(6))[5].reason.endswith("training only the normalisation scalars should cost little.")
    assert [advice.switch for advice in follow(quiet(7))] == [False] * 5 + [True] * 2


def test_between_the_thresholds_a_switch_holds_and_above_it_is_taken_back() -> None:
    history = quiet(8)
    # sqrt(drift^2 + noise^2) of forecasts 0.15 and then 0.5 a window later.
    between = [observe(t, 0.15 / t, cosine=1.0) for t in range(8, 14)]
    above = [observe(t, 0.5 / t, cosine=1.0) for t in range(14, 20)]
    back = [observe(t, 1e-4) for t in range(20, 30)]
    said = words([*history, *between, *above, *back])
    assert said[8:14] == ["switch"] * 6
    first = said.index("resume")
    assert 14 <= first <= 17
    assert said[first:20] == ["resume"] * (20 - first)
    again = said.index("candidate", first)
    assert said[first:again] == ["resume"] * (again - first)
    assert said[again:] == ["candidate"] + ["switch"] * (len(said) - again - 1)
    assert follow([*history, *between, *above])[-1].reason.endswith(
        "over 20% after a switch: train everything again."
    )


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nan": (
        {
            "finite": False,
            "update_squared": math.nan,
            "update_dot": math.nan,
            "displacement_squared": math.nan,
        },
        "Checkpoint 9 holds NaN or Inf. No advice.",
    ),
    "marked non-finite only": ({"finite": False}, "Checkpoint 9 holds NaN or Inf. No advice."),
    "incomplete": ({"complete": False}, "Checkpoint 9 is incomplete. No advice."),
    "update missing": (
        {"update_squared": math.nan},
        "The update to checkpoint 9 is missing or too small to tell. No advice.",
    ),
    "displacement missing": (
        {"displacement_squared": math.inf},
        "The update to checkpoint 9 is missing or too small to tell. No advice.",
    ),
    "no update": (
        {"update_squared": 0.0, "update_dot": 0.0},
        "The parameters did not change up to checkpoint 9. No advice.",
    ),
    "never moved": (
        {"displacement_squared": 0.0},
        "The parameters did not change up to checkpoint 9. No advice.",
    ),
    "gap": ({"previous": 7}, "The checkpoints before 9 are missing. No advice."),
    "angle missing": (
        {"update_dot": math.nan},
        "The angle between two of the last updates is not known. No advice.",
    ),
    "stale": ({"age_seconds": 7200.0}, "Checkpoint 9 is 7200 seconds old. No advice."),
    "age undefined": ({"age_seconds": math.nan}, "Checkpoint 9 is nan seconds old. No advice."),
    "warm-up": (
        {"learning_rate": 0.2},
        "The learning rate has risen: later updates will be larger than these. No advice.",
    ),
    "no learning rate": ({"learning_rate": 0.0}, "The learning rate at checkpoint 9 is 0. No advice."),
    "learning rate undefined": (
        {"learning_rate": math.nan},
        "The learning rate at checkpoint 9 is nan. No advice.",
    ),
    "step back": ({"step": 800}, "The step count did not grow up to checkpoint 9. No advice."),
    "out of range": (
        {"update_squared": 1e308, "displacement_squared": 1e-300},
        "The numbers of the last updates leave the range in which a forecast can be computed. No advice.",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_is_unknown_with_a_reason_and_the_count_starts_again(kind: str) -> None:
    changes, reason = BROKEN[kind]
    broken = replace(observe(9, 1e-4), **changes)
    said = follow([*quiet(9), broken, *(observe(t, 1e-4) for t in range(10, 22))])
    assert said[8].state is AdviceState.SWITCH
    assert said[9].state is AdviceState.UNKNOWN
    assert said[9].reason == reason
    assert said[10].state in (AdviceState.UNKNOWN, AdviceState.CANDIDATE)
    recovered = [advice.state for advice in said].index(AdviceState.CANDIDATE, 9)
    assert all(advice.state is AdviceState.UNKNOWN for advice in said[9:recovered])
    if kind != "out of range":
        assert said[recovered + 1].state is AdviceState.SWITCH


def test_without_its_beginning_a_run_gets_no_advice() -> None:
    said = follow(quiet(20)[3:])
    assert {advice.state for advice in said} == {AdviceState.UNKNOWN}
    assert said[0].reason == "The first checkpoints of this run are missing. No advice."
    assert said[-1].reason == "The beginning of this run is missing. No advice."
    said = follow([replace(observe(0, 0.0), finite=False), *quiet(20)[1:]])
    assert {advice.state for advice in said} == {AdviceState.UNKNOWN}
    assert said[0].reason == "The initialization is incomplete or holds NaN or Inf. No advice."


def test_a_run_without_steps_or_learning_rates_gets_advice() -> None:
    history = [replace(seen, step=None, learning_rate=None, age_seconds=None) for seen in quiet(8)]
    assert words(history)[-1] == "switch"


def test_superseded_checkpoints_do_not_break_the_path() -> None:
    history = quiet(6)
    # Checkpoints 6 to 8 were superseded; the next attempt continues at 5 with number 9.
    history += [replace(observe(t, 1e-4), previous=5 if t == 9 else t - 1) for t in range(9, 12)]
    assert words(history)[-3:] == ["switch"] * 3


@st.composite
def histories(draw: st.DrawFn) -> list[Observation]:
    """Mostly settled trainings, with every kind of damage at random places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(1, 40))
    damage = draw(st.sampled_from([0.0, 0.05, 0.2, 0.6]))
    sizes = 10.0 ** rng.uniform(-5, draw(st.sampled_from([-3.5, -1.0, 1.0])), size=length)
    rate = draw(st.sampled_from([None, 0.1]))
    history = []
    for t in range(length):
        seen = observe(t, float(sizes[t]), cosine=float(rng.uniform(-1, 1)), rate=rate)
        if rng.uniform() < damage:
            changes, _ = BROKEN[list(BROKEN)[rng.integers(len(BROKEN))]]
            seen = replace(seen, **changes)
        if rng.uniform() < damage / 4:
            wild = draw(st.floats(allow_nan=True, allow_infinity=True))
            field = ("update_squared", "update_dot", "displacement_squared", "learning_rate", "age_seconds")
            seen = replace(seen, **dict[str, Any]({field[rng.integers(len(field))]: wild}))
        if rng.uniform() < damage / 2:
            continue
        history.append(seen)
    return history


def sound(observation: Observation, before: Observation | None) -> bool:
    """Written again from the rule, not from the policy."""
    if before is None:
        return observation.previous is None and observation.finite and observation.complete
    numbers = (observation.update_squared, observation.displacement_squared)
    rate = observation.learning_rate
    step, last = observation.step, before.step
    return (
        observation.finite
        and observation.complete
        and all(0 < number < math.inf for number in numbers)
        and observation.previous == before.checkpoint
        and (rate is None or 0 < rate < math.inf)
        and step is not None
        and last is not None
        and step > last
    )


def fresh(observation: Observation) -> bool:
    return observation.age_seconds is None or observation.age_seconds <= STALE_SECONDS


def test_never_a_switch_out_of_broken_data() -> None:
    switches, checked = [0], [0]

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(histories())
    def check(history: list[Observation]) -> None:
        said = follow(history)
        assert repr(said) == repr(follow(history))
        checked[0] += 1
        soundness = [sound(seen, history[i - 1] if i else None) for i, seen in enumerate(history)]
        for i, advice in enumerate(said):
            assert advice.checkpoint == history[i].checkpoint
            assert all(math.isfinite(value) for value in advice.evidence.values())
            assert advice.reason
            if advice.state is AdviceState.UNKNOWN:
                assert advice.reason.endswith("No advice.")
            if advice.switch:
                switches[0] += 1
                assert i > WINDOW
                assert soundness[0]
                assert all(soundness[i - WINDOW : i + 1])
                assert all(math.isfinite(seen.update_dot) for seen in history[i - WINDOW + 2 : i + 1])
                assert fresh(history[i])
                assert fresh(history[i - 1])
                assert advice.evidence["forecast_remaining_displacement"] <= 0.2

    check()
    assert checked[0] >= 400
    # The property is not empty: many of these histories do end in a switch.
    assert switches[0] > 200


def test_constant_parameters_never_switch() -> None:
    still = [replace(observe(t, 0.0), update_squared=0.0, update_dot=0.0) for t in range(1, 30)]
    assert set(words([observe(0, 0.0), *still])) == {"unknown"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.3}, r"thresholds must be positive and rising, not 0\.3 and 0\.2"),
        ({"threshold": math.nan}, "thresholds must be positive and rising, not nan"),
        ({"confirmations": 0}, "needs at least one confirmation, two updates and a positive age limit"),
        ({"window": 1}, "needs at least one confirmation, two updates and a positive age limit"),
        (
            {"stale_after_seconds": -1.0},
            "needs at least one confirmation, two updates and a positive age limit",
        ),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RemainingDisplacementPolicy(), **changes)
