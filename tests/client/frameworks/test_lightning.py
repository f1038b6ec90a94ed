"""The Lightning callback under the real trainer, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import trajmon
from client.frameworks import lightning_training  # noqa: TID251 # tests/client, on the path of the tests
from client.frameworks.lightning_training import (  # noqa: TID251 # the same
    BATCHES,
    Regression,
    Validated,
    fit,
    rows,
)
from client.frameworks.runs import DELIVERY_SECONDS, Runs, path, steps, wait_for_answer  # noqa: TID251 # the same
from client.recording import free_port  # noqa: TID251 # the same
from trajmon.errors import RunNameError
from trajmon.lightning import TrajectoryCallback
from trajmon.switch import is_switched, switch_to_norm_only

TESTS = Path(__file__).parents[2]


def watching(run: str | None, **options: Any) -> TrajectoryCallback:
    return TrajectoryCallback(run, **({"close_timeout": DELIVERY_SECONDS} | options))


def saving(folder: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "saved", filename="{step}", every_n_train_steps=every, save_top_k=-1)


def losses(module: LightningModule) -> list[float]:
    assert isinstance(module, Regression)
    return module.losses


class At(Callback):
    """Does something once so many steps are done."""

    def __init__(self, step: int, action: Callable[[Trainer, LightningModule], object]) -> None:
        self.step = step
        self.action = action

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            self.action(trainer, pl_module)


@pytest.fixture(scope="module")
def unwatched_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Of 50 steps."""
    return losses(fit(tmp_path_factory.mktemp("unwatched"), max_steps=50)[1])


