"""What a training loop holds: the recorder."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from trajmon._session import Session
from trajmon._status import RecorderStatus
from trajmon._trigger import StepTrigger
from trajmon.advice import Advice
from trajmon.errors import TrajmonError
from trajmon.rundir import AgentNote
from trajmon.switch.actor import AdviceActor
from trajmon.switch.report import SwitchReport

__all__ = ["Recorder"]

log = logging.getLogger("trajmon")

_live: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Records checkpoints of one training; made by :func:`trajmon.watch`. A context manager.

    For the thread that trains. In a forked child it does nothing. Outside ``strict=True`` nothing here raises,
    and nothing waits but :meth:`close`.
    """

    def __init__(
        self,
        session: Session | None,
        status: RecorderStatus,
        *,
        actor: AdviceActor | None = None,
        strict: bool = False,
    ) -> None:
        self._session = session
        self._actor = actor
        self._trigger: StepTrigger | None = None
        self._switch_report: SwitchReport | None = None
        self._kept: tuple[float | None, dict[str, object]] = (None, {})
        self._status = status
        self._strict = strict
        self._pid = os.getpid()
        self._error: str = ""
        # Asked for, not recorded: ranks whose disks fail at different times still count alike.
        self._asked = 0 if session is None else session.recorded
        if session is not None:
            _live.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(2.0, "" if kind is None else f"training ended with {kind.__name__}")

    def checkpoint(
        self,
        step: int | None = None,
        epoch: float | None = None,
        metrics: Mapping[str, object] | None = None,
    ) -> int | None:
        """Record the parameters as they are now; the checkpoint's number, None if it was not recorded.

        Holds training for about one copy of the parameters. Without `step` it is the last one plus 1. Metrics
        are made floats; what cannot be is left out, with one warning. With ``strict=True`` raises
        CheckpointSkippedError or RecordingStoppedError.
        """
        session = self._session
        if session is None or self._status.state == "closed" or os.getpid() != self._pid:
            return None
        asked, self._asked = self._asked, self._asked + 1
        try:
            return self._record(session, step, epoch, metrics)
        finally:
            # Recorded or not: what all ranks do at the same checkpoint must not depend on this one's disk.
            self._act(session, asked)

    def _record(
        self, session: Session, step: int | None, epoch: float | None, metrics: Mapping[str, object] | None
    ) -> int | None:
        if session.stopped:
            return None
        try:
            if self._actor is not None:
                # Asked of the model: it may have been switched by hand.
                session.mode = self._actor.training_mode
            return session.record(step, epoch, metrics)
        except TrajmonError:
            # Counted and logged where it happened.
            if self._strict:
                raise
            return None
        except Exception as error:
            if self._strict:
                raise
            self._report_once(f"checkpoint failed unexpectedly: {error!r}")
            return None

    def _act(self, session: Session, asked: int) -> None:
        if self._actor is None:
            return
        try:
            self._actor.after_checkpoint(asked, session.answers.read().advice)
        except Exception as error:
            if self._strict:
                raise
            self._report_once(f"the advice could not be acted on: {error!r}")

    def log(self, metrics: Mapping[str, object], epoch: float | None = None) -> None:
        """Keep metrics for the next checkpoint that comes by itself (``watch(every=...)``)."""
        self._kept = (self._kept[0] if epoch is None else epoch, {**self._kept[1], **metrics})

    def epoch_end(self, epochs: int, metrics: Mapping[str, object] | None = None) -> int | None:
        """Say that `epochs` epochs are complete; records a checkpoint if the schedule asks for one here."""
        if metrics:
            self.log(metrics)
        self._kept = (float(epochs), self._kept[1])
        if self._trigger is None or not self._trigger.epoch_ended(epochs):
            return None
        return self.record_step(self._trigger.steps)

    def record_step(self, step: int) -> int | None:
        """Record a checkpoint with what :meth:`log` kept for it."""
        epoch, metrics = self._kept
        self._kept = (None, {})
        return self.checkpoint(step=step, epoch=epoch, metrics=metrics)

    @property
    def switch_report(self) -> SwitchReport | None:
        """What the last switch to norm-only training, or back, saved; None while there was none."""
        followed = None if self._actor is None else self._actor.last_report
        return followed or self._switch_report

    def on_switch(self, report: SwitchReport) -> None:
        """Take note of a switch that was made by hand; called by ``switch_to_norm_only(recorder=...)``."""
        self._switch_report = report

    def trigger_on(self, trigger: StepTrigger) -> None:
        """Have checkpoints come by themselves until the recorder is closed."""
        self._trigger = trigger

    @property
    def advice(self) -> Advice:
        """The server's latest word; state `unknown` while there is none."""
        return Advice() if self._session is None else self._session.answers.read().advice

    @property
    def hallmarks(self) -> dict[str, dict[str, float]]:
        """The server's latest numbers, group -> name -> value; undefined ones are left out."""
        if self._session is None:
            return {}
        return {group: dict(values) for group, values in self._session.answers.read().hallmarks.items()}

    @property
    def status(self) -> RecorderStatus:
        """How recording goes, read fresh."""
        session = self._session
        if session is None or os.getpid() != self._pid:
            return self._status
        state = self._status.state
        if state == "recording" and session.stopped:
            state = "stopped"
        reason = session.note.reason or self._error or AgentNote.problem_of(session.run_dir)
        return replace(
            self._status,
            state=state,
            reason=reason,
            recorded=session.recorded,
            skipped=session.note.skipped,
            pending=session.pending(),
            last_stall_seconds=session.last_stall_seconds,
            mode=session.note.keeping,
            agent_restarts=session.note.agent_restarts,
        )

    def close(self, timeout: float = 2.0) -> None:
        """Say that training has ended; wait at most `timeout` seconds for the server to have everything.

        What it has not by then, the agent goes on sending in the background.
        """
        self._close(timeout, "")

    def _close(self, timeout: float, reason: str) -> None:
        if self._session is None or os.getpid() != self._pid or self._status.state == "closed":
            return
        self._status = replace(self._status, state="closed")
        _live.discard(self)
        try:
            if self._trigger is not None:
                self._trigger.close()
            self._session.finish(reason, timeout)
        except Exception as error:
            if self._strict:
                raise
            self._report_once(f"closing failed unexpectedly: {error!r}")
        finally:
            # No further checkpoint; what was read stays readable.
            self._session.stopped = True

    def _report_once(self, text: str) -> None:
        if not self._error:
            self._error = text
            log.error("%s; training goes on", text)


def _close_at_exit() -> None:
    """Tell the agents of recorders that were never closed that training has ended. Waits for nothing."""
    failure = getattr(sys, "last_type", None)
    reason = "" if failure is None else f"training ended with {failure.__name__}"
    for recorder in list(_live):
        recorder._close(0.0, reason)


atexit.register(_close_at_exit)
