"""The callback for transformers under the real Trainer, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import trajmon
from client.frameworks.huggingface_training import (  # noqa: TID251 # tests/client, on the path of the tests
    STEPS_PER_EPOCH,
    fit,
    make_model,
)
from client.frameworks.runs import DELIVERY_SECONDS, Runs, path, steps  # noqa: TID251 # the same
from client.recording import free_port, wait_until  # noqa: TID251 # the same
from trajmon.errors import RunNameError
from trajmon.huggingface import TrajectoryCallback
from trajmon.switch import is_switched, switch_to_norm_only


def watching(run: str | None, **options: Any) -> TrajectoryCallback:
    return TrajectoryCallback(run, **({"close_timeout": DELIVERY_SECONDS} | options))


def state_of(callback: TrajectoryCallback) -> str:
    assert callback.recorder is not None
    return callback.recorder.status.state


class At(TrainerCallback):
    """Does something with model and optimizer once so many steps are done."""

    def __init__(self, step: int, action: Callable[[nn.Module, Any], object]) -> None:
        self.step = step
        self.action = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(kwargs["model"], kwargs["optimizer"])


def test_train_and_resume(runs: Runs, tmp_path: Path) -> None:
    _, unwatched = fit(tmp_path / "a", max_steps=130)
    callback = watching("hf", every=20)
    trainer, watched = fit(tmp_path, [callback], max_steps=130, save_strategy="steps", save_steps=50)
    assert watched.losses == unwatched.losses
    assert len(watched.losses) == 130
    points = runs.points("hf", 7)
    assert steps(points) == [0, 20, 40, 60, 80, 100, 120]
    assert [point.epoch for point in points] == [step / STEPS_PER_EPOCH for step in steps(points)]
    # The trainer logs a step after its end: at a checkpoint, the newest loss is that of the step before.
    assert [point.metrics["loss"] for point in points[1:]] == [
        watched.losses[step - 2] for step in steps(points)[1:]
    ]

    mds = runs.get_run("hf").summary.mean_directional_similarity
    step, last = watched.logs[-1]
    assert (step, last["trajmon/checkpoint"]) == (130, 6), "the reporter stands before the callback"
    assert last["trajmon/network/mds"] == pytest.approx(mds)
    *_, beside, summary = trainer.state.log_history
    assert beside == {**last, "step": 130}
    assert "train_runtime" in summary
    assert not [key for key in summary if key.startswith("trajmon")]

    # New objects all over: what they know of the first training comes from its files.
    saved = tmp_path / "checkpoint-100"
    _, unwatched = fit(tmp_path / "b", [], saved, max_steps=200)
    callback = watching("hf", every=20)
    trainer, watched = fit(tmp_path, [callback], saved, max_steps=200)
    assert watched.losses == unwatched.losses
    assert len(watched.losses) == 100
    assert callback._follower.problems == 0
    assert [step for step, logs in watched.logs if "loss" in logs and "trajmon/network/mds" in logs]
    points = runs.points("hf", 13)
    assert steps(points)[7:] == [100, 120, 140, 160, 180, 200]
    assert path(points) == list(range(0, 201, 20))
    assert [point.attempt for point in points] == [1] * 7 + [2] * 6
    beside_losses = [
        entry
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] > 100 and "trajmon/network/mds" in entry
    ]
    assert beside_losses, "the run's hallmarks are there from the start of the attempt"
    assert beside_losses[-1]["step"] == 200


def test_a_training_that_ends_within_an_epoch_has_no_epochs_end_there(runs: Runs, tmp_path: Path) -> None:
    fit(tmp_path, [watching("hf-epochs")], max_steps=50, gradient_accumulation_steps=2, logging_steps=5)
    points = runs.points("hf-epochs", 3)
    # 40 batches make 20 steps.
    assert steps(points) == [0, 20, 40]
    assert [point.epoch for point in points] == [0.0, 1.0, 2.0]


def test_the_switch_survives_a_resume(runs: Runs, tmp_path: Path) -> None:
    switch = At(20, switch_to_norm_only)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 30, "logging_steps": 10}
    fit(tmp_path, [watching("hf-switch", every=10), switch], max_steps=30, **options)
    saved = tmp_path / "checkpoint-30"
    state = json.loads((saved / "trainer_state.json").read_text())["stateful_callbacks"]["trajmon"]
    assert (state["run"], state["step"], state["recorded"]) == ("hf-switch", 30, 4)
    assert len(state["switch"]["norm"]) == 6

    model = make_model()
    restore: dict[str, Any] = {"restore_callback_states_from_checkpoint": True}
    callback = watching("hf-switch", every=10, tags=("kept",))
    fit(tmp_path, [callback], saved, model, max_steps=60, **(options | restore))
    assert is_switched(model)
    before = torch.load(saved / "optimizer.pt", weights_only=True)
    assert len(before["state"]) == 6
    points = runs.points("hf-switch", 7)
    assert steps(points) == [0, 10, 20, 30, 40, 50, 60]
    assert not any(point.superseded for point in points)
    assert [point.norm_only for point in points] == [point.step > 20 for point in points]
    assert callback.recorder is not None, "transformers did not make another one of it"


def test_a_new_training_is_another_run_and_a_failed_one_can_go_on(runs: Runs, tmp_path: Path) -> None:
    def fail(model: nn.Module, optimizer: Any) -> None:
        raise ZeroDivisionError

    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 10,
        "run_name": "my run",
        "logging_steps": 10,
    }
    # Still there, as what raised keeps it in a notebook.
    failed = watching(None, every=10)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [failed, At(25, fail)], max_steps=30, **options)
    assert state_of(failed) == "recording"
    wait_until(lambda: runs.list_runs("my-run-2"), "the first run")
    (first,) = runs.list_runs("my-run-2")
    callback = watching(None, every=10)
    fit(tmp_path, [callback], tmp_path / "checkpoint-20", max_steps=30, **options)
    (again,) = runs.list_runs("my-run-2")
    assert again.run_id == first.run_id
    assert state_of(failed) == "closed"
    points = runs.points(first.name, 4)
    assert steps(points) == [0, 10, 20, 30]
    assert [point.attempt for point in points] == [1, 1, 1, 2]
    fit(tmp_path / "b", [callback], max_steps=10, **options)
    assert len(runs.list_runs("my-run-2")) == 2, "from the beginning: another training"


@pytest.mark.parametrize(
    ("options", "state", "reason"),
    [
        ({"run": "no/name"}, "refused", "'no/name' is not a run name; use 1 to 64 of the characters"),
        ({"run": "away", "server": f"127.0.0.1:{free_port()}"}, "closed", ""),
    ],
)
def test_trouble_does_not_reach_training(
    lonely_home: Path, tmp_path: Path, options: dict[str, Any], state: str, reason: str
) -> None:
    _, unwatched = fit(tmp_path / "a", max_steps=20)
    callback = TrajectoryCallback(every=10, close_timeout=0.0, **options)
    _, watched = fit(tmp_path, [callback], max_steps=20)
    assert watched.losses == unwatched.losses
    assert callback.recorder is not None
    assert callback.recorder.status.state == state
    assert callback.recorder.status.reason.startswith(reason)
    if state == "closed":
        assert callback.recorder.status.recorded == 3


def test_strict_raises(lonely_home: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNameError) as refused:
        fit(tmp_path, [TrajectoryCallback("no/name", strict=True)], max_steps=2)
    assert str(refused.value).startswith("'no/name' is not a run name; use 1 to 64 of the characters")


def test_the_planned_steps_and_rates_are_the_trainers(runs: Runs, tmp_path: Path) -> None:
    callback = watching("planned-hf", every=20)
    fit(tmp_path, [callback], max_steps=40, save_strategy="steps", save_steps=20)
    plans = [detail.info.plan for detail in runs.wait("planned-hf", 3).checkpoints]
    assert [plan.steps_ahead for plan in plans] == [40, 20, 0]
    # The trainer's own: linear to zero.
    rates = [1e-2 * (1 - step / 40) for step in range(40)]
    assert [plan.rate_sum_ahead for plan in plans] == pytest.approx(
        [sum(rates[step:]) for step in (0, 20, 40)]
    )
    squares = [sum(rate**2 for rate in rates[step:]) for step in (0, 20, 40)]
    assert [plan.rate_squared_sum_ahead for plan in plans] == pytest.approx(squares)
    assert {plan.objective for plan in plans} == {""}

    # Resumed, with an end of the user's own: the rates are the trainer's, for as long as it has any.
    callback = watching("planned-hf", every=20, plan=trajmon.Plan(total_steps=60))
    fit(tmp_path, [callback], tmp_path / "checkpoint-20", max_steps=40)
    resumed = runs.wait("planned-hf", 5).checkpoints[3:]
    assert [detail.info.plan.steps_ahead for detail in resumed] == [40, 20]
    assert resumed[0].info.plan.rate_sum_ahead == pytest.approx(sum(rates[20:]))
    assert callback._follower.problems == 0
