"""What training intends: checked, summed once from functions and schedulers, and told with checkpoints."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as kinds
from torch.optim.lr_scheduler import LRScheduler

import trajmon
from trajmon import _rates
from trajmon._outlook import Outlook
from trajmon._plan import PlanAhead
from trajmon._rates import RateSums, rates_ahead
from trajmon.errors import RefusedError

STOP = 40


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"total_steps": 0}, "total_steps=0 is not a whole number of at least 1"),
        ({"total_steps": 10.0}, "total_steps=10.0 is not a whole number of at least 1"),
        ({"total_steps": True}, "total_steps=True is not a whole number of at least 1"),
        ({"total_steps": 2**63}, f"total_steps={2**63} is not a whole number of at least 1"),
        ({"steps_per_rate": 0}, "steps_per_rate=0 is not a whole number of at least 1"),
        (
            {"learning_rate": 0.1},
            "learning_rate is a float; a function of the step, or a scheduler of torch.optim, is expected",
        ),
        ({"objective": ""}, "objective='' is not the name of a metric, 1 to 64 printable characters"),
        (
            {"objective": "a\nb"},
            "objective='a\\nb' is not the name of a metric, 1 to 64 printable characters",
        ),
        ({"objective": 3}, "objective=3 is not the name of a metric, 1 to 64 printable characters"),
        ({"objective": "a", "tolerance": -0.1}, "tolerance=-0.1 is not a number of at least 0"),
        ({"objective": "a", "tolerance": math.nan}, "tolerance=nan is not a number of at least 0"),
        ({"objective": "a", "tolerance": math.inf}, "tolerance=inf is not a number of at least 0"),
        ({"tolerance": 0.1}, "tolerance= is of an objective; name it with objective="),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as refused:
        trajmon.Plan(**settings)
    assert str(refused.value) == text


def test_something_else_than_a_plan_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"^plan is a dict; a trajmon.Plan is expected$"):
        trajmon.watch(nn.Linear(2, 2), run="x", plan={}, strict=True)  # type: ignore[arg-type] # what is wrong


def training(scheduled: Callable[[torch.optim.Optimizer], Any], done: int) -> tuple[Any, Any, nn.Module]:
    """Optimizer and scheduler after so many steps."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = scheduled(optimizer)
    for _ in range(done):
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler, model


def rates_of(optimizer: Any, scheduler: Any, count: int) -> list[float]:
    """As the training itself goes through them."""
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: kinds.StepLR(o, 7, gamma=0.3),
    "MultiStepLR": lambda o: kinds.MultiStepLR(o, [5, 30]),
    "ExponentialLR": lambda o: kinds.ExponentialLR(o, 0.97),
    "LambdaLR": lambda o: kinds.LambdaLR(o, lambda step: 1 / (step + 1)),
    "MultiplicativeLR": lambda o: kinds.MultiplicativeLR(o, lambda _: 0.95),
    "CosineAnnealingLR": lambda o: kinds.CosineAnnealingLR(o, STOP),
    "CosineAnnealingWarmRestarts": lambda o: kinds.CosineAnnealingWarmRestarts(o, 7),
    "OneCycleLR": lambda o: kinds.OneCycleLR(o, 0.5, total_steps=STOP + 1),
    "CyclicLR": lambda o: kinds.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "PolynomialLR": lambda o: kinds.PolynomialLR(o, STOP),
    "SequentialLR": lambda o: kinds.SequentialLR(
        o, [kinds.LinearLR(o, total_iters=5), kinds.CosineAnnealingLR(o, STOP - 5)], [5]
    ),
    "ChainedScheduler": lambda o: kinds.ChainedScheduler([kinds.ExponentialLR(o, 0.9), kinds.StepLR(o, 3)]),
}


def state_of(scheduler: Any, optimizer: Any) -> Any:
    return copy.deepcopy((scheduler.state_dict(), optimizer.state_dict()))


