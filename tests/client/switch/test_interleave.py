"""Phases by turns, also cut short by the advice, and resumed within one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from client.switch.networks import (  # noqa: TID251 # tests/client, on the path of the tests
    NORM,
    OTHERS,
    Net,
    moved,
    network,
    train,
    values,
)
from trajmon.advice import Advice
from trajmon.errors import SwitchError
from trajmon.switch import Interleave, is_switched, restore_switch, switch_state


def training() -> tuple[Net, torch.optim.Optimizer]:
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)


def test_each_step_trains_what_its_phase_says() -> None:
    model, optimizer = training()
    turns = Interleave(model, optimizer, full_steps=3, norm_only_steps=2, keep="head")
    changed = []
    for step in range(12):
        before = values(model)
        train(model, optimizer, range(step, step + 1))
        changed.append("stem.weight" in moved(before, model))
        assert {"head.weight", *NORM} <= set(moved(before, model))
        turns.step()
    assert changed == [True, True, True, False, False] * 2 + [True, True]


def test_the_report_comes_with_the_change() -> None:
    model, optimizer = training()
    turns = Interleave(model, optimizer, full_steps=1, norm_only_steps=2)
    reports = []
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        report = turns.step()
        reports.append(None if report is None else report.training_mode)
    assert reports == ["norm_only", None, "full", "norm_only"]


def advised(states: list[Advice]) -> list[str]:
    """Phases of 8 steps; before each the next advice arrives."""
    model, optimizer = training()
    now = [Advice()]
    turns = Interleave(model, optimizer, full_steps=2, norm_only_steps=100, advice=lambda: now[0])
    phases: list[str] = []
    for step, advice in enumerate(states):
        now[0] = advice
        phases.append(turns.phase)
        train(model, optimizer, range(step, step + 1))
        turns.step()
    return phases


def test_advice_to_resume_ends_a_norm_only_phase() -> None:
    calm, moving = Advice("switch", checkpoint=4), Advice("resume", checkpoint=5)
    assert advised([calm, calm, calm, moving, calm, calm]) == ["full"] * 2 + ["norm_only"] * 2 + ["full"] * 2


def test_advice_from_before_the_phase_does_not_end_it() -> None:
    old = Advice("resume", checkpoint=4)
    assert advised([old, old, old, old]) == ["full", "full", "norm_only", "norm_only"]
    new = Advice("resume", checkpoint=5)
    assert advised([old, old, old, new, old]) == ["full", "full", "norm_only", "norm_only", "full"]


@pytest.mark.parametrize("steps", [1, 4])
def test_resume_within_a_phase(steps: int) -> None:
    model, optimizer = training()
    turns = Interleave(model, optimizer, full_steps=3, norm_only_steps=2)
    for step in range(steps):
        train(model, optimizer, range(step, step + 1))
        turns.step()
    saved: dict[str, Any] = {
        "turns": turns.state_dict(),
        "switch": switch_state(model),
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
    }
    again, fresh = training()
    again.load_state_dict(saved["model"])
    restore_switch(again, fresh, saved["switch"])
    fresh.load_state_dict(saved["optimizer"])
    resumed = Interleave(again, fresh, full_steps=3, norm_only_steps=2)
    resumed.load_state_dict(saved["turns"])
    for step in range(steps, 12):
        assert resumed.phase == turns.phase
        for one, its, schedule in ((model, optimizer, turns), (again, fresh, resumed)):
            train(one, its, range(step, step + 1))
            schedule.step()
    assert moved(values(model), again) == []


def test_a_phase_of_the_past_is_left_and_entered() -> None:
    model, optimizer = training()
    turns = Interleave(model, optimizer, full_steps=3, norm_only_steps=2)
    turns.load_state_dict({"done": 1, "phase": "norm_only", "advised": None})
    assert is_switched(model)
    turns.load_state_dict({"done": 0, "phase": "full", "advised": None})
    assert not is_switched(model)


@pytest.mark.parametrize(
    ("full", "norm_only", "text"),
    [(0, 1, "full_steps=0 is not at least 1"), (2, -1, "norm_only_steps=-1 is not at least 1")],
)
def test_phases_have_steps(full: int, norm_only: int, text: str) -> None:
    model, optimizer = training()
    with pytest.raises(SwitchError) as caught:
        Interleave(model, optimizer, full_steps=full, norm_only_steps=norm_only)
    assert str(caught.value) == text
    assert not is_switched(model)
    assert all(name in dict(model.named_parameters()) for name in OTHERS)
