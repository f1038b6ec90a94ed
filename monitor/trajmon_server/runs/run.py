"""One run as the server holds it in memory: O(groups x checkpoints) in size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trajmon_protos.v1 import ingest_pb2
from trajmon_server.hallmarks.integrity import Finding
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.analysis import Analysis, start
from trajmon_server.runs.path import extend_path, path_of
from trajmon_server.signals.base import Advice, AdviceState, Policy

__all__ = ["AgentReport", "Phase", "Run", "RunControl"]

Phase = ingest_pb2.RunPhase
_LASTING = (Phase.RUN_PHASE_FINISHED, Phase.RUN_PHASE_LOST, Phase.RUN_PHASE_STOPPED)


@dataclass(frozen=True, slots=True)
class RunControl:
    """What must survive a restart besides the rows."""

    attempt: int = 0
    writer_epoch: int = 0
    phase: ingest_pb2.RunPhase.ValueType = Phase.RUN_PHASE_RUNNING
    reason: str = ""

    def opened(self, attempt: int) -> RunControl:
        """After an agent opened the run: a new epoch fences every older agent off."""
        return RunControl(attempt=attempt, writer_epoch=self.writer_epoch + 1)

    def reported(self, phase: ingest_pb2.RunPhase.ValueType, reason: str) -> RunControl:
        """After an agent told the run's phase."""
        if phase not in _LASTING:
            return replace(self, phase=Phase.RUN_PHASE_RUNNING, reason="")
        return replace(self, phase=phase, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """For the run's control file in the journal."""
        return {
            "attempt": self.attempt,
            "writer_epoch": self.writer_epoch,
            "phase": Phase.Name(self.phase),
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunControl:
        """Inverse of :meth:`to_json`."""
        return cls(
            attempt=int(data["attempt"]),
            writer_epoch=int(data["writer_epoch"]),
            phase=Phase.Value(data["phase"]),
            reason=str(data["reason"]),
        )


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What the agent last told of itself."""

    phase: ingest_pb2.RunPhase.ValueType = Phase.RUN_PHASE_RUNNING
    reason: str = ""
    checkpoints_recorded: int = 0
    checkpoints_skipped: int = 0
    checkpoints_pending: int = 0
    snapshot_bytes: int = 0
    agent_restarts: int = 0

    @classmethod
    def from_message(cls, message: ingest_pb2.ReportStatusRequest) -> AgentReport:
        """Take it off the wire."""
        return cls(
            phase=message.phase,
            reason=message.reason,
            checkpoints_recorded=message.checkpoints_recorded,
            checkpoints_skipped=message.checkpoints_skipped,
            checkpoints_pending=message.checkpoints_pending,
            snapshot_bytes=message.snapshot_bytes,
            agent_restarts=message.agent_restarts,
        )

    def to_message(self) -> ingest_pb2.ReportStatusRequest:
        """Put it on the wire."""
        return ingest_pb2.ReportStatusRequest(
            phase=self.phase,
            reason=self.reason,
            checkpoints_recorded=self.checkpoints_recorded,
            checkpoints_skipped=self.checkpoints_skipped,
            checkpoints_pending=self.checkpoints_pending,
            snapshot_bytes=self.snapshot_bytes,
            agent_restarts=self.agent_restarts,
        )


class Run:
    """One run. Its fields are changed on the event loop only; `lock` is held while a request changes it."""

    def __init__(
        self,
        description: RunDescription,
        control: RunControl,
        policy: Policy[Any],
        stale_after_seconds: float,
    ) -> None:
        self.description = description
        self._policy = policy
        self._stale_after_seconds = stale_after_seconds
        self.control = control
        self.agent = AgentReport()
        self.lock = asyncio.Lock()
        self.journal_bytes = 0
        self.metas: dict[int, CheckpointMeta] = {}
        """By checkpoint number; a number below the highest that is missing has been lost to damage."""
        self._lost_previous: dict[int, int | None] = {}
        """Which checkpoint came before a lost one, where that was still known."""
        self.path: tuple[int, ...] = ()
        self.next_checkpoint = 0
        """First checkpoint that is not stored."""
        self.analysed = 0
        """Rows below this number are in `analysis` and published."""
        self.analysis: Analysis = start(description.groups, policy)
        self.healed = False
        """A row that had been lost has come again: the maps must be made again."""
        self.generation = 0
        """Raised when the analysis starts over: results of an older one are dropped."""
        self.last_row_unix_seconds = 0.0
        """When the last checkpoint was recorded, by the training machine's clock."""
        self.last_heard_unix_seconds = 0.0
        """When its row came, by this machine's clock; after a restart as recorded."""
        self.ended_unix_seconds = 0.0
        """When this server heard that training has ended."""
        self.failure: str = ""
        """Why the worker gave up on the run, if it did."""
        self._num_checkpoints = 0
        self._changed = asyncio.Event()

    @property
    def stored(self) -> Mapping[int, CheckpointMeta]:
        """The checkpoints whose rows are in the journal."""
        return self.metas

    @property
    def num_checkpoints(self) -> int:
        """One more than the highest number that was ever stored."""
        return self._num_checkpoints

    @property
    def is_active(self) -> bool:
        """False once training has ended."""
        return self.control.phase in (Phase.RUN_PHASE_RUNNING, Phase.RUN_PHASE_STOPPED)

    def accept(self, meta: CheckpointMeta, checkpoint: int, record_bytes: int) -> None:
        """Note a row that has just become durable."""
        fills_gap = checkpoint < self.num_checkpoints
        self.metas[checkpoint] = meta
        self._num_checkpoints = max(self._num_checkpoints, checkpoint + 1)
        self.last_heard_unix_seconds = time.time()
        self.journal_bytes += record_bytes
        self.last_row_unix_seconds = max(self.last_row_unix_seconds, meta.time_unix_seconds)
        if fills_gap:
            self.path = path_of(self.previous_of_all())
            self.healed = True
            self.restart_analysis()
        else:
            self.path = extend_path(self.path, checkpoint, meta.previous)
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1
        self.announce()

    def lose(self, checkpoint: int) -> None:
        """Note that a row turned out to be damaged: it may be sent again."""
        meta = self.metas.pop(checkpoint, None)
        if meta is not None:
            self._lost_previous[checkpoint] = meta.previous
            self.next_checkpoint = min(self.next_checkpoint, checkpoint)

    def restart_analysis(self) -> None:
        """Forget what was derived; the worker derives it again from the journal."""
        self.generation += 1
        self.analysed = 0
        self.analysis = start(self.description.groups, self._policy)

    def current_advice(self) -> Advice:
        """The word on the run now: `unknown` before the first row, and when a running run has gone silent."""
        advice = self.analysis.advice
        if advice is None:
            return Advice(AdviceState.UNKNOWN, 0, {}, "No checkpoint has arrived yet.", self._policy.name)
        age = time.time() - self.last_heard_unix_seconds
        if self.control.phase == Phase.RUN_PHASE_RUNNING and age > self._stale_seconds():
            return replace(
                advice,
                state=AdviceState.UNKNOWN,
                reason=f"The last checkpoint is {age:.0f} s old: nothing is known of the run since. No advice.",
            )
        return advice

    def _stale_seconds(self) -> float:
        """Longer where checkpoints are far apart: four times their usual distance."""
        times = [self.metas[n].time_unix_seconds for n in self.path[-5:] if n in self.metas]
        usual = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        return max(self._stale_after_seconds, 4.0 * usual)

    def recovered(self, metas: Mapping[int, CheckpointMeta], journal_bytes: int) -> None:
        """Take in what the journal held at start."""
        self.metas = dict(metas)
        self.journal_bytes = journal_bytes
        self._num_checkpoints = max(metas, default=-1) + 1
        self.last_row_unix_seconds = max((meta.time_unix_seconds for meta in metas.values()), default=0.0)
        self.last_heard_unix_seconds = self.last_row_unix_seconds
        self.path = path_of(self.previous_of_all())
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1

    def all_findings(self) -> tuple[Finding, ...]:
        """Doubts about the checkpoints, by checkpoint number."""
        path = self.analysis.path
        found = [replace(finding, checkpoint=path[finding.checkpoint]) for finding in self.analysis.findings]
        return tuple(found)

    def previous_of_all(self) -> list[int | None]:
        """The `previous` of every checkpoint; a lost one is taken to follow the one before it unless more is known."""
        return [
            self.metas[number].previous
            if number in self.metas
            else self._lost_previous.get(number, number - 1 if number else None)
            for number in range(self.num_checkpoints)
        ]

    def path_before(self, checkpoint: int) -> tuple[int, ...]:
        """The path as it was when `checkpoint` was to be recorded."""
        if checkpoint >= self.num_checkpoints:
            return self.path
        return path_of(self.previous_of_all()[:checkpoint])

    def announce(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def wait_analysed(self, checkpoint: int, timeout_seconds: float) -> bool:
        """Wait until rows below `checkpoint` are analysed and published; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.analysed < checkpoint and not self.failure:
                    await self.changed()
        except TimeoutError:
            return False
        return self.analysed >= checkpoint
