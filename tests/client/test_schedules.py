"""When checkpoints are due."""

from __future__ import annotations

import itertools
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon.schedules import (
    EveryEpochs,
    EverySteps,
    LogSpaced,
    Manual,
    Schedule,
    due_between,
    parse_schedule,
)

SCHEDULES = st.one_of(
    st.builds(EverySteps, st.integers(1, 50)),
    st.builds(EveryEpochs, st.integers(1, 5)),
    st.builds(LogSpaced, st.integers(1, 40), st.integers(0, 20), st.one_of(st.none(), st.integers(1, 200))),
    st.just(Manual()),
)
FORMS = (
    'give a number of steps, "step", "every 100 steps", "epoch", "every 2 epochs", "log", "log 20" (per decade), '
    '"manual", or a schedule'
)


def due_steps(schedule: Schedule, last: int) -> list[int]:
    return [step for step in range(-2, last + 1) if schedule.due(step)]


def log_grid(per_decade: int, last: int) -> set[int]:
    """Whole numbers nearest to 10^(k / per_decade), by exact arithmetic: n - 1/2 < 10^(k/d) < n + 1/2."""
    found: set[int] = set()
    for k in range(per_decade * len(str(last)) + 1):
        power = 10**k
        n = round(10 ** (k / per_decade))
        for candidate in (n - 1, n, n + 1):
            low, high = Fraction(2 * candidate - 1, 2), Fraction(2 * candidate + 1, 2)
            if candidate > 0 and low**per_decade < power < high**per_decade:
                found.add(candidate)
    return {step for step in found if step <= last}


@pytest.mark.parametrize("per_decade", [1, 2, 3, 7, 10, 13])
def test_log_spaced_is_the_rounded_powers_and_the_dense_start(per_decade: int) -> None:
    schedule = LogSpaced(per_decade, dense=8)
    assert due_steps(schedule, 5000) == sorted(log_grid(per_decade, 5000) | set(range(1, 9)))


def test_log_spaced_reaches_far_with_few_checkpoints() -> None:
    steps = [round(10 ** (k / 10)) for k in range(10, 91)]
    assert all(LogSpaced(10).due(step) for step in steps)
    assert not any(LogSpaced(10).due(step + 1) for step in steps[20:])


def test_the_longest_gap_holds_from_where_the_grid_is_wider() -> None:
    steps = due_steps(LogSpaced(per_decade=5, dense=0, longest_gap=50), 2000)
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 50
    assert [step for step in steps if step <= 100] == sorted(log_grid(5, 100))
    assert set(log_grid(5, 2000)) <= set(steps)


@given(SCHEDULES, st.integers(-5, 10**7), st.integers(1, 40))
def test_the_end_of_an_epoch_only_adds(schedule: Schedule, step: int, epoch: int) -> None:
    assert schedule.due(step, epoch) >= schedule.due(step) == schedule.due(step, 0)


@given(SCHEDULES, st.integers(-5, 0))
def test_nothing_is_due_before_the_first_step(schedule: Schedule, step: int) -> None:
    assert not schedule.due(step)
    assert not schedule.due(step, 1)


@given(SCHEDULES, st.lists(st.integers(1, 7), min_size=1, max_size=60))
def test_jumps_lose_no_checkpoint_and_invent_none(schedule: Schedule, jumps: list[int]) -> None:
    before, hits = 0, 0
    for jump in jumps:
        expected = any(schedule.due(step) for step in range(before + 1, before + jump + 1))
        assert due_between(schedule, before, before + jump) == expected
        before += jump
        hits += expected
    assert hits <= len([step for step in due_steps(schedule, before) if step > 0])
    assert not due_between(schedule, before, before)


def test_epochs_count() -> None:
    schedule = EveryEpochs(3)
    assert [epoch for epoch in range(1, 10) if schedule.due(10 * epoch, epoch)] == [3, 6, 9]
    assert EveryEpochs().due(10, True)


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        (7, EverySteps(7)),
        ("step", EverySteps(1)),
        ("every step", EverySteps(1)),
        ("every 100 steps", EverySteps(100)),
        ("100 steps", EverySteps(100)),
        ("  Every  100\tSteps ", EverySteps(100)),
        ("1 step", EverySteps(1)),
        ("epoch", EveryEpochs(1)),
        ("every epoch", EveryEpochs(1)),
        ("every 3 epochs", EveryEpochs(3)),
        ("log", LogSpaced()),
        ("log-spaced", LogSpaced()),
        ("log 25", LogSpaced(per_decade=25)),
        ("manual", Manual()),
        (LogSpaced(3, longest_gap=9), LogSpaced(3, longest_gap=9)),
    ],
)
def test_words(spec: str | int | Schedule, schedule: Schedule) -> None:
    assert parse_schedule(spec) == schedule


@pytest.mark.parametrize(
    "spec", ["", "sometimes", "every", "100", "every -1 steps", "every 2.5 steps", "steps 3", "every 2 log"]
)
def test_other_words_are_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_schedule(spec)
    assert str(refused.value) == f"{spec!r} is not a schedule; {FORMS}"


@pytest.mark.parametrize("spec", [None, True, 2.0, EverySteps, object])
def test_other_things_are_refused_with_the_forms(spec: object) -> None:
    with pytest.raises(ValueError) as refused:
        parse_schedule(spec)  # type: ignore[arg-type] # what users may do
    assert str(refused.value) == f"{spec!r} is not a schedule; {FORMS}"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("EverySteps(0)", "EverySteps: n is 0, not a whole number of at least 1"),
        ("EverySteps(2.0)", "EverySteps: n is 2.0, not a whole number of at least 1"),
        ("EverySteps(True)", "EverySteps: n is True, not a whole number of at least 1"),
        ("EveryEpochs(-1)", "EveryEpochs: n is -1, not a whole number of at least 1"),
        ("LogSpaced(0)", "LogSpaced: per_decade is 0, not a whole number of at least 1"),
        ("LogSpaced(dense=-1)", "LogSpaced: dense is -1, not a whole number of at least 0"),
        ("LogSpaced(longest_gap=0)", "LogSpaced: longest_gap is 0, not a whole number of at least 1"),
        ("parse_schedule('every 0 steps')", "EverySteps: n is 0, not a whole number of at least 1"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(call: str, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        eval(call)
    assert str(refused.value) == text


def test_own_schedules_are_taken_as_they_are() -> None:
    class Primes:
        def due(self, step: int, epoch_ended: int = 0) -> bool:
            return step > 1 and all(step % d for d in range(2, step))

    schedule = Primes()
    assert parse_schedule(schedule) is schedule


def test_schedules_load_no_torch() -> None:
    probe = "import trajmon.schedules, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