@pytest.mark.parametrize("done", [0, 6])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_are_those_that_training_goes_through(name: str, done: int) -> None:
    optimizer, scheduler, model = training(SCHEDULERS[name], done)
    before = state_of(scheduler, optimizer)
    draws = torch.get_rng_state()
    sums = rates_ahead(scheduler, 1, STOP)
    assert str(state_of(scheduler, optimizer)) == str(before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(parameter.grad is None for parameter in model.parameters())
    rates = rates_of(optimizer, scheduler, STOP - done)
    for step in range(done, STOP + 1):
        found = sums.from_step(step)
        assert found is not None
        left = rates[step - done :]
        assert found == pytest.approx((math.fsum(left), math.fsum(r * r for r in left)), rel=1e-12, abs=1e-15)
    assert sums.from_step(done - 1) is None
    assert sums.from_step(STOP + 1) is None


def test_a_schedule_by_epochs_holds_each_rate_for_an_epoch() -> None:
    _, scheduler, _ = training(lambda o: kinds.ExponentialLR(o, 0.5), 2)
    sums = rates_ahead(scheduler, 10, 45)
    every = [0.1 * 0.5 ** (step // 10) for step in range(45)]
    for step in (20, 29, 30, 44, 45):
        found = sums.from_step(step)
        assert found == pytest.approx((sum(every[step:]), sum(r * r for r in every[step:])), abs=1e-15)
    assert sums.from_step(19) is None
    function = rates_ahead(lambda epoch: 0.1 * 0.5**epoch, 10, 45)
    assert function.from_step(0) == pytest.approx((sum(every), sum(r * r for r in every)))
    assert function.from_step(33) == pytest.approx(sums.from_step(33))


def test_a_long_schedule_is_asked_for_at_bounded_places() -> None:
    stop = 50 * _rates.MOST_RATES
    asked: list[int] = []

    def cosine(step: int) -> float:
        asked.append(step)
        return 0.05 * (1 + math.cos(math.pi * step / stop))

    sums = rates_ahead(cosine, 1, stop)
    assert len(asked) == len(set(asked)) <= _rates.MOST_RATES
    assert 0 <= min(asked) <= max(asked) < stop
    for part in (0.0, 0.3, 0.9):
        step = int(part * stop)
        exact = 0.05 * (stop - step - stop / math.pi * math.sin(math.pi * part))
        found = sums.from_step(step)
        assert found is not None
        assert found[0] == pytest.approx(exact, rel=1e-5)
        # No schedule would have a smaller sum of squares.
        assert found[0] ** 2 <= (stop - step) * found[1] * (1 + 1e-9)


class Holding(LRScheduler):
    """A scheduler that holds something besides its optimizer."""

    def __init__(self, optimizer: Any, held: Any) -> None:
        self.held = held
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        return [0.1]


def slow(step: int) -> float:
    time.sleep(1e-5)
    return 0.1


def broken(step: int) -> float:
    if step == 17:
        raise RuntimeError("no rate today")
    return 0.1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            lambda o: kinds.ReduceLROnPlateau(o),
            "the rates of ReduceLROnPlateau follow a metric and are not known ahead",
        ),
        (
            lambda o: Holding(o, nn.Linear(2, 2)),
            "the scheduler holds a model or data; give a function of the step",
        ),
        (
            lambda o: Holding(o, torch.zeros(10_000)),
            "the scheduler holds a model or data; give a function of the step",
        ),
        (
            lambda o: Holding(o, [bytes(1 << 22)] * 2 + [bytearray(1 << 24)]),
            "the scheduler holds too much to be copied; give a function of the step",
        ),
        (
            lambda o: Holding(o, (n for n in range(3))),
            "a Holding cannot be copied: cannot pickle 'generator' object",
        ),
        (lambda o: broken, "no rate today"),
        (lambda o: lambda step: 1.0 - step, "the rate at step 2 is -1, not a number of at least 0"),
        (lambda o: lambda step: math.nan, "the rate at step 0 is nan, not a number of at least 0"),
        (lambda o: lambda step: "fast", "could not convert string to float: 'fast'"),
    ],
)
def test_a_schedule_that_cannot_be_told_leaves_the_plan_without_rates(
    source: Callable[[Any], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    plan = trajmon.Plan(total_steps=STOP, learning_rate=source(optimizer), objective="loss")
    outlook = Outlook(plan, "a")
    told = outlook.ahead(10, {"loss": 2.0})
    assert told is not None
    assert told == PlanAhead(steps=30, objective="loss", tolerance=0.02)
    assert [record.getMessage() for record in caplog.records] == [
        f"run 'a': the learning rates ahead are left out: {text}"
    ]


def test_a_schedule_that_has_ended_or_is_slow_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, scheduler, _ = training(lambda o: kinds.StepLR(o, 3), 5)
    with pytest.raises(ValueError, match=r"^the schedule stands at step 5, the planned end is 5$"):
        rates_ahead(scheduler, 1, 5)
    most = _rates.MOST_RATES
    with pytest.raises(
        ValueError,
        match=rf"^{most + 1} steps of a StepLR are too many to go through, the most are {most}; give a function of",
    ):
        rates_ahead(scheduler, 1, 5 + most + 1)
    monkeypatch.setattr(_rates, "SECONDS", 0.0)
    with pytest.raises(
        ValueError, match=r"^going through the schedule takes longer than 0 s; give a quicker"
    ):
        rates_ahead(slow, 1, 1000)


def test_sums_keep_the_digits_of_small_rates() -> None:
    rates = np.array([1e10, *[1e-10] * 9])
    sums = RateSums.of(0, 1, 10, rates)
    assert sums.from_step(1) == pytest.approx((9e-10, 9e-20), rel=1e-14)


def test_what_is_told_with_a_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    plan = trajmon.Plan(total_steps=STOP, learning_rate=lambda _: 0.5)
    outlook = Outlook(plan, "a")
    assert outlook.ahead(0, {}) == PlanAhead(steps=40, rate_sum=20.0, rate_squared_sum=10.0)
    assert outlook.ahead(40, {}) == PlanAhead(steps=0, rate_sum=0.0, rate_squared_sum=0.0)
    assert not caplog.records
    assert outlook.ahead(41, {}) is None
    assert outlook.ahead(42, {}) is None
    assert [record.getMessage() for record in caplog.records] == [
        "run 'a': step 41 is past the planned end, 40: nothing is planned from here on"
    ]
    # A step before the first, as a trainer may count.
    assert outlook.ahead(-1, {}) == PlanAhead(steps=41)
    assert Outlook(trajmon.Plan(), "a").ahead(3, {"loss": 1.0}) is None


def test_rates_without_an_end_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    outlook = Outlook(trajmon.Plan(learning_rate=lambda _: 0.5, objective="loss"), "a")
    assert outlook.ahead(0, {}) == PlanAhead(objective="loss")
    assert [record.getMessage() for record in caplog.records] == [
        "run 'a': learning rates are planned without total_steps, and are left out"
    ]


@pytest.mark.parametrize(
    ("settings", "value", "expected"),
    [
        ({}, 2.0, 0.02),
        ({}, -2.0, 0.02),
        ({}, math.nan, None),
        ({}, math.inf, None),
        ({"larger_is_better": True}, 0.7, 0.01),
        ({"larger_is_better": True}, 70.0, None),
        ({"larger_is_better": True, "tolerance": 1.0}, 70.0, 1.0),
        ({"tolerance": 0.0}, 2.0, 0.0),
    ],
)
def test_what_a_switch_may_cost(settings: dict[str, Any], value: float, expected: float | None) -> None:
    outlook = Outlook(trajmon.Plan(objective="metric", **settings), "a")
    told = outlook.ahead(0, {"metric": value, "other": 5.0})
    assert told is not None
    assert (told.objective, told.larger_is_better) == ("metric", settings.get("larger_is_better", False))
    assert told.tolerance == expected


def test_an_objective_that_never_comes_or_has_no_unit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    missing = Outlook(trajmon.Plan(objective="acuracy"), "a")
    rare = Outlook(trajmon.Plan(objective="accuracy", larger_is_better=True), "b")
    for step in range(30):
        missing.ahead(step, {"accuracy": 0.5})
        rare.ahead(step, {"accuracy": 50.0} if step == 9 else {})
    assert [record.getMessage() for record in caplog.records] == [
        "run 'a': the objective 'acuracy' is not among the metrics of the first 10 checkpoints",
        "run 'b': the objective 'accuracy' is 50, not from 0 to 1: say what a switch may cost of it with "
        "tolerance=, else none is advised",
    ]


def test_a_plan_ahead_goes_through_json() -> None:
    full = PlanAhead(7, 0.5, 0.05, "loss", True, 0.01)
    assert {field.name for field in fields(PlanAhead)} == set(full.__slots__)
    for one in (full, PlanAhead()):
        assert PlanAhead.from_json({name: getattr(one, name) for name in one.__slots__}) == one
    with pytest.raises(KeyError):
        PlanAhead.from_json({"steps": 7})


def test_walking_a_schedule_draws_no_random_number_of_the_training() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)

    def noisy(_: int) -> float:
        return 1.0 + 0.1 * random.random() + 0.1 * float(torch.rand(()))

    before = random.getstate(), torch.get_rng_state()
    rates_ahead(kinds.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else noisy(step)), 1, STOP)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_slow_schedule_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rates, "SECONDS", 0.05)
    asked = []

    def slow(step: int) -> float:
        asked.append(step)
        time.sleep(0.03)
        return 0.1

    with pytest.raises(ValueError, match="takes longer than"):
        rates_ahead(slow, 1, 200)
    assert len(asked) <= 3


