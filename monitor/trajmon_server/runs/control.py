"""Who may write to a run, and how its agents do. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trajmon_protos.v1 import ingest_pb2

__all__ = ["CONTROL_FILE", "AgentReport", "Phase", "RunControl", "Writer", "aggregate"]

Phase = ingest_pb2.RunPhase
_ENDED = (Phase.RUN_PHASE_FINISHED, Phase.RUN_PHASE_LOST)
CONTROL_FILE = "control.json"
"""Of a run, in the journal."""
MAX_REASON = 500
"""Characters that are kept of an agent's words."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One agent's right to hand in a part of every row, or whole rows."""

    epoch: int
    """Raised by every open; who holds an older one is fenced off."""
    attempt: int
    """Newest attempt that it may hand in rows of."""
    part: int = 0
    num_parts: int = 1
    """1: whole rows."""
    first_checkpoint: int = 0
    """First checkpoint that it has something of."""


@dataclass(frozen=True, slots=True)
class RunControl:
    """What must survive a restart besides the rows."""

    attempt: int = 0
    """Newest attempt that any writer has opened the run for."""
    writer_epoch: int = 0
    """Of the writer without a name, which hands in whole rows; 0 if there has been none."""
    phase: ingest_pb2.RunPhase.ValueType = Phase.RUN_PHASE_RUNNING
    reason: str = ""
    ended_unix_seconds: float = 0.0
    """When this server heard that training has ended; 0 while it has not."""
    writers: Mapping[str, Writer] = field(default_factory=dict)
    """Writers that have a name, by it."""
    first_checkpoint: int = 0
    """Of the writer without a name."""
    unnamed_attempt: int | None = None
    """Attempt of the writer without a name, where a named one has begun a newer."""
    lease_epoch: int = 0
    """How often the run had changed hands between servers when this was written; 0 where there is one server."""

    @property
    def is_active(self) -> bool:
        """False once training has ended."""
        return self.phase not in _ENDED

    def writer(self, name: str) -> Writer | None:
        """The writer of that name, if it has opened the run."""
        if name:
            return self.writers.get(name)
        if not self.writer_epoch:
            return None
        attempt = self.attempt if self.unnamed_attempt is None else self.unnamed_attempt
        return Writer(self.writer_epoch, attempt, first_checkpoint=self.first_checkpoint)

    def leads(self, name: str) -> bool:
        """Whether the run's phase follows this writer: that of part 0 in the newest attempt."""
        writer = self.writer(name)
        return writer is not None and writer.part == 0 and writer.attempt == self.attempt

    def opened(self, attempt: int, first_checkpoint: int = 0) -> RunControl:
        """After the writer without a name opened the run: a new epoch fences its older agents off."""
        return RunControl(
            attempt=attempt,
            writer_epoch=self.writer_epoch + 1,
            writers=self.writers,
            first_checkpoint=first_checkpoint,
            lease_epoch=self.lease_epoch,
        )

    def joined(self, name: str, wanted: Writer) -> RunControl:
        """After a named writer opened the run; the epoch in `wanted` is not looked at.

        One of an attempt that has ended may come as well, to hand in what it still has: it changes nothing else.
        """
        old = self.writers.get(name)
        # Above the other's count, so that epochs that were lost with a control file stay fenced off.
        epoch = 1 + (old.epoch if old is not None else self.writer_epoch)
        fresh = replace(self, writers={**self.writers, name: replace(wanted, epoch=epoch)})
        begins = wanted.attempt > self.attempt
        if begins and self.unnamed_attempt is None and self.writer_epoch:
            fresh = replace(fresh, unnamed_attempt=self.attempt)
        if begins or (wanted.attempt == self.attempt and wanted.part == 0):
            running = Phase.RUN_PHASE_RUNNING
            fresh = replace(fresh, attempt=wanted.attempt, phase=running, reason="", ended_unix_seconds=0.0)
        return fresh

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

        The lost writer epochs were counts of opens. Unix seconds lie above any such count, so that every
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
            "first_checkpoint": self.first_checkpoint,
            "unnamed_attempt": self.unnamed_attempt,
            "lease_epoch": self.lease_epoch,
            "writers": {
                name: [a.epoch, a.attempt, a.part, a.num_parts, a.first_checkpoint]
                for name, a in self.writers.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunControl:
        """Inverse of :meth:`to_json`; KeyError, TypeError or ValueError if the file is not one."""
        unnamed = data.get("unnamed_attempt")
        return cls(
            attempt=int(data["attempt"]),
            writer_epoch=int(data["writer_epoch"]),
            phase=Phase.Value(data["phase"]),
            reason=str(data["reason"]),
            ended_unix_seconds=float(data.get("ended_unix_seconds", 0.0)),
            writers={
                str(name): Writer(*(int(number) for number in numbers))
                for name, numbers in dict(data.get("writers", {})).items()
            },
            first_checkpoint=int(data.get("first_checkpoint", 0)),
            unnamed_attempt=None if unnamed is None else int(unnamed),
            lease_epoch=int(data.get("lease_epoch", 0)),
        )


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What an agent last told of itself, or all agents of a run together."""

    phase: ingest_pb2.RunPhase.ValueType = Phase.RUN_PHASE_RUNNING
    reason: str = ""
    checkpoints_recorded: int = 0
    checkpoints_skipped: int = 0
    checkpoints_pending: int = 0
    snapshot_bytes: int = 0
    agent_restarts: int = 0
    checkpoints_uncomputed: int = 0
    """Recorded, and their rows not yet computed."""
    lag_seconds: float = 0.0
    """Age of the oldest checkpoint that is recorded and not acknowledged."""
    snapshot_mode: ingest_pb2.SnapshotMode.ValueType = ingest_pb2.SNAPSHOT_MODE_UNSPECIFIED
    """Which snapshots are kept."""
    snapshots_kept: int = 0

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
            checkpoints_uncomputed=message.checkpoints_uncomputed,
            lag_seconds=message.lag_seconds,
            snapshot_mode=message.snapshot_mode,
            snapshots_kept=message.snapshots_kept,
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
            checkpoints_uncomputed=self.checkpoints_uncomputed,
            lag_seconds=self.lag_seconds,
            snapshot_mode=self.snapshot_mode,
            snapshots_kept=self.snapshots_kept,
        )


def aggregate(reports: Iterable[AgentReport], leader: AgentReport | None) -> AgentReport:
    """All agents of a run as one: of checkpoints and lag the most, of bytes and restarts the sum.

    Every rank records the same checkpoints, so counts of these are not added. Phase and reason are the leader's.
    """
    told = list(reports) or [AgentReport()]
    word = leader or AgentReport()
    return AgentReport(
        phase=word.phase,
        reason=word.reason,
        checkpoints_recorded=max(report.checkpoints_recorded for report in told),
        checkpoints_skipped=max(report.checkpoints_skipped for report in told),
        checkpoints_pending=max(report.checkpoints_pending for report in told),
        # What a message has room for, whatever the agents tell.
        snapshot_bytes=min(sum(report.snapshot_bytes for report in told), 2**64 - 1),
        agent_restarts=min(sum(report.agent_restarts for report in told), 2**64 - 1),
        checkpoints_uncomputed=max(report.checkpoints_uncomputed for report in told),
        lag_seconds=max(report.lag_seconds for report in told),
        # The agent that keeps least: what it does not have is an estimate for the whole run.
        snapshot_mode=max(report.snapshot_mode for report in told),
        snapshots_kept=min(report.snapshots_kept for report in told),
    )
