"""What a signal was worth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trajmon_server.signals.outcomes import Outcomes, score

RUN = Outcomes(
    positions=tuple(range(11)),
    tried=(2, 4, 6, 8),
    reached=(0.5, 0.896, 0.7, 0.95),
    full_final=0.9,
    delta=0.01,
)


@pytest.mark.parametrize(
    ("signal", "lost", "wrong", "lateness"),
    [
        (2, 0.4, True, 0.0),
        (3, 0.4, True, 0.0),
        (4, 0.004, False, 0.0),
        (5, 0.2, True, 0.0),
        (7, 0.2, True, 0.0),
        (8, 0.0, False, 0.0),
        (9, 0.0, False, 0.1),
        (10, 0.0, False, 0.2),
    ],
)
def test_between_two_tries_the_worse_one_counts(
    signal: int, lost: float, wrong: bool, lateness: float
) -> None:
    found = score(RUN, signal)
    assert found.regret == pytest.approx(lost)
    assert found.regret_in_deltas == pytest.approx(lost / 0.01)
    assert found.wrong is wrong
    assert found.earliest_safe == 8
    assert found.lateness == pytest.approx(lateness)
    assert not found.never_signalled


def test_before_the_first_try_nothing_is_known() -> None:
    found = score(RUN, 1)
    assert math.isnan(found.regret)
    assert found.wrong is None


def test_a_run_without_a_signal_loses_nothing_and_is_late_until_its_end() -> None:
    found = score(RUN, None)
    assert found.never_signalled
    assert found.regret == 0.0
    assert found.wrong is False
    assert found.lateness == pytest.approx(0.2)


def test_a_try_that_diverged_is_worse_than_any() -> None:
    run = replace(RUN, reached=(0.5, 0.9, math.nan, 0.9))
    assert run.earliest_safe == 8
    found = score(run, 5)
    assert found.regret == math.inf
    assert found.wrong is True


def test_nothing_safe_but_the_end() -> None:
    run = replace(RUN, reached=(0.5, 0.9, 0.9, 0.8))
    assert run.earliest_safe == 10
    # After the last try the end counts as one, but the worse of the two is what is known.
    assert score(run, 9).wrong is True


def test_a_loss_of_exactly_delta_is_allowed() -> None:
    run = Outcomes((0, 1, 2), (0, 1), (0.25, 0.75), full_final=1.0, delta=0.25)
    assert run.earliest_safe == 1
    assert score(run, 1).wrong is False


def test_lateness_is_in_steps() -> None:
    run = replace(RUN, positions=(0, 1, 2, 3, 4, 5, 6, 7, 100, 190, 200))
    assert score(run, 9).lateness == pytest.approx(90 / 200)


def test_scores_against_a_slow_reading_of_the_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        end = int(rng.integers(3, 30))
        tried = tuple(sorted({int(point) for point in rng.integers(0, end + 1, size=6)}))
        reached = tuple(float(value) for value in rng.normal(size=len(tried)))
        run = Outcomes(tuple(range(end + 1)), tried, reached, full_final=0.3, delta=0.4)
        lost = {point: 0.3 - value for point, value in zip(tried, reached, strict=True)}
        lost.setdefault(end, 0.0)
        safe = [p for p in lost if all(value <= 0.4 for q, value in lost.items() if q >= p)]
        assert run.earliest_safe == min(safe, default=end)
        for signal in range(end + 1):
            below = [p for p in lost if p <= signal]
            above = [p for p in lost if p >= signal]
            found = score(run, signal)
            if not below:
                assert found.wrong is None
                continue
            worse = max(lost[max(below)], lost[min(above)])
            assert found.regret == max(worse, 0.0)
            assert found.wrong is (worse > 0.4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tried": (), "reached": ()},
            "switch points must be rising checkpoints from 0 to 10, and at least one",
        ),
        ({"tried": (2, 2, 6, 8)}, "switch points must be rising"),
        ({"tried": (2, 4, 6, 11)}, "switch points must be rising"),
        ({"tried": (-1, 4, 6, 8)}, "switch points must be rising"),
        ({"reached": (0.5,)}, "4 switch points need as many outcomes, not 1"),
        ({"positions": (0, 0, *range(2, 11))}, "the steps of at least two checkpoints must rise"),
        ({"full_final": math.nan}, "the final metric of full training is not finite"),
        ({"delta": 0.0}, "delta must be a positive number, not 0"),
        ({"delta": math.nan}, "delta must be a positive number, not nan"),
    ],
)
def test_outcomes_that_do_not_belong_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RUN, **changes)


@pytest.mark.parametrize("signal", [-1, 11])
def test_a_signal_outside_of_the_run_is_refused(signal: int) -> None:
    with pytest.raises(ValueError, match=f"the signal is at checkpoint {signal}, the run has 0 to 10"):
        score(RUN, signal)
