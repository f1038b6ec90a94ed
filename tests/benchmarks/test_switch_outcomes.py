"""Where switches are tried, and which one is the earliest safe one."""

from __future__ import annotations

import doctest
import math
import warnings

import benchmarks.switch.outcomes
import benchmarks.switch.schedules
import numpy as np
import pytest
import torch
from benchmarks.switch.outcomes import allowed_loss, earliest_safe, next_switch_point
from benchmarks.switch.schedules import Schedule
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(0, 1) | st.just(math.nan)


@pytest.mark.parametrize("module", [benchmarks.switch.outcomes, benchmarks.switch.schedules])
def test_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type] # a module
    assert (result.failed, result.attempted > 0) == (0, True)


@given(st.dictionaries(st.integers(1, 39), numbers, min_size=1), st.floats(0, 1), st.floats(0, 0.5))
def test_earliest_safe_is_the_first_from_which_all_are(
    finals: dict[int, float], full_final: float, allowed: float
) -> None:
    slack = allowed * (1 + 1e-9)
    safe = [
        point
        for point in finals
        if all(full_final - finals[later] <= slack for later in finals if later >= point)
    ]
    assert earliest_safe(finals, full_final, allowed) == min(safe, default=None)


def test_an_undefined_outcome_is_never_safe() -> None:
    assert earliest_safe({3: 0.9, 7: math.nan}, 0.9, 0.01) is None
    assert earliest_safe({3: math.nan, 7: 0.9}, 0.9, 0.01) == 7
    assert earliest_safe({3: 0.9}, math.nan, 0.01) is None


def test_exactly_one_point_lost_is_still_safe() -> None:
    # 0.85 - 0.84 is a little more than 0.01 in binary.
    assert allowed_loss("accuracy", 0.85) < 0.85 - 0.84
    assert earliest_safe({5: 0.84}, 0.85, allowed_loss("accuracy", 0.85)) == 5


@given(st.integers(1, 200), st.data())
def test_points_end_and_lie_inside_the_run(last: int, data: st.DataObject) -> None:
    finals: dict[int, float] = {}
    while (point := next_switch_point(finals, 0.9, 0.01, last)) is not None:
        assert point not in finals
        assert point >= 1
        assert point < last or last == 1
        finals[point] = data.draw(numbers)
        assert len(finals) <= 11
    assert len(finals) >= min(last - 1, 5)


@pytest.mark.parametrize("threshold", range(1, 41))
def test_the_earliest_safe_point_is_bracketed(threshold: int) -> None:
    finals: dict[int, float] = {}
    while (point := next_switch_point(finals, 1.0, 0.01, 40)) is not None:
        finals[point] = 1.0 if point >= threshold else 0.5
    safe = earliest_safe(finals, 1.0, 0.01)
    upper = 40 if safe is None else safe
    before = max((point for point in finals if point < upper), default=0)
    assert before < threshold <= upper
    # Never later than the truth by more than a twentieth of the run.
    assert upper - threshold <= 1


@pytest.mark.parametrize("intervals", [8, 40])
def test_schedules_are_torchs(intervals: int) -> None:
    """The same factors as PyTorch's own schedulers, stepped once an interval."""
    parameter = torch.nn.Parameter(torch.zeros(1))

    def factors(make: object) -> list[float]:
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = make(optimizer)  # type: ignore[operator] # a function of the optimizer
            rates = []
            for _ in range(intervals):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
        return rates

    lrs = torch.optim.lr_scheduler
    wanted = {
        Schedule("constant"): factors(lambda o: lrs.ConstantLR(o, factor=1.0)),
        Schedule("step"): factors(lambda o: lrs.MultiStepLR(o, [intervals // 2, intervals * 3 // 4])),
        Schedule("cosine"): factors(lambda o: lrs.CosineAnnealingLR(o, intervals)),
        Schedule("cosine", warm_up=4): factors(
            lambda o: lrs.SequentialLR(
                o,
                [
                    lrs.LinearLR(o, start_factor=0.25, total_iters=3),
                    lrs.CosineAnnealingLR(o, intervals - 4),
                ],
                [4],
            )
        ),
    }
    for schedule, rates in wanted.items():
        ours = [schedule.factor(t, intervals) for t in range(intervals)]
        np.testing.assert_allclose(ours, rates, rtol=1e-9, err_msg=str(schedule))
