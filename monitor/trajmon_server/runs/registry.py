"""All runs that the server knows, their recovery at start, and who works on them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.run import Run, RunControl
from trajmon_server.signals.base import Policy
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import StoreError
from trajmon_server.store.maps import MapStore, RunShape

__all__ = ["Registry"]

log = structlog.get_logger(__name__)

DESCRIPTION_FILE = "run.json"
CONTROL_FILE = "control.json"


class Registry:
    """The runs by id and by name. Used on the event loop, except :meth:`store` and :meth:`runs`."""

    def __init__(
        self, journal: Journal, maps_root: Path, policy: Policy[Any], stale_after_seconds: float
    ) -> None:
        self._journal = journal
        self._maps_root = maps_root
        self._policy = policy
        self._stale_after_seconds = stale_after_seconds
        self._opening_maps = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._maps: dict[str, MapStore] = {}
        self._events: Counter[str] = Counter()
        self._wake: Callable[[Run], None] = lambda _: None
        self.opening = asyncio.Lock()
        """Held while a run is opened: names stay unique."""

    def on_wake(self, wake: Callable[[Run], None]) -> None:
        """Who is told that a run has new rows."""
        self._wake = wake

    def wake(self, run: Run) -> None:
        """Say that a run has new rows."""
        self._wake(run)

    def find(self, run_id: str, team: str) -> Run | None:
        """The team's run with this id."""
        run = self._runs.get(run_id)
        return run if run is not None and run.description.team == team else None

    def find_by_name(self, name: str, team: str) -> Run | None:
        """The team's run with this name."""
        return next((run for run in self.runs(team) if run.description.name == name), None)

    def runs(self, team: str | None = None) -> list[Run]:
        """All runs, or a team's. Safe from any thread."""
        return [run for run in list(self._runs.values()) if team is None or run.description.team == team]

    def count(self, team: str) -> int:
        """How many runs a team has."""
        return len(self.runs(team))

    def new(self, description: RunDescription) -> Run:
        """A run that is not yet known to anybody."""
        return self._run(description, RunControl())

    def _run(self, description: RunDescription, control: RunControl) -> Run:
        return Run(description, control, self._policy, self._stale_after_seconds)

    def store(self, run: Run, control: RunControl) -> None:
        """Make description and control durable. Blocking: call it in a thread."""
        run_id = run.description.run_id
        if run_id not in self._runs:
            self._journal.put_run_file(run_id, DESCRIPTION_FILE, run.description.to_json())
        self._journal.put_run_file(run_id, CONTROL_FILE, control.to_json())

    def add(self, run: Run) -> None:
        """Make a stored run known."""
        self._runs[run.description.run_id] = run
        run.announce()

    def maps(self, description: RunDescription) -> MapStore:
        """The run's maps; opened when first asked for. Blocking; safe from any thread."""
        run_id = description.run_id
        with self._opening_maps:
            if run_id not in self._maps:
                shape = RunShape(
                    run_id=run_id,
                    name=description.name,
                    layer_names=tuple(layer.name for layer in description.layers),
                    groups=tuple((group.name, group.layers) for group in description.groups),
                )
                self._maps[run_id] = MapStore(self._maps_root, shape, self._journal)
            return self._maps[run_id]

    def count_event(self, event: str) -> None:
        """Count something that ingest refused or set aside."""
        self._events[event] += 1

    def event_counts(self) -> Mapping[str, int]:
        """The counts so far."""
        return dict(self._events)

    def recover(self) -> None:
        """Read what the journal holds; analysis and maps follow in the background. Blocking."""
        for run_id in self._journal.list_runs():
            try:
                description = RunDescription.from_json(
                    self._journal.get_run_file(run_id, DESCRIPTION_FILE) or {}
                )
                control = RunControl.from_json(self._journal.get_run_file(run_id, CONTROL_FILE) or {})
            except (KeyError, TypeError, ValueError, StoreError) as error:
                # The rows stay where they are; an operator can look.
                log.error("run cannot be recovered", run_id=run_id, problem=str(error))
                self.count_event("unreadable_runs")
                continue
            run = self._run(description, control)
            self._recover_rows(run)
            self._runs[run_id] = run

    def _recover_rows(self, run: Run) -> None:
        metas, journal_bytes = {}, 0
        for checkpoint, header, record_bytes in self._journal.headers(run.description.run_id):
            metas[checkpoint] = CheckpointMeta.from_header(header, ())
            journal_bytes += record_bytes
        run.recovered(metas, journal_bytes)