def test_fit_and_resume_in_another_process(runs: Runs, tmp_path: Path) -> None:
    _, unwatched = fit(tmp_path / "a", max_steps=130)
    callback = watching("lightning", every=20)
    trainer, watched = fit(tmp_path, [callback, saving(tmp_path, 50)], max_steps=130)
    assert losses(watched) == losses(unwatched)
    assert len(losses(watched)) == 130
    assert steps(runs.points("lightning", 7)) == [0, 20, 40, 60, 80, 100, 120]

    logged = [row for row in rows(trainer) if "trajmon/network/mds" in row]
    assert logged[-1]["trajmon/checkpoint"] == 6
    assert logged[-1]["trajmon/network/mds"] == pytest.approx(
        runs.get_run("lightning").summary.mean_directional_similarity
    )
    assert all(0 <= row["step"] <= 130 for row in logged)

    resume_from = str(tmp_path / "saved" / "step=100.ckpt")
    program = subprocess.run(
        [sys.executable, "-m", lightning_training.__name__, str(tmp_path), resume_from, "lightning"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert program.returncode == 0, program.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["watched"]["losses"] == answer["unwatched"]["losses"]
    assert len(answer["watched"]["losses"]) == answer["watched"]["step"] - 100 == 100
    assert answer["problems"] == 0
    points = runs.points("lightning", 13)
    # Step 120 had been done; going back to 100 makes a checkpoint there, which takes over from the old ones.
    assert steps(points)[7:] == [100, 120, 140, 160, 180, 200]
    assert path(points) == list(range(0, 201, 20))
    assert [point.attempt for point in points] == [1] * 7 + [2] * 6
    assert [point.superseded for point in points] == [False] * 5 + [True] * 2 + [False] * 6
    assert answer["watched"]["rows"][-1]["trajmon/checkpoint"] == 12
    assert "trajmon/network/mds" in answer["watched"]["rows"][-1]


def test_metrics_and_epochs_come_from_the_trainer(runs: Runs, tmp_path: Path) -> None:
    module = Validated()
    callback = watching("epochs", every="epoch")
    trainer, _ = fit(tmp_path, [callback], module=module, validation=lightning_training.data(2), max_epochs=3)
    points = runs.points("epochs", 4)
    assert steps(points) == [0, BATCHES, 2 * BATCHES, 3 * BATCHES]
    assert [point.epoch for point in points] == [0.0, 1.0, 2.0, 3.0]
    assert points[0].metrics == {}
    for number, point in enumerate(points[1:], start=1):
        assert point.metrics["loss"] == pytest.approx(module.losses[number * BATCHES - 1])
        assert point.metrics["val_loss"] > 0
    assert module.losses[-1] == pytest.approx(float(trainer.callback_metrics["loss"]))


@pytest.mark.long
def test_a_training_without_a_name_goes_on_from_an_epochs_end(runs: Runs, tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1)
    fit(tmp_path, [watching(None), saved], max_epochs=2)
    fit(tmp_path, [watching(None)], tmp_path / "saved" / "epoch=1.ckpt", max_epochs=4)
    (run,) = runs.list_runs("Regression-")
    assert run.name.startswith("Regression-20"), "class and time"
    points = runs.points(run.name, 5)
    assert steps(points) == [0, 40, 80, 120, 160]
    assert [point.attempt for point in points] == [1, 1, 1, 2, 2]
    assert not any(point.superseded for point in points), "nothing is repeated"


@pytest.mark.long
def test_the_same_trainer_goes_on(runs: Runs, tmp_path: Path) -> None:
    callback = watching("goes-on", every=20)
    trainer, module = fit(tmp_path, [callback], max_steps=40)
    trainer.fit_loop.epoch_loop.max_steps = 80
    fit(tmp_path, module=module, trainer=trainer)
    points = runs.points("goes-on", 5)
    assert steps(points) == [0, 20, 40, 60, 80]
    assert [point.attempt for point in points] == [1, 1, 1, 2, 2]


def test_batches_that_accumulate_are_no_steps(runs: Runs, tmp_path: Path) -> None:
    fit(tmp_path, [watching("accumulated", every=5)], max_steps=20, accumulate_grad_batches=3)
    points = runs.points("accumulated", 5)
    assert steps(points) == [0, 5, 10, 15, 20]
    # 5 steps of 3 batches; 40 batches make 14 steps, the last one of a single batch.
    assert [point.epoch for point in points] == [0.0, 15 / 40, 30 / 40, 1 + 3 / 40, 1 + 18 / 40]


class TwoOptimizers(Regression):
    """Each batch takes a step of both, as adversarial trainings do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        first, second = self.net[0].parameters(), self.net[4].parameters()
        return [torch.optim.SGD(first, lr=0.1), torch.optim.SGD(second, lr=0.01)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss


def test_two_optimizers_miss_no_checkpoint(runs: Runs, tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, [watching("two", every=5)], module=TwoOptimizers(), max_steps=20)
    assert trainer.global_step == 20
    assert steps(runs.points("two", 5)) == [0, 6, 10, 16, 20]


@pytest.mark.long
def test_another_schedule_after_a_resume_leaves_no_wrong_path(runs: Runs, tmp_path: Path) -> None:
    fit(tmp_path, [watching("schedule", every=20), saving(tmp_path, 50)], max_steps=90)
    fit(tmp_path, [watching("schedule", every=45)], tmp_path / "saved" / "step=50.ckpt", max_steps=100)
    points = runs.points("schedule", 7)
    assert steps(points) == [0, 20, 40, 60, 80, 50, 90]
    assert path(points) == [0, 20, 40, 50, 90]


def test_the_switch_survives_a_resume(runs: Runs, tmp_path: Path) -> None:
    switch = At(40, lambda trainer, module: switch_to_norm_only(trainer.model, trainer.optimizers))  # type: ignore[arg-type] # it is one in training
    fit(tmp_path, [watching("switch", every=20), switch, saving(tmp_path, 50)], max_steps=60)
    saved = tmp_path / "saved" / "step=50.ckpt"
    state = torch.load(saved, weights_only=True)
    assert len(state["optimizer_states"][0]["state"]) == 2, "the norm's weight and bias"

    torch.manual_seed(0)
    module = Regression()
    assert not is_switched(module)
    fit(tmp_path, [watching("switch", every=20)], saved, module, max_steps=120)
    assert is_switched(module)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, state["state_dict"][name]) == (not name.startswith("net.1.")), name
    points = runs.points("switch", 9)
    assert path(points) == [0, 20, 40, 50, 60, 80, 100, 120]
    assert [point.norm_only for point in points] == [point.step > 40 for point in points]


def test_advice_reaches_the_callback_and_what_it_raises_does_not_reach_training(
    runs: Runs, unwatched_losses: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[trajmon.Advice] = []

    def take(advice: trajmon.Advice) -> None:
        heard.append(advice)
        raise RuntimeError("the user's own mistake")

    def wait_for_advice(trainer: Trainer, module: LightningModule) -> None:
        assert callback.recorder is not None
        wait_for_answer(callback.recorder)

    callback = watching("advised", every=2, on_advice="callback", advice_callback=take)
    _, watched = fit(tmp_path, [At(46, wait_for_advice), callback], max_steps=50)
    assert losses(watched) == unwatched_losses
    assert heard[0].state == "explore"
    assert "the user's own mistake" in caplog.text


@pytest.mark.long
def test_a_new_training_under_an_old_name_is_another_run(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = watching("again", every=20)
    fit(tmp_path, [callback, saving(tmp_path / "1", 40)], max_steps=40)
    fit(tmp_path, [callback, saving(tmp_path / "2", 40)], max_steps=60)
    assert steps(runs.points("again", 3)) == [0, 20, 40]
    assert steps(runs.points("again-2", 4)) == [0, 20, 40, 60]
    assert (
        "run 'again' exists and this training starts from the beginning: it is recorded as 'again-2'"
        in caplog.text
    )
    fit(tmp_path, [watching("again", every=20)], tmp_path / "2/saved/step=40.ckpt", max_steps=80)
    assert path(runs.points("again-2", 7)) == [0, 20, 40, 60, 80], "the checkpoint knows which one it is"
    assert runs.get_run("again").summary.attempt == 1


def test_nothing_is_recorded_on_a_trial_run(runs: Runs, tmp_path: Path) -> None:
    callback = watching("trial")
    fit(tmp_path, [callback], fast_dev_run=True)
    assert callback.recorder is None
    assert not runs.list_runs("trial")


@pytest.mark.parametrize(
    ("options", "state", "reason"),
    [
        ({"run": "no/name"}, "refused", "'no/name' is not a run name; use 1 to 64 of the characters"),
        ({"run": "away", "server": f"127.0.0.1:{free_port()}"}, "closed", ""),
        ({"run": "needs", "resume": "must"}, "refused", "there is no run 'needs' in "),
        ({"run": "small", "snapshot_budget_bytes": 5000}, "closed", "the snapshot budget of 5000 bytes"),
        ({"run": "groups", "groups": {"none": "no such layer"}}, "refused", "none"),
    ],
)
def test_trouble_does_not_reach_training(
    lonely_home: Path,
    unwatched_losses: list[float],
    tmp_path: Path,
    options: dict[str, Any],
    state: str,
    reason: str,
) -> None:
    callback = TrajectoryCallback(every=10, close_timeout=0.0, **options)
    _, watched = fit(tmp_path, [callback], max_steps=50)
    assert losses(watched) == unwatched_losses
    assert callback.recorder is not None
    status = callback.recorder.status
    assert status.state == state
    assert reason in status.reason
    if options["run"] == "away":
        assert status.recorded == 6


def test_a_model_that_changes_goes_on_unwatched(runs: Runs, tmp_path: Path) -> None:
    def grow(trainer: Trainer, module: LightningModule) -> None:
        module.late = nn.Linear(2, 2)

    callback = watching("grows", every=10)
    trainer, _ = fit(tmp_path, [At(25, grow), callback], max_steps=50)
    assert trainer.global_step == 50
    assert callback.recorder is not None
    assert "parameter 'late.weight' of shape (2, 2) was not in the model when recording began" in (
        callback.recorder.status.reason
    )
    assert steps(runs.points("grows", 3)) == [0, 10, 20]


@pytest.mark.long
def test_a_resume_with_another_model_trains_unwatched(runs: Runs, tmp_path: Path) -> None:
    fit(tmp_path, [watching("model", every=10), saving(tmp_path, 20)], max_steps=20)
    callback = watching("model", every=10, resume="must")
    trainer, _ = fit(tmp_path, [callback], module=Regression(width=25), max_steps=20)
    assert trainer.global_step == 20
    assert callback.recorder is not None
    assert callback.recorder.status.reason.startswith("run 'model' was recorded from a model ")
    assert "layer 0 was 'net.0.weight' (24, 12) float32, is 'net.0.weight' (25, 12) float32" in (
        callback.recorder.status.reason
    )
    assert steps(runs.points("model", 3)) == [0, 10, 20]


@pytest.mark.long
def test_a_damaged_state_costs_the_name_and_no_more(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, [watching("damaged", every=10), saving(tmp_path, 20)], max_steps=20)
    saved = torch.load(tmp_path / "saved/step=20.ckpt", weights_only=True)
    saved["callbacks"]["trajmon.TrajectoryCallback"] = {"format": 7}
    torch.save(saved, tmp_path / "other.ckpt")
    callback = watching("damaged", every=10)
    fit(tmp_path, [callback], tmp_path / "other.ckpt", max_steps=40)
    assert (
        "restoring failed: the state in the checkpoint is not what this callback writes: {'format': 7}; "
        "training goes on" in caplog.text
    )
    points = runs.points("damaged", 6)
    assert steps(points) == [0, 10, 20, 20, 30, 40]
    assert path(points) == [0, 10, 20, 30, 40]


def test_strict_raises(lonely_home: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNameError) as refused:
        fit(tmp_path, [TrajectoryCallback("no/name", strict=True)], max_steps=2)
    assert str(refused.value).startswith("'no/name' is not a run name; use 1 to 64 of the characters")


def test_the_end_of_a_training_that_fails_has_its_cause(runs: Runs, tmp_path: Path) -> None:
    def fail(trainer: Trainer, module: LightningModule) -> None:
        raise ZeroDivisionError

    callback = watching("fails", every=10)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [callback, At(25, fail)], max_steps=50)
    assert callback.recorder is not None
    assert callback.recorder.status.state == "closed"
    assert callback.recorder.status.reason == "training ended with ZeroDivisionError"
    assert steps(runs.points("fails", 3)) == [0, 10, 20]


class Scheduled(Regression):
    """Half the rate after each epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def test_the_planned_steps_and_rates_are_the_trainers(runs: Runs, tmp_path: Path) -> None:
    callback = watching("planned", every="epoch", plan=trajmon.Plan(objective="loss"))
    fit(tmp_path, [callback], module=Scheduled(), max_epochs=3, accumulate_grad_batches=2)
    plans = [detail.info.plan for detail in runs.wait("planned", 4).checkpoints]
    # Two batches a step.
    epoch = BATCHES // 2
    assert [plan.steps_ahead for plan in plans] == [3 * epoch, 2 * epoch, epoch, 0]
    rates = [0.01 * 0.5**number for number in range(3)]
    for number, plan in enumerate(plans):
        assert plan.rate_sum_ahead == pytest.approx(epoch * sum(rates[number:]))
        assert plan.rate_squared_sum_ahead == pytest.approx(epoch * sum(rate**2 for rate in rates[number:]))
    assert {plan.objective for plan in plans} == {"loss"}
    assert callback._follower.problems == 0
