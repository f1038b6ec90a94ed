"""What the callbacks of all frameworks share: one training of theirs, followed from its start to its end.

A :class:`Follower` is told where training stands and does the rest: it chooses the run's name, opens the
recorder, asks the schedule, keeps what a framework's checkpoint must carry, and hands out hallmarks for the
framework's loggers. Nothing that goes wrong in it leaves it, unless ``strict=True``.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trajmon._framework_options import Options, free_name, unique_name
from trajmon._plan import Plan, completed
from trajmon._recorder import Recorder
from trajmon._settings import home_directory
from trajmon._watch import Resume, watch
from trajmon.schedules import due_between, parse_schedule
from trajmon.switch import restore_switch, switch_state

__all__ = ["Follower", "Metrics"]

log = logging.getLogger("trajmon")

Metrics = Callable[[], Mapping[str, object]]

_FORMAT = 1

_open_followers: weakref.WeakSet[Follower] = weakref.WeakSet()


class Follower:
    """One training of a framework, and the run that it is recorded as. For the thread that trains."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.problems = 0
        """Unexpected failures that were kept from training."""
        self._schedule = parse_schedule(options.every)
        self._recorder: Recorder | None = None
        self._model: weakref.ref[nn.Module] | None = None
        self._open = False
        self._step = 0
        self._recorded_step: int | None = None
        self._recorded: int | None = None
        # What a checkpoint of the framework carries, and whether such a one was loaded since the last start.
        self._state: dict[str, Any] = {}
        self._restored = False
        self._handed_out: dict[str, float] = {}

    @property
    def recorder(self) -> Recorder | None:
        """None before training starts, and where starting failed."""
        return self._recorder

    @property
    def is_open(self) -> bool:
        """Between start and end."""
        return self._open

    def start(
        self,
        model: nn.Module,
        optimizers: Sequence[object],
        *,
        step: int,
        epoch: float | None = None,
        word: str,
        known: Callable[[], Plan | None] = lambda: None,
    ) -> None:
        """Training starts, or goes on, after `step` optimizer steps. Call it on all ranks, weights loaded.

        The learning rate is that of the first optimizer. Where the user gave no name, the run's begins with `word`.
        `known` is asked for what the framework plans, and stands in for what the user's plan does not say.
        """
        with self.kept_from_training("starting"):
            self.end(reason=None)
            resumed = step > 0 or self._restored
            before = self._state if resumed else {}
            self._recorder, self._model = None, weakref.ref(model)
            self._step, self._recorded_step, self._recorded = step, None, before.get("recorded")
            self._restored, self._handed_out = False, {}
            name, resume = self._choose_run(before, resumed, word)
            self._state = {"format": _FORMAT, "asked": self.options.run, "run": name, "step": step}
            self._enter_switch(model, optimizers, before.get("switch"))
            self._end_earlier(name)
            self._recorder = self._watch(model, optimizers, name, resume, self._plan(known))
            self._open = True
            _open_followers.add(self)
            # A framework that forgets its callback must not keep the run from the next one. At the exit of the
            # program the recorder closes by itself, and knows why.
            weakref.finalize(self, self._recorder.close, 0.0).atexit = False
            self._first_checkpoint(self._recorder, before if before.get("run") == name else {}, step, epoch)

    def after_step(self, step: int, epoch: float | None, metrics: Metrics) -> None:
        """The step count is `step` now; it may have grown by any number since the last call, or by none.

        `metrics` is called only if a checkpoint is due, and then on every rank.
        """
        with self.kept_from_training("recording"):
            before, self._step = self._step, max(self._step, step)
            if due_between(self._schedule, before, step):
                self._record(step, epoch, metrics)

    def after_epoch(self, step: int, epochs: int, metrics: Metrics) -> None:
        """So many epochs are complete, and the last of them ended at this step."""
        with self.kept_from_training("recording"):
            self._step = max(self._step, step)
            if self._schedule.due(step, epochs) and step != self._recorded_step:
                self._record(step, float(epochs), metrics)

    def checkpoint(self, epoch: float | None, metrics: Mapping[str, object] | None) -> int | None:
        """Record the parameters as they are now, whatever the schedule says; the checkpoint's number."""
        with self.kept_from_training("recording"):
            return self._record(self._step, epoch, lambda: metrics or {})
        return None

    def end(self, *, reason: BaseException | None = None) -> None:
        """Training has ended, or was ended by an exception. Waits for the server as long as the options say."""
        if not self._open or self._recorder is None:
            return
        with self.kept_from_training("ending"):
            self.state()
            self._open = False
            _open_followers.discard(self)
            if reason is None:
                self._recorder.close(self.options.close_timeout)
            else:
                # This way the run's end has its cause.
                self._recorder.__exit__(type(reason), reason, reason.__traceback__)

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the framework must carry: plain values, the same after JSON.

        The run's name, the last step, the number of recorded checkpoints, and the norm-only switch.
        """
        with self.kept_from_training("saving"):
            if self._open and self._recorder is not None:
                self._state |= {
                    "step": self._step,
                    "recorded": self._recorded,
                    "recorded_step": self._recorded_step,
                    "switch": self._switch_state(),
                }
        return dict(self._state)

    def restore(self, state: object) -> None:
        """Take back what :meth:`state` gave, before :meth:`start`. What is not that is reported and ignored."""
        with self.kept_from_training("restoring"):
            if state == {}:
                return
            if (
                not isinstance(state, Mapping)
                or state.get("format") != _FORMAT
                or not isinstance(state.get("run"), str)
            ):
                raise ValueError(
                    f"the state in the checkpoint is not what this callback writes: {state!r:.200}"
                )
            self._state, self._restored = dict(state), True

    def hallmarks(self) -> dict[str, float]:
        """The latest hallmarks under flat names, such as ``trajmon/network/mds``; empty while there are none."""
        values: dict[str, float] = {}
        if self._recorder is None or not self.options.logged_groups:
            return values
        with self.kept_from_training("reading hallmarks"):
            groups = self._recorder.hallmarks
            for group in self.options.logged_groups:
                for name, value in groups.get(group, {}).items():
                    values[f"trajmon/{group}/{name}"] = value
            checkpoint = self._recorder.advice.checkpoint
            if values and checkpoint is not None:
                values["trajmon/checkpoint"] = float(checkpoint)
        return values

    def new_hallmarks(self) -> dict[str, float]:
        """The same, but empty if they are those of the last call."""
        values = self.hallmarks()
        if values == self._handed_out:
            return {}
        self._handed_out = values
        return values

    def _choose_run(self, before: Mapping[str, Any], resumed: bool, word: str) -> tuple[str, Resume]:
        """Name of the run, and how it is to be opened; the same on all ranks."""
        asked = self.options.run
        if before.get("run") is not None and before.get("asked") == asked:
            return str(_from_first_rank(before["run"])), self.options.resume
        wanted = unique_name(word) if asked is None else asked
        if self.options.resume != "allow" or resumed:
            return str(_from_first_rank(wanted)), self.options.resume
        # The parameters of a training that starts anew are no continuation of whatever stands there.
        name = str(_from_first_rank(free_name(home_directory(self.options.home), wanted)))
        if name != wanted:
            log.warning(
                "run %r exists and this training starts from the beginning: it is recorded as %r",
                wanted,
                name,
            )
        return name, "never"

    def _end_earlier(self, name: str) -> None:
        """End whoever records this run in this process: of a training that failed, not every framework tells."""
        home = home_directory(self.options.home)
        for follower in list(_open_followers):
            if follower._state.get("run") == name and home_directory(follower.options.home) == home:
                follower.end()

    def _plan(self, known: Callable[[], Plan | None]) -> Plan | None:
        with self.kept_from_training("asking for the planned steps"):
            return completed(self.options.plan, known())
        return self.options.plan

    def _watch(
        self,
        model: nn.Module,
        optimizers: Sequence[object],
        name: str,
        resume: Resume,
        plan: Plan | None,
    ) -> Recorder:
        options = self.options
        copy = options.copy
        if copy == "overlap" and len(optimizers) > 1:
            # Only the first would wait for the copy; the others would write into what is being read.
            log.warning(
                'run %r: copy="overlap" is for one optimizer, not %d; "wait" is used', name, len(optimizers)
            )
            copy = "wait"
        return watch(
            model,
            run=name,
            optimizer=optimizers[0] if optimizers else None,
            server=options.server,
            # With its true step, below.
            initial=False,
            plan=plan,
            copy=copy,
            on_advice=options.on_advice,
            advice_callback=options.advice_callback,
            tags=options.tags,
            groups=options.groups,
            views=options.views,
            family=options.family,
            resume=resume,
            home=options.home,
            snapshot_dir=options.snapshot_dir,
            memory_budget_bytes=options.memory_budget_bytes,
            mode=options.mode,
            snapshots_kept=options.snapshots_kept,
            sketch=options.sketch,
            snapshot_budget_bytes=options.snapshot_budget_bytes,
            strict=options.strict,
            agent_threads=options.agent_threads,
        )

    def _first_checkpoint(
        self, recorder: Recorder, before: Mapping[str, Any], step: int, epoch: float | None
    ) -> None:
        status = recorder.status
        recorded = status.recorded if status.state == "recording" else None
        self._recorded = recorded = _from_first_rank(recorded)
        if recorded is None:
            return
        if recorded == 0:
            if step > 0:
                log.warning(
                    "run %r starts at step %d: what counts as its initialization is not that of training",
                    self._state["run"],
                    step,
                )
            if self.options.initial:
                self._record(step, epoch, dict)
        elif recorded != before.get("recorded"):
            # Training went back, and checkpoints of steps that will be done again stand on the run's path. A
            # checkpoint of the step that it went back to takes the path away from under them.
            if step > 0:
                self._record(step, epoch, dict)
        else:
            self._recorded_step = before.get("recorded_step")

    def _record(self, step: int, epoch: float | None, metrics: Metrics) -> int | None:
        # Before anything that may differ between ranks: reading metrics may be a collective.
        values: Mapping[str, object] = {}
        with self.kept_from_training("reading metrics"):
            values = metrics()
        self._recorded_step = step
        if self._recorder is None or not self._open:
            return None
        number = self._recorder.checkpoint(step=step, epoch=epoch, metrics=values)
        if number is not None:
            self._recorded = number + 1
        return number

    def _switch_state(self) -> dict[str, Any]:
        model = None if self._model is None else self._model()
        return {} if model is None else switch_state(model)

    def _enter_switch(self, model: nn.Module, optimizers: Sequence[object], state: object) -> None:
        """Go on in norm-only training if the checkpoint was saved in it."""
        if state:
            with self.kept_from_training("going on in norm-only training"):
                if not isinstance(state, Mapping):
                    raise ValueError(f"the state of the switch is {state!r:.200}")
                report = restore_switch(model, list(optimizers), state)
                log.info("run %r: %s", self._state["run"], report)

    @contextmanager
    def kept_from_training(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.options.strict:
                raise
            self.problems += 1
            level = logging.ERROR if self.problems == 1 else logging.DEBUG
            log.log(level, "%s failed: %s; training goes on", what, str(error) or repr(error))


def _from_first_rank(value: object) -> Any:
    """Rank 0's value, on every rank. The only collectives of a callback, and only while training starts."""
    distributed = torch.distributed
    if (
        not distributed.is_available()
        or not distributed.is_initialized()
        or distributed.get_world_size() == 1
    ):
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