def test_the_last_of_many_rates_is_not_asked_for_past_the_end() -> None:
    total = 2 * _rates.MOST_RATES + 3
    sums = rates_ahead(lambda step: 0.1 * (1 - step / (total - 1)), 1, total)
    found = sums.from_step(0)
    assert found is not None
    assert found[0] == pytest.approx(0.05 * total, rel=1e-4)


def test_sums_that_float64_cannot_square_are_left_out_of_what_is_told() -> None:
    outlook = Outlook(trajmon.Plan(total_steps=9000, learning_rate=lambda s: 0.1 * 0.95**s), "a")
    told = [outlook.ahead(step, {}) for step in range(0, 9000, 7)]
    for one in told:
        assert one is not None
        if one.rate_sum is not None and one.rate_squared_sum is not None and one.steps is not None:
            assert one.rate_sum**2 <= one.steps * one.rate_squared_sum * (1 + 1e-6)
    assert told[0] is not None
    assert told[0].rate_sum is not None
    huge = Outlook(trajmon.Plan(total_steps=9, learning_rate=lambda _: 1e155), "a").ahead(1, {})
    assert huge == PlanAhead(steps=8)


def test_a_chosen_tolerance_holds_where_the_objective_is_not_given() -> None:
    outlook = Outlook(trajmon.Plan(objective="acc", larger_is_better=True), "a")
    first = outlook.ahead(1, {"acc": 0.5})
    assert first is not None
    assert first.tolerance == 0.01
    after = outlook.ahead(2, {})
    assert after is not None
    assert after.tolerance == 0.01


def test_a_metric_that_is_nan_does_not_use_up_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    outlook = Outlook(trajmon.Plan(objective="acc", larger_is_better=True), "a")
    outlook.ahead(1, {"acc": math.nan})
    assert not caplog.records
    outlook.ahead(2, {"acc": 70.0})
    assert "not from 0 to 1" in caplog.text


def test_a_scheduler_that_holds_data_is_not_copied() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = kinds.StepLR(optimizer, 3)
    # Not contiguous: pickling would copy it whole before the bound is seen.
    scheduler.data = np.ones(4_000_000)[::-1]  # type: ignore[attr-defined] # as subclasses keep what they like
    with pytest.raises(
        ValueError, match=r"^the scheduler holds a model or data; give a function of the step$"
    ):
        rates_ahead(scheduler, 1, STOP)
