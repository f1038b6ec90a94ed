"""The live part of a recorder: takes checkpoints, hands them to the agent, keeps count."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from trajmon._absent import AbsentCheckpoints
from trajmon._agent_process import AgentProcess
from trajmon._budget import SnapshotBudget
from trajmon._files import ProcessLock
from trajmon._metadata import Metadata
from trajmon._outlook import Outlook
from trajmon._overlap import OverlappedCopy, cuda_device, steps_all
from trajmon._staging import make_staging
from trajmon.advice import AnswerReader
from trajmon.errors import CheckpointSkippedError, RecordingStoppedError
from trajmon.numerics.errors import ModelChangedError
from trajmon.numerics.layout import Layout
from trajmon.rundir import AgentNote, RecorderNote, RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader, TrainingMode, snapshot_bytes
from trajmon.snapshots.slot import Slot, SlotState
from trajmon.snapshots.store import SnapshotStore, previous_for_step

__all__ = ["Plan", "Session", "Start"]

log = logging.getLogger("trajmon")


class Plan(Protocol):
    """Which bytes of a model make a snapshot, and how they get there."""

    @property
    def layout(self) -> Layout:
        """Of the snapshots."""

    def copy_into(self, model: nn.Module, buffer: Tensor, *, non_blocking: bool = False) -> None:
        """Copy the parameters as they are now into `buffer`, [layout.nbytes] uint8. Raises ModelChangedError."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where an attempt starts."""

    next_checkpoint: int
    """Number of the first checkpoint of this attempt."""
    path: tuple[int, ...] = ()
    """The path before it."""
    headers: Mapping[int, SnapshotHeader] | None = None
    """Of the checkpoints before; None for a new run."""
    used_bytes: int = 0
    """That the snapshots before take, those with their data."""
    budget_bytes: int = 0
    """That all snapshots of the run may take, those with their data."""
    memory_bytes: int | None = None
    """That a copy may take of the host's memory; None: any amount."""


