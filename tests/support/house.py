"""The server's inside over a real journal and real maps in a folder, for tests below the wire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.rows import SyntheticRun
from trajmon_server.model import Group, Layer, RunDescription
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.run import Run, RunControl
from trajmon_server.runs.worker import Worker
from trajmon_server.signals.base import Policy
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy
from trajmon_server.store.journal import LocalJournal


def describe(run: SyntheticRun, team: str = "local") -> RunDescription:
    layout = run.layout()
    return RunDescription(
        run_id=run.run_id,
        name=run.name,
        team=team,
        tags=(),
        created_unix_seconds=run.started,
        fingerprint=run.fingerprint,
        layers=tuple(Layer(a.name, tuple(a.shape), a.dtype) for a in layout.layers),
        groups=tuple(Group(a.name, tuple(a.layers)) for a in layout.groups),
    )


@dataclass
class House:
    """The server's inside without its surfaces; a second one over the same folder is the same after a restart."""

    folder: Path
    executor: ThreadPoolExecutor
    policy: Policy[Any] = field(default_factory=RemainingDisplacementPolicy)

    def __post_init__(self) -> None:
        self.journal = LocalJournal(self.folder / "journal")
        self.registry = Registry(self.journal, self.folder / "maps", self.policy, 3600.0)
        self.worker = Worker(self.registry, self.journal, self.policy, self.executor)
        self.registry.on_wake(self.worker.wake)

    def store(self, source: SyntheticRun, rows: int, team: str = "local") -> Run:
        """A run with rows in the journal only."""
        run = self.registry.new(describe(source, team))
        self.registry.store(run, RunControl(attempt=1, writer_epoch=1))
        for checkpoint in range(rows):
            self.journal.append(source.run_id, checkpoint, 0, source.record(checkpoint))
        return run
