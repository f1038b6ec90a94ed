"""Record a training loop that uses Hugging Face Accelerate.

from accelerate import Accelerator
from trajmon.accelerate import prepare_recorder

accelerator = Accelerator(gradient_accumulation_steps=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
recorder = prepare_recorder(accelerator, model, optimizer, run="vit", every="every 100 steps")
# accelerator.load_state(folder)    to go on with a training that was saved
with recorder:
    for epoch in range(epochs):
        for batch in loader:
            with accelerator.accumulate(model):
                ...
                optimizer.step()
                optimizer.zero_grad()
            recorder.after_batch(metrics={"loss": loss})
        recorder.after_epoch()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator
from torch import nn

from trajmon._files import read_json, write_json
from trajmon._framework_options import OnAdvice, Options
from trajmon._frameworks import Follower
from trajmon._plan import Plan
from trajmon._recorder import Recorder
from trajmon._watch import Resume
from trajmon.advice import Advice
from trajmon.numerics.views import View
from trajmon.schedules import Schedule
from trajmon.snapshots.format import CopyMode
from trajmon.snapshots.keeping import SnapshotMode
from trajmon_protos.sketch import SketchSpec

__all__ = ["AcceleratedRecorder", "prepare_recorder"]

# In the folder that `accelerator.save_state` writes. A file of its own: an object that is registered for
# checkpointing makes folders that were saved without it unreadable.
STATE_FILE = "trajmon.json"


def prepare_recorder(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: object | None = None,
    *,
    run: str | None = None,
    every: str | int | Schedule = "epoch",
    server: str | None = None,
    initial: bool = True,
    tags: Sequence[str] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
    views: Sequence[View] = (),
    family: str | None = "auto",
    resume: Resume = "allow",
    copy: CopyMode = "wait",
    home: str | os.PathLike[str] | None = None,
    snapshot_dir: str | os.PathLike[str] | None = None,
    snapshot_budget_bytes: int | None = None,
    mode: SnapshotMode = "exact",
    snapshots_kept: int | None = None,
    sketch: SketchSpec | bool = False,
    memory_budget_bytes: int | None = None,
    agent_threads: int | None = None,
    strict: bool = False,
    plan: Plan | None = None,
    on_advice: OnAdvice = "log",
    advice_callback: Callable[[Advice], object] | None = None,
    log_hallmarks: bool | Sequence[str] = True,
    close_timeout: float = 2.0,
) -> AcceleratedRecorder:
    """A recorder for what `accelerator.prepare` returned. On all ranks; nothing is recorded before it starts.

    `every`: see :func:`trajmon.schedules.parse_schedule`. `log_hallmarks`: True logs those of the group `network`
    with `accelerator.log`, which reaches all trackers; a list names other groups. The other arguments are those of
    :func:`trajmon.watch`. Arguments that make no sense raise ValueError.

    From here on `accelerator.save_state` writes trajmon.json into its folder: the run's name, how far it was
    recorded, and the norm-only switch; `accelerator.load_state` reads it, and the run is continued as its next
    attempt. A training that starts from the beginning under a name that exists is recorded as NAME-2. Without
    `run` the name is made of the model's class and the time.
    """
    options = Options(
        run=run,
        every=every,
        server=server,
        initial=initial,
        tags=tags,
        groups=groups,
        views=views,
        family=family,
        resume=resume,
        copy=copy,
        home=home,
        snapshot_dir=snapshot_dir,
        snapshot_budget_bytes=snapshot_budget_bytes,
        mode=mode,
        snapshots_kept=snapshots_kept,
        sketch=sketch,
        memory_budget_bytes=memory_budget_bytes,
        agent_threads=agent_threads,
        strict=strict,
        plan=plan,
        on_advice=on_advice,
        advice_callback=advice_callback,
        log_hallmarks=log_hallmarks,
        close_timeout=close_timeout,
    )
    return AcceleratedRecorder(accelerator, model, optimizer, options)


class AcceleratedRecorder:
    """Counts the optimizer's steps and records by schedule; made by :func:`prepare_recorder`. A context manager.

    Outside ``strict=True`` nothing here raises.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: object | None, options: Options
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._follower = Follower(options)
        self._step = 0
        self._epochs = 0
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(error)

    @property
    def recorder(self) -> Recorder | None:
        """What records, with its status, hallmarks and advice; None before the start."""
        return self._follower.recorder

    @property
    def step(self) -> int:
        """Optimizer steps so far, those before a resume included."""
        return self._step

    def start(self, step: int | None = None) -> None:
        """Open the run. Call it before the first step, and after `accelerator.load_state` if there is one.

        `step`: optimizer steps that are done, if the loaded folder does not say it.
        """
        if self._follower.is_open:
            return
        if step is not None:
            self._step = step
        optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        self._follower.start(
            self._model,
            [] if optimizer is None else [optimizer],
            step=self._step,
            word=type(self._accelerator.unwrap_model(self._model)).__name__,
        )

    def after_batch(self, metrics: Mapping[str, object] | None = None, epoch: float | None = None) -> None:
        """Call it after each batch: steps count where gradients were applied, not where they were accumulated."""
        if not self._follower.is_open:
            return
        if self._accelerator.sync_gradients and not self._accelerator.optimizer_step_was_skipped:
            self._step += 1
            self._follower.after_step(self._step, epoch, lambda: metrics or {})
        self._log()

    def after_epoch(self, metrics: Mapping[str, object] | None = None) -> None:
        """Call it after each epoch."""
        if not self._follower.is_open:
            return
        self._epochs += 1
        self._follower.after_epoch(self._step, self._epochs, lambda: metrics or {})
        self._log()

    def checkpoint(
        self, metrics: Mapping[str, object] | None = None, epoch: float | None = None
    ) -> int | None:
        """Record the parameters as they are now, whatever the schedule says; the number, None if not recorded."""
        return self._follower.checkpoint(epoch, metrics)

    def close(self) -> None:
        """Training has ended. Before `accelerator.end_training`: the trackers get the last hallmarks."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._follower.is_open:
            self._follower.end(reason=error)
            self._log()

    def _log(self) -> None:
        with self._follower.kept_from_training("logging hallmarks"):
            values = self._follower.new_hallmarks()
            if values:
                self._accelerator.log(values, step=self._step)

    def _save(self, models: list[Any], weights: list[Any], folder: str) -> None:
        with self._follower.kept_from_training("saving"):
            state = {**self._follower.state(), "epochs": self._epochs}
            if "run" in state and self._accelerator.is_main_process:
                write_json(Path(folder) / STATE_FILE, state)

    def _load(self, models: list[Any], folder: str) -> None:
        with self._follower.kept_from_training("restoring"):
            path = Path(folder) / STATE_FILE
            if not path.exists():
                return
            state = read_json(path)
            self._follower.restore(state)
            if state is not None:
                self._step, self._epochs = int(state["step"]), int(state["epochs"])
