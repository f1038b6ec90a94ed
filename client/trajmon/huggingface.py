"""Record a training that the Trainer of Hugging Face transformers runs.

from transformers import Trainer
from trajmon.huggingface import TrajectoryCallback

trainer = Trainer(model, args, train_dataset=data, callbacks=[TrajectoryCallback(run="pythia", every=100)])
trainer.train()                                 # records
trainer.train(resume_from_checkpoint=True)      # continues the run of the checkpoint
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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

__all__ = ["TrajectoryCallback"]

# Name in the checkpoint's trainer_state.json. Not the name of the class: what stands under that, transformers
# takes as arguments to make the callback anew with.
_STATE_KEY = "trajmon"
_WHOLE = 1e-6
# So far back a metric is looked for in the Trainer's log, which may be long.
_ENTRIES = 50


class TrajectoryCallback(TrainerCallback):
    """Records checkpoints of the trained model by schedule, and logs the hallmarks beside the loss.

    `every`: a number of optimizer steps (`state.global_step`), ``"epoch"``, ``"log"``, or what else
    :func:`trajmon.schedules.parse_schedule` takes. `log_hallmarks`: True adds those of the group `network` to what
    the Trainer logs with the loss, as ``trajmon/network/mds`` and so on, in `state.log_history` and in all of
    `report_to`; a list names other groups. The other arguments are those of :func:`trajmon.watch`.

    The Trainer's checkpoints carry, in trainer_state.json, the run's name, how far it was recorded, and the
    norm-only switch. A training that is resumed from one continues the run as its next attempt. One that starts
    from the beginning under a name that exists is recorded as NAME-2. Without `run` the name is made of the
    arguments' `run_name`, else the model's class, and the time. Metrics of a checkpoint are the newest that the
    Trainer has logged. The planned steps and learning rates are the Trainer's, unless `plan` has its own.

    Nothing is raised into training unless ``strict=True``; arguments that make no sense raise ValueError at once.
    """

    def __init__(
        self,
        run: str | None = None,
        *,
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
    ) -> None:
        self._follower = Follower(
            Options(
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
        )
        self._trainer: Trainer | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the last training; None before the first."""
        return self._follower.recorder

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: object = None,
        lr_scheduler: object = None,
        **kwargs: Any,
    ) -> None:
        """Model and optimizer are those of the checkpoint by now."""
        follower = self._follower
        with follower.kept_from_training("looking for the trainer"):
            self._trainer = _trainer_of(self, state)
            self._go_first()
        if model is None:
            return
        saved: object = state.stateful_callbacks
        if isinstance(saved, dict) and _STATE_KEY in saved:
            follower.restore(saved[_STATE_KEY])
        # With its wrappers: the switch depends on them.
        wrapped = model if self._trainer is None else self._trainer.model_wrapped
        follower.start(
            wrapped,
            [] if optimizer is None else [getattr(optimizer, "optimizer", optimizer)],
            step=state.global_step,
            epoch=state.epoch,
            word=str(getattr(args, "run_name", None) or type(model).__name__),
            known=lambda: _known(state, lr_scheduler),
        )
        self._save(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Between an optimizer step and the next forward pass, and before the Trainer logs and saves."""
        if self._follower.is_open:
            self._follower.after_step(state.global_step, state.epoch, lambda: _newest_metrics(state))
            self._save(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Also called where `max_steps` ends training within an epoch; then no epoch has ended."""
        epoch = state.epoch or 0.0
        if self._follower.is_open and abs(epoch - round(epoch)) < _WHOLE:
            self._follower.after_epoch(state.global_step, round(epoch), lambda: _newest_metrics(state))
            self._save(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the hallmarks beside the loss; evaluations stay as they are, for they are returned to the user."""
        if not self._follower.is_open or logs is None or "loss" not in logs:
            return
        with self._follower.kept_from_training("logging hallmarks"):
            self._follower.new_hallmarks()
            values = self._follower.hallmarks()
            logs.update(values)
            # A copy of the logs stands there already.
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(values)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last hallmarks that arrive in time are logged as well."""
        if not self._follower.is_open:
            return
        self._follower.end()
        with self._follower.kept_from_training("logging hallmarks"):
            self._log_last(args, state, control)
        self._save(state)
        self._trainer = None

    def _save(self, state: TrainerState) -> None:
        """Have it in what the Trainer saves next."""
        saved: Any = state.stateful_callbacks
        if isinstance(saved, dict):
            saved[_STATE_KEY] = self._follower.state()

    def _go_first(self) -> None:
        """Before the reporters in the Trainer's list, so that they find the hallmarks in the logs."""
        if self._trainer is not None:
            callbacks = self._trainer.callback_handler.callbacks
            callbacks.remove(self)
            callbacks.insert(0, self)

    def _log_last(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        values = self._follower.new_hallmarks()
        if not values:
            return
        logs: dict[str, Any] = {**values, "epoch": state.epoch}
        # The last entry is the Trainer's summary, and is looked for there.
        place = len(state.log_history)
        if state.log_history and "train_runtime" in state.log_history[-1]:
            place -= 1
        state.log_history.insert(place, {**logs, "step": state.global_step})
        if self._trainer is not None:
            self._trainer.callback_handler.on_log(args, state, control, logs)


def _known(state: TrainerState, scheduler: object) -> Plan | None:
    """The steps that the Trainer plans, and its scheduler, which goes by steps unless it waits for a metric."""
    if state.max_steps < 1:
        return None
    plan = Plan(total_steps=state.max_steps)
    if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
        return replace(plan, learning_rate=scheduler)
    return plan


def _newest_metrics(state: TrainerState) -> dict[str, object]:
    """The newest value of everything that the Trainer has logged, less what is no metric."""
    newest: dict[str, object] = {}
    for entry in state.log_history[-_ENTRIES:]:
        newest |= {name: value for name, value in entry.items() if not name.startswith("trajmon/")}
    for name in ("step", "epoch", "total_flos", "train_runtime"):
        newest.pop(name, None)
    return {name: value for name, value in newest.items() if isinstance(value, int | float)}


def _trainer_of(callback: TrainerCallback, state: TrainerState) -> Trainer | None:
    """The trainer that calls, found among the living objects; None if that cannot be told.

    A callback is told neither its trainer, nor the wrapped model, nor the other callbacks. Looked for once, while
    training starts: about 0.1 s where there are a million objects.
    """
    for found in gc.get_objects():
        # By type(): asking isinstance() runs code of lazy modules and proxies.
        if issubclass(type(found), Trainer) and getattr(found, "state", None) is state:
            trainer: Trainer = found
            if any(one is callback for one in trainer.callback_handler.callbacks):
                return trainer
    return None
