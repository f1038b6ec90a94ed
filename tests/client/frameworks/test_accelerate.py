"""The recorder for Accelerate in a real loop, against a real server."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trajmon
from client.frameworks.runs import DELIVERY_SECONDS, Runs, path, steps  # noqa: TID251 # tests/client
from client.recording import free_port  # noqa: TID251 # the same
from trajmon.accelerate import AcceleratedRecorder, prepare_recorder
from trajmon.errors import RunNameError, RunOwnedError
from trajmon.switch import is_switched, switch_to_norm_only


class KeepingTracker(GeneralTracker):  # type: ignore[misc] # untyped
    """Keeps what it is told."""

    name = "keeping"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []

    @property
    def tracker(self) -> KeepingTracker:
        return self

    def store_init_configuration(self, values: Any) -> None:
        pass

    def log(self, values: Any, step: int | None = None, **kwargs: Any) -> None:
        self.logged.append((step or 0, values))


class Loop:
    """A loop over 40 batches an epoch; each step applies the gradients of `accumulate` batches."""

    def __init__(self, run: str | None, accumulate: int = 1, watched: bool = True, **options: Any) -> None:
        torch.manual_seed(0)
        self.tracker = KeepingTracker()
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=accumulate, log_with=self.tracker
        )
        self.accelerator.init_trackers("tests")
        net = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 3))
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(320, 12, generator=generator)
        loader = DataLoader(TensorDataset(inputs, inputs[:, :3].abs()), batch_size=8)
        adam = torch.optim.AdamW(net.parameters(), lr=0.01)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(net, adam, loader)
        self.recorder: AcceleratedRecorder | None = None
        if watched:
            self.recorder = prepare_recorder(
                self.accelerator,
                self.model,
                self.optimizer,
                run=run,
                **({"close_timeout": DELIVERY_SECONDS} | options),
            )
        self.losses: list[float] = []

    def epoch(self) -> None:
        for inputs, targets in self.loader:
            with self.accelerator.accumulate(self.model):
                loss: Tensor = (self.model(inputs) - targets).square().mean()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.losses.append(float(loss.detach()))
            if self.recorder is not None:
                self.recorder.after_batch({"loss": self.losses[-1]})
        if self.recorder is not None:
            self.recorder.after_epoch({"loss": self.losses[-1]})


def test_a_loop_that_is_saved_and_resumed(runs: Runs, tmp_path: Path) -> None:
    unwatched = Loop(None, accumulate=3, watched=False)
    for _ in range(2):
        unwatched.epoch()
    loop = Loop("accelerate", accumulate=3, every=5)
    assert loop.recorder is not None
    with loop.recorder:
        loop.epoch()
        loop.accelerator.save_state(str(tmp_path / "saved"))
        loop.epoch()
    assert loop.losses == unwatched.losses
    # 40 batches make 14 steps, the last one of a single batch.
    assert loop.recorder.step == 28
    points = runs.points("accelerate", 6)
    assert steps(points) == [0, 5, 10, 15, 20, 25]
    assert points[1].metrics == {"loss": pytest.approx(loop.losses[14])}
    step, logged = loop.tracker.logged[-1]
    assert (step, logged["trajmon/checkpoint"]) == (28, 5)
    assert logged["trajmon/network/mds"] == pytest.approx(
        runs.get_run("accelerate").summary.mean_directional_similarity
    )

    resumed = Loop("accelerate", accumulate=3, every=5)
    assert resumed.recorder is not None
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    with resumed.recorder:
        assert resumed.recorder.step == 14
        resumed.epoch()
    points = runs.points("accelerate", 10)
    assert steps(points)[6:] == [14, 15, 20, 25]
    assert path(points) == [0, 5, 10, 14, 15, 20, 25]
    assert [point.attempt for point in points] == [1] * 6 + [2] * 4


def test_the_switch_survives_a_resume(runs: Runs, tmp_path: Path) -> None:
    loop = Loop(None, every="epoch")
    assert loop.recorder is not None
    with loop.recorder:
        loop.epoch()
        switch_to_norm_only(loop.model, loop.optimizer)
        loop.accelerator.save_state(str(tmp_path / "saved"))
    state = json.loads((tmp_path / "saved" / "trajmon.json").read_text())
    assert state["run"].startswith("Sequential-20")

    resumed = Loop(None, every="epoch")
    assert resumed.recorder is not None
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    assert not is_switched(resumed.model)
    before = {name: value.clone() for name, value in resumed.model.state_dict().items()}
    with resumed.recorder:
        assert is_switched(resumed.model)
        resumed.epoch()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("1.")), name
    points = runs.points(state["run"], 3)
    assert steps(points) == [0, 40, 80]
    assert [point.epoch for point in points] == [None, 1.0, 2.0]
    assert [point.norm_only for point in points] == [False, False, True]


def test_folders_with_and_without_it_can_be_loaded(
    lonely_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = Loop(None, watched=False)
    without.accelerator.save_state(str(tmp_path / "without"))
    loop = Loop("loads", close_timeout=0.0)
    assert loop.recorder is not None
    loop.accelerator.load_state(str(tmp_path / "without"))
    loop.recorder.start(step=0)
    loop.accelerator.save_state(str(tmp_path / "with"))
    without.accelerator.load_state(str(tmp_path / "with"))
    (tmp_path / "with" / "trajmon.json").write_text("{")
    loop.accelerator.load_state(str(tmp_path / "with"))
    assert (
        "restoring failed: the state in the checkpoint is not what this callback writes: None; training goes on"
        in caplog.text
    )
    assert loop.recorder.checkpoint() == 1
    loop.recorder.close()
    assert loop.recorder.checkpoint() is None


def test_a_recorder_that_was_forgotten_gives_its_run_free(lonely_home: Path) -> None:
    forgotten = Loop("forgotten", server=f"127.0.0.1:{free_port()}", close_timeout=0.0)
    assert forgotten.recorder is not None
    forgotten.recorder.start()
    following = forgotten.recorder._follower
    model = forgotten.model
    with pytest.raises(RunOwnedError):
        trajmon.watch(model, run="forgotten", resume="must", strict=True)
    forgotten.accelerator._save_model_state_pre_hook.clear()
    forgotten.accelerator._load_model_state_pre_hook.clear()
    ended = weakref.ref(following)
    del forgotten, following
    gc.collect()
    assert ended() is None
    trajmon.watch(model, run="forgotten", resume="must", strict=True).close(0.0)


def test_strict_raises_and_otherwise_training_goes_on(lonely_home: Path) -> None:
    strict = Loop("no/name", strict=True)
    assert strict.recorder is not None
    with pytest.raises(RunNameError) as refused:
        strict.recorder.start()
    assert str(refused.value).startswith("'no/name' is not a run name; use 1 to 64 of the characters")
    loop = Loop("no/name", every=1)
    assert loop.recorder is not None
    with loop.recorder:
        loop.epoch()
    assert loop.recorder.recorder is not None
    assert loop.recorder.recorder.status.state == "refused"
    assert loop.recorder.step == 40
