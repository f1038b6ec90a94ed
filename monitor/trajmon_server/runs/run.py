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
from trajmon_server.runs.path import extend_path, path_of, superseded_by
from trajmon_server.signals.base import Advice, AdviceState, Policy

__all__ = ["AgentReport", "Phase", "Run", "RunControl"]

Phase = ingest_pb2.RunPhase
_ENDED = (Phase.RUN_PHASE_FINISHED, Phase.RUN_PHASE_LOST)
MAX_REASON = 500
"""Characters that are kept of an agent's words."""


@dataclass(frozen=True, slots=True)
class RunControl:
    """What must survive a restart besides the rows."""

    attempt: int = 0
    writer_epoch: int = 0
    phase: ingest_pb2.RunPhase.ValueType = Phase.RUN_PHASE_RUNNING
    reason: str = ""
    ended_unix_seconds: float = 0.0
    """When this server heard that training has ended; 0 while it has not."""

    @property
    def is_active(self) -> bool:
        """False once training has ended."""
        return self.phase not in _ENDED

    def opened(self, attempt: int) -> RunControl:
        """After an agent opened the run: a new epoch fences every older agent off."""
        return RunControl(attempt=attempt, writer_epoch=self.writer_epoch + 1)

    def reported(self, phase: ingest_pb2.RunPhase.ValueType, reason: str, now: float) -> RunControl:
        """After an agent told the run's phase at `now`, in Unix seconds; an unspecified phase says nothing."""
        if phase == Phase.RUN_PHASE_UNSPECIFIED:
            return self
        if phase == Phase.RUN_PHASE_RUNNING:
            reason = ""
        ended = 0.0
        if phase in _ENDED:
            # Told again, the end is still the one that was told first.
            ended = now if self.is_active else self.ended_unix_seconds
        return replace(self, phase=phase, reason=reason, ended_unix_seconds=ended)

    @classmethod
    def rebuilt(cls, attempt: int, now: float) -> RunControl:
        """In place of one that was lost, `attempt` being the newest that left a row.

        The lost writer epoch was a count of opens. Unix seconds lie above any such count, so that every
        agent which holds an epoch is fenced off and opens the run anew.
        """
        return cls(attempt=attempt, writer_epoch=int(now))

    def to_json(self) -> dict[str, Any]:
        """For the run's control file in the journal."""
        return {
            "attempt": self.attempt,
            "writer_epoch": self.writer_epoch,
            "phase": Phase.Name(self.phase),
            "reason": self.reason,
            "ended_unix_seconds": self.ended_unix_seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunControl:
        """Inverse of :meth:`to_json`; KeyError, TypeError or ValueError if the file is not one."""
        return cls(
            attempt=int(data["attempt"]),
            writer_epoch=int(data["writer_epoch"]),
            phase=Phase.Value(data["phase"]),
            reason=str(data["reason"]),
            ended_unix_seconds=float(data.get("ended_unix_seconds", 0.0)),
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
            reason=message.reason[:MAX_REASON],
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
        self.previous: list[int | None] = []
        """The `previous` of every checkpoint; a lost one follows the one before it unless more is known."""
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
        self.parameters = sum(layer.parameters for layer in description.layers)
        """Number of parameters of the model."""
        self.failure: str = ""
        """Why the worker gave up on the run, if it did."""
        self._changed = asyncio.Event()

    @property
    def stored(self) -> Mapping[int, CheckpointMeta]:
        """The checkpoints whose rows are in the journal."""
        return self.metas

    @property
    def num_checkpoints(self) -> int:
        """One more than the highest number that was ever stored."""
        return len(self.previous)

    @property
    def is_active(self) -> bool:
        """False once training has ended."""
        return self.control.is_active

    def accept(self, meta: CheckpointMeta, checkpoint: int, record_bytes: int) -> None:
        """Note a row that has just become durable."""
        fills_gap = checkpoint < self.num_checkpoints
        self.metas[checkpoint] = meta
        self.last_heard_unix_seconds = time.time()
        self.journal_bytes += record_bytes
        self.last_row_unix_seconds = max(self.last_row_unix_seconds, meta.time_unix_seconds)
        if fills_gap:
            self.previous[checkpoint] = meta.previous
            self.path = path_of(self.previous)
            self.healed = True
            self.restart_analysis()
        else:
            self.previous.append(meta.previous)
            self.path = extend_path(self.path, checkpoint, meta.previous)
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1
        self.announce()

    def lose(self, checkpoint: int) -> None:
        """Note that a row turned out to be damaged: it may be sent again."""
        if self.metas.pop(checkpoint, None) is not None:
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
            waiting = (
                f"None of the {self.num_checkpoints} checkpoints that have arrived has been looked at yet."
            )
            reason = waiting if self.num_checkpoints else "No checkpoint has arrived yet."
            return Advice(AdviceState.UNKNOWN, 0, {}, reason, self._policy.name)
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
        # Called from the metrics thread as well: a checkpoint may get lost between a look and the next.
        metas = [self.metas.get(n) for n in self.path[-5:]]
        times = [meta.time_unix_seconds for meta in metas if meta is not None]
        usual = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        return max(self._stale_after_seconds, 4.0 * usual)

    def recovered(self, metas: Mapping[int, CheckpointMeta], journal_bytes: int) -> None:
        """Take in what the journal held at start; ValueError if the checkpoints do not form a path."""
        self.metas = dict(metas)
        self.journal_bytes = journal_bytes
        self.previous = [
            metas[number].previous if number in metas else (number - 1 if number else None)
            for number in range(max(metas, default=-1) + 1)
        ]
        self.last_row_unix_seconds = max((meta.time_unix_seconds for meta in metas.values()), default=0.0)
        self.last_heard_unix_seconds = self.last_row_unix_seconds
        self.path = path_of(self.previous)
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1

    def all_findings(self) -> tuple[Finding, ...]:
        """Doubts about the checkpoints, by checkpoint number."""
        analysis = self.analysis  # one look: the loop may put another in its place meanwhile
        found = [replace(a, checkpoint=analysis.path[a.checkpoint]) for a in analysis.findings]
        return tuple(found)

    def check_previous(self, checkpoint: int, previous: int | None) -> None:
        """ValueError if `checkpoint` cannot follow `previous`, or if one after it could then not follow its own."""
        if checkpoint >= self.num_checkpoints:
            superseded_by(self.path, previous)
        else:
            path_of([*self.previous[:checkpoint], previous, *self.previous[checkpoint + 1 :]])

    def announce(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """What is set at the next change. Taken before the state is read, no change is missed."""
        return self._changed

    async def wait_analysed(self, checkpoint: int, timeout_seconds: float) -> bool:
        """Wait until rows below `checkpoint` are analysed and published; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.analysed < checkpoint and not self.failure:
                    await self.next_change().wait()
        except TimeoutError:
            return False
        return self.analysed >= checkpoint