class Session:
    """Recording in progress. Belongs to one thread of one process; the owner lock goes with it."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: object | None,
        plan: Plan,
        run: RunDescription,
        run_dir: RunDir,
        owner: ProcessLock,
        store: SnapshotStore,
        slot: Slot | None,
        agent: AgentProcess,
        metadata: Metadata,
        note: RecorderNote,
        start: Start,
    ) -> None:
        self.run = run
        self.run_dir = run_dir
        self.answers = AnswerReader(run_dir.answer_file)
        self.last_stall_seconds = 0.0
        self.recorded = start.next_checkpoint
        self.stopped = False
        self.mode: TrainingMode = "full"
        """What is trained now: goes into the header of the next checkpoint."""
        self.outlook: Outlook | None = None
        """What training intends; its state goes into the header of every checkpoint."""
        self._model = model
        self._optimizer = optimizer
        self._plan = plan
        self._owner = owner
        self._store = store
        self._slot = slot
        self._slot_tensor = (
            None if slot is None else torch.from_numpy(np.frombuffer(slot.data, dtype=np.uint8))
        )
        self._staging: Tensor | None = None
        self._overlap: OverlappedCopy | None = None
        self._agent = agent
        self._metadata = metadata
        self.note = note
        self._note_is_told = False
        self._start = start
        self._budget = SnapshotBudget(store, start.used_bytes, start.budget_bytes)
        # Number and step of the last checkpoint of this attempt.
        self._last: tuple[int, int] | None = None
        self._failed_in_a_row = 0
        # Being stored; still set when an interrupt came between storing and counting.
        self._in_flight: SnapshotHeader | None = None
        self._absent = AbsentCheckpoints(run, store)

    def begin(self) -> None:
        """Tell the agent about the attempt, and start it. Raises OSError."""
        self.note.write(self.run_dir)
        self._note_is_told = True
        self._absent.find(self._start.headers or {}, self._start.next_checkpoint, self.run_dir, self._slot)
        self._absent.leave()
        self._keep_agent_alive()

    def overlap(self) -> None:
        """From here on copy beside training, if the whole model lies on one GPU. Raises RefusedError."""
        device = cuda_device(self._model)
        if device is None or self._slot_tensor is None or self._optimizer is None:
            return
        if steps_all(self._optimizer, self._model):
            self._overlap = OverlappedCopy(self._slot_tensor, device, self._optimizer)
        else:
            # Another optimizer's step would not wait, and change what is being copied.
            log.warning(
                "run %r: the optimizer does not step all that is trained; copies are waited for",
                self.run.name,
            )

    def record(self, step: object, epoch: object, metrics: Mapping[str, object] | None) -> int:
        """Store a checkpoint and return its number.

        Raises CheckpointSkippedError if this one could not be stored, RecordingStoppedError if none ever can.
        """
        started = time.perf_counter()
        self._keep_agent_alive()
        if self._overlap is not None:
            self._overlap.settle(wait=True)
        self._settle_interrupted()
        # Before the next one can be seen: from then on the agent takes a number without a file for lost.
        self._absent.leave()
        header = self._header(step, epoch, metrics)
        file_bytes = snapshot_bytes(header, self._plan.layout.nbytes)
        self._check_budget(header, file_bytes)
        self._in_flight = header
        try:
            if self._slot is not None and self._agent.alive() and self._slot.state == SlotState.FREE:
                header = self._into_slot(self._slot, header, started)
            else:
                header = self._into_store(header, started)
        except ModelChangedError as error:
            raise self._stop(f"{error}; recording stopped, training goes on") from error
        except Exception as error:
            # Whatever a device, a disk or an allocator may raise: it costs this checkpoint and no more.
            raise self._skip(header, error) from error
        self._count(header, file_bytes)
        self._failed_in_a_row = 0
        self.last_stall_seconds = time.perf_counter() - started
        self._tell()
        return header.checkpoint

    def finish(self, reason: str, timeout_seconds: float) -> None:
        """Say that training has ended, then wait for the agent, but no longer than the timeout."""
        self._change_note("finished", reason if not self.stopped else self.note.reason)
        deadline = time.monotonic() + timeout_seconds
        if self._overlap is not None:
            self._overlap.close()
            self._overlap = None
        if self._slot is not None:
            self._slot.close()
        self._slot = self._slot_tensor = self._staging = None
        try:
            # Even with nothing left to send, somebody has to say that training has ended.
            self._agent.ensure(at_once=True)
            # The agent takes this for the end of training: after its last word, and after the last start.
            self._owner.release()
            self._wait_for_agent(deadline)
            if time.monotonic() < deadline and not AgentNote.has_ended(self.run_dir):
                # It was killed in the middle of it.
                self._agent.ensure(at_once=True)
                self._wait_for_agent(deadline)
        except OSError as error:
            log.warning("the agent of run %r could not be asked: %s", self.run.name, error)
        finally:
            self._owner.release()

    def _wait_for_agent(self, deadline: float) -> None:
        while time.monotonic() < deadline and self._agent.alive():
            time.sleep(0.01)

    def _count(self, header: SnapshotHeader, file_bytes: int) -> None:
        self.recorded = header.checkpoint + 1
        self._budget.add(file_bytes)
        self._last = (header.checkpoint, header.step)
        self._in_flight = None

    def _settle_interrupted(self) -> None:
        """After a Ctrl-C inside a checkpoint that training survived: was it stored, or does its number stay free?"""
        header, self._in_flight = self._in_flight, None
        if header is None:
            return
        # The slot first: the agent moves checkpoints from there to the store.
        stored = self._slot is not None and self._slot.full_number() == header.checkpoint
        if stored or self._store.path(header.checkpoint).exists():
            self._count(header, snapshot_bytes(header, self._plan.layout.nbytes))

    def pending(self) -> int:
        """Checkpoints that are recorded and not acknowledged."""
        first = 0 if self.run.shard is None else self.run.shard.first_checkpoint
        return max(0, self.recorded - max(first, self.run_dir.acked()))

    def _header(self, step: object, epoch: object, metrics: Mapping[str, object] | None) -> SnapshotHeader:
        number = self.recorded
        headers = self._start.headers or {}
        if self._last is not None:
            next_step = self._last[1] + 1
        elif self._start.path and self._start.path[-1] in headers:
            next_step = headers[self._start.path[-1]].step + 1
        else:
            next_step = 0
        actual_step = self._metadata.step(step, otherwise=next_step)
        if self._last is not None:
            previous: int | None = self._last[0]
        elif self._start.path:
            previous = previous_for_step(self._start.path, headers, actual_step)
        else:
            previous = None
        kept_metrics = self._metadata.metrics(metrics)
        return SnapshotHeader(
            checkpoint=number,
            attempt=self.note.attempt,
            step=actual_step,
            fingerprint=self._plan.layout.fingerprint,
            previous=previous,
            time_unix_seconds=time.time(),
            epoch=self._metadata.finite("epoch", epoch),
            learning_rate=self._metadata.learning_rate(self._optimizer),
            metrics=kept_metrics,
            mode=self.mode,
            plan=None if self.outlook is None else self.outlook.ahead(actual_step, kept_metrics),
        )

    def _into_slot(self, slot: Slot, header: SnapshotHeader, started: float) -> SnapshotHeader:
        assert self._slot_tensor is not None
        slot.set_state(SlotState.WRITING)
        if self._overlap is not None:
            return self._beside_training(self._overlap, slot, self._slot_tensor, header, started)
        try:
            self._plan.copy_into(self._model, self._slot_tensor)
            header = replace(header, stall_seconds=time.perf_counter() - started)
            slot.put_header(header)
        except BaseException:
            slot.set_state(SlotState.FREE)
            raise
        slot.set_state(SlotState.FULL)
        return header

    def _beside_training(
        self, overlap: OverlappedCopy, slot: Slot, buffer: Tensor, header: SnapshotHeader, started: float
    ) -> SnapshotHeader:
        """Queue the copy; the slot is full once it is done, which is looked at before each step."""
        try:
            overlap.start(
                lambda: self._plan.copy_into(self._model, buffer, non_blocking=True),
                lambda: slot.set_state(SlotState.FULL),
            )
            header = replace(header, stall_seconds=time.perf_counter() - started, copy="overlap")
            slot.put_header(header)
        except BaseException:
            # Whatever was queued must not write into a slot that somebody else fills.
            overlap.settle(wait=True)
            slot.set_state(SlotState.FREE)
            raise
        return header

    def _into_store(self, header: SnapshotHeader, started: float) -> SnapshotHeader:
        if self._staging is None:
            self._staging = make_staging(
                self._plan.layout.nbytes, self._store.folder, self._start.memory_bytes
            )
        self._plan.copy_into(self._model, self._staging)
        return self._store.write(
            header.checkpoint,
            lambda: replace(header, stall_seconds=time.perf_counter() - started),
            self._staging.numpy().data,
            durable=False,
        )

    def _check_budget(self, header: SnapshotHeader, file_bytes: int) -> None:
        """Fall over to keeping fewer snapshots in time; else RecordingStoppedError, CheckpointSkippedError."""
        budget = self._budget
        if self.note.keeping != "exact":
            if not budget.look_for_room(file_bytes, self._slot):
                raise self._skip(
                    header,
                    OSError(f"the agent has not yet made room in the budget of {budget.total_bytes} bytes"),
                )
            return
        keep = budget.keep_from_here()
        if keep is not None:
            self.note = replace(self.note, keeping="anchored", keep=keep)
            self._note_is_told = False
            self._tell()
            log.warning(
                "run %r: the snapshot budget of %d bytes is nearly used up after %d checkpoints: from here on at most "
                "%d snapshots are kept (mode 'anchored'), and inner products with the others are estimated, with their "
                "errors. For exact ones, give a larger snapshot_budget_bytes",
                self.run.name,
                budget.total_bytes,
                self.recorded,
                keep,
            )
        elif not budget.has_room(file_bytes):
            raise self._stop(
                f"the snapshot budget of {budget.total_bytes} bytes is used up: {self.recorded} checkpoints take "
                f"{budget.used_bytes} bytes, checkpoint {header.checkpoint} needs {file_bytes} more; recording "
                "stopped, training goes on. Give a larger snapshot_budget_bytes, or record less often"
            )

    def _keep_agent_alive(self) -> None:
        try:
            if self._agent.ensure() and self._agent.restarts:
                self.note = replace(self.note, agent_restarts=self._agent.restarts)
                self._note_is_told = False
                level = logging.WARNING if self._agent.restarts == 1 else logging.DEBUG
                log.log(level, "the agent of run %r had died and was started again", self.run.name)
        except OSError as error:
            # Checkpoints go into the store without an agent, and the next one tries again.
            log.warning("the agent of run %r could not be started: %s", self.run.name, error)

    def _skip(self, header: SnapshotHeader, error: Exception) -> CheckpointSkippedError:
        if self.run.shard is not None:
            # The other ranks have recorded it: its number is taken, and here it stays empty.
            self._count(header, 0)
            self._absent.add(header)
            self._absent.leave()
        self.note = replace(self.note, skipped=self.note.skipped + 1)
        self._note_is_told = False
        self._tell()
        text = f"checkpoint at step {header.step} was skipped: {str(error) or type(error).__name__}"
        self._failed_in_a_row += 1
        if self._failed_in_a_row == 1:
            log.warning(
                "run %r: %s; training goes on, later checkpoints are tried again", self.run.name, text
            )
        return CheckpointSkippedError(text)

    def _stop(self, reason: str) -> RecordingStoppedError:
        self.stopped = True
        self._change_note("stopped", reason)
        log.error("run %r: %s", self.run.name, reason)
        return RecordingStoppedError(reason)

    def _change_note(self, state: Literal["running", "stopped", "finished"], reason: str) -> None:
        self.note = replace(self.note, state=state, reason=reason)
        self._note_is_told = False
        self._tell()

    def _tell(self) -> None:
        """Bring the note to disk if it has changed; a full disk is tried again at the next checkpoint."""
        if self._note_is_told:
            return
        try:
            self.note.write(self.run_dir)
            self._note_is_told = True
        except OSError as error:
            log.debug("run %r: note to the agent not written: %s", self.run.name, error)
