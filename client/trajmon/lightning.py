"""Record a training that Lightning's Trainer runs.

from lightning.pytorch import Trainer
from trajmon.lightning import TrajectoryCallback

trainer = Trainer(callbacks=[TrajectoryCallback(run="resnet20", every="epoch")])
trainer.fit(model, data)                              # records
trainer.fit(model, data, ckpt_path="last.ckpt")       # continues the run of the checkpoint
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

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


class TrajectoryCallback(Callback):
    """Records checkpoints of the fitted module by schedule, and logs the hallmarks beside the loss.

    `every`: a number of optimizer steps (`trainer.global_step`; batches that only accumulate gradients do not
    count), ``"epoch"``, ``"log"``, or what else :func:`trajmon.schedules.parse_schedule` takes. `log_hallmarks`:
    True logs those of the group `network` to all of the trainer's loggers as ``trajmon/network/mds`` and so on; a
    list names other groups. The other arguments are those of :func:`trajmon.watch`.

    Lightning's checkpoints carry the run's name, how far it was recorded, and the norm-only switch. A training that
    is resumed from one continues the run as its next attempt. One that starts from the beginning under a name that
    exists is recorded as NAME-2. Without `run` the name is made of module class and time.

    With one optimizer the planned steps and learning rates are the trainer's, unless `plan` has its own.

    Nothing is recorded with ``fast_dev_run``. Nothing is raised into training unless ``strict=True``; arguments that
    make no sense raise ValueError at once.
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
        super().__init__()
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

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the last fit; None before the first."""
        return self._follower.recorder

    @property
    def state_key(self) -> str:
        """Under this name the state stands in Lightning's checkpoints."""
        return "trajmon.TrajectoryCallback"

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into its checkpoints; plain values."""
        return self._follower.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning before training goes on from a checkpoint."""
        self._follower.restore(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Weights and optimizers are those of the checkpoint by now, and lazy layers have their shapes."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined] # set by the trainer's own helper
            return
        self._follower.start(
            # With its wrappers: the switch depends on them.
            trainer.model or pl_module,
            trainer.optimizers,
            step=trainer.global_step,
            epoch=float(trainer.current_epoch),
            word=type(pl_module).__name__,
            known=lambda: _known(trainer),
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Between an optimizer step and the next forward pass."""
        if not self._follower.is_open:
            return
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self._follower.after_step(trainer.global_step, epoch, lambda: trainer.callback_metrics)
        self._log(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the validation of the epoch, if there is one."""
        if not self._follower.is_open:
            return
        self._follower.after_epoch(
            trainer.global_step, trainer.current_epoch + 1, lambda: trainer.callback_metrics
        )
        self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loggers are still open: they get the last hallmarks that arrive in time."""
        if self._follower.is_open:
            self._follower.end()
            self._log(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run's end gets its cause."""
        self._follower.end(reason=exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever way training ended."""
        if stage == "fit":
            self._follower.end()

    def _log(self, trainer: Trainer) -> None:
        with self._follower.kept_from_training("logging hallmarks"):
            values = self._follower.new_hallmarks()
            if not values:
                return
            # Lightning's own step for what it logs, so that all stands over the same axis.
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)


def _known(trainer: Trainer) -> Plan | None:
    """The steps that the trainer plans, and its scheduler if there is one that goes by steps or epochs."""
    if len(trainer.optimizers) != 1:
        # Its step count goes over all optimizers.
        return None
    total = trainer.estimated_stepping_batches
    if not 1 <= total < math.inf:
        return None
    plan = Plan(total_steps=int(total))
    if len(trainer.lr_scheduler_configs) != 1:
        return plan
    config = trainer.lr_scheduler_configs[0]
    batches = trainer.num_training_batches
    if config.reduce_on_plateau or (config.interval == "epoch" and not 1 <= batches < math.inf):
        return plan
    epoch = -(-int(batches) // trainer.accumulate_grad_batches) if config.interval == "epoch" else 1
    return replace(plan, learning_rate=config.scheduler, steps_per_rate=epoch * config.frequency)
