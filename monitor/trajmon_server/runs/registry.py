"""All runs that the server knows, their recovery at start, and who works on them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.control import CONTROL_FILE
from trajmon_server.runs.known_rows import KnownRows
from trajmon_server.runs.parts import WHOLE, OpenRow
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run, RunControl
from trajmon_server.signals.base import Policy
from trajmon_server.store.base import Journal, RecordKind
from trajmon_server.store.errors import JournalReadOnlyError, JournalUnavailableError, StoreError
from trajmon_server.store.maps import MapStore, RunShape

__all__ = ["Registry"]

log = structlog.get_logger(__name__)

DESCRIPTION_FILE = "run.json"

GetFile = Callable[[str, str], dict[str, Any] | None]
"""Of a run id and a name."""


class _NotYetOpen(Exception):
    """There is a description, and nothing else yet."""


class Registry:
    """The runs by id and by name. Used on the event loop, except where a method says otherwise."""

    def __init__(
        self, journal: Journal, maps_root: Path, policy: Policy[Any], stale_after_seconds: float
    ) -> None:
        self._journal = journal
        self._maps_root = maps_root
        self._policy = policy
        self._stale_after_seconds = stale_after_seconds
        self._lock = threading.Lock()
        """Guards the counts and the two dictionaries of maps; never held while a disk works."""
        self._runs: dict[str, Run] = {}
        self._names: dict[tuple[str, str], Run] = {}
        """By team and name."""
        self._unreadable: dict[str, str] = {}
        """Runs that could not be recovered, and why."""
        self._maps: dict[str, MapStore] = {}
        self._opening_maps: dict[str, threading.Lock] = {}
        self._events: Counter[str] = Counter()
        self._rows = Rows(journal, self.count_event)
        self._wake: Callable[[Run], None] = lambda _: None
        self.opening = asyncio.Lock()
        """Held while a run is opened: names stay unique."""
        self.stopping = threading.Event()
        """Set when the server stops: what :meth:`read` goes through is given up."""
        self.being_opened = ""
        """Id of the run that is being opened for the first time; empty for none."""

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
        return self._names.get((team, name))

    def get(self, run_id: str) -> Run | None:
        """The run with this id, of whichever team."""
        return self._runs.get(run_id)

    def is_known(self, run_id: str) -> bool:
        """Whether any team has a run with this id."""
        return run_id in self._runs

    @property
    def num_unreadable(self) -> int:
        """Runs that are stored and could not be read when they were last tried."""
        return len(self._unreadable)

    def unreadable(self, run_id: str) -> str | None:
        """Why the stored run with this id could not be recovered; None if there is no such run."""
        return self._unreadable.get(run_id)

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
        self._know(run)
        run.announce()

    def _know(self, run: Run) -> None:
        self._runs[run.description.run_id] = run
        self._names[run.description.team, run.description.name] = run

    def maps(self, description: RunDescription) -> MapStore:
        """The run's maps; opened when first asked for. Blocking; safe from any thread."""
        run_id = description.run_id
        with self._lock:
            # One lock a run: opening may mean mending, and other runs must not wait for that.
            opening = self._opening_maps.setdefault(run_id, threading.Lock())
        with opening:
            if run_id not in self._maps:
                shape = RunShape(
                    run_id=run_id,
                    name=description.name,
                    layer_names=tuple(layer.name for layer in description.layers),
                    groups=tuple((group.name, group.layers) for group in description.groups),
                )
                source = KnownRows(self._rows, description, self._runs[run_id].metas.keys)
                self._maps[run_id] = MapStore(self._maps_root, shape, source)
            return self._maps[run_id]

    def count_event(self, event: str) -> None:
        """Count something that ingest refused or set aside. Safe from any thread."""
        with self._lock:
            self._events[event] += 1

    def event_counts(self) -> Mapping[str, int]:
        """The counts so far."""
        with self._lock:
            return dict(self._events)

    def recover(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Read what the journal holds; analysis and maps follow in the background. Blocking.

        A run that cannot be read keeps no other from being served; its files stay where they are.
        """
        for run_id in self._journal.list_runs():
            if stopping():
                return
            try:
                self._know(self._recovered(run_id, self._journal.get_run_file))
            except (KeyError, TypeError, ValueError, OSError, StoreError) as error:
                problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
                self._unreadable[run_id] = problem
                log.error("run cannot be recovered", run_id=run_id, problem=problem)
                self.count_event("unreadable_runs")

    def read(self, run_id: str, *, as_writer: bool = False) -> Run | None:
        """A run that is stored, anew; None if there is none, or one that is :meth:`unreadable`. Blocking, from any
        thread.

        A run without rows and control file is being opened by another server; `as_writer`: that one never got to its
        end. StoreError if the store cannot be asked.
        """
        problem = ""
        try:
            if self._journal.peek_run_file(run_id, DESCRIPTION_FILE) is None:
                return None
            return self._recovered(run_id, self._journal.peek_run_file, is_new=as_writer)
        except _NotYetOpen:
            return None
        except (JournalUnavailableError, JournalReadOnlyError):
            raise
        except (KeyError, TypeError, ValueError, StoreError) as error:
            problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        if self._unreadable.get(run_id) != problem:
            log.error("run of another server cannot be read", run_id=run_id, problem=problem)
            self.count_event("unreadable_runs")
        self._unreadable[run_id] = problem
        return None

    def welcome(self, run: Run) -> None:
        """Make a run known that another server has taken in."""
        self._unreadable.pop(run.description.run_id, None)
        self._know(run)

    def _recovered(self, run_id: str, get_file: GetFile, *, is_new: bool | None = None) -> Run:
        """`is_new`: whether a run without anything but a description was just begun, or may be; None: it never is."""
        found = get_file(run_id, DESCRIPTION_FILE)
        if found is None:
            raise ValueError(f"{DESCRIPTION_FILE} is missing; restore it from a copy")
        description = RunDescription.from_json(found)
        if description.run_id != run_id:
            raise ValueError(f"{DESCRIPTION_FILE} is of run {description.run_id[:40]!r}")
        named = self.find_by_name(description.name, description.team)
        if named is not None and named.description.run_id != run_id:
            raise ValueError(f"{DESCRIPTION_FILE} has the name {description.name!r} of another run")
        metas, open_rows = self._recovered_rows(description)
        attempts = [meta.attempt for meta in metas.values()] + [row.attempt for row in open_rows.values()]
        # Rows are there only once the control file is: it is read after they were listed.
        if is_new is not None and not attempts and get_file(run_id, CONTROL_FILE) is None:
            if not is_new:
                raise _NotYetOpen
            return self._run(description, RunControl())
        control = self._recovered_control(run_id, max(attempts, default=0), get_file)
        run = self._run(description, control)
        try:
            run.recovered(metas, self._journal_bytes(run_id), open_rows)
        except ValueError:
            # Only headers were read: a damaged one can name any checkpoint. Whole records tell which it is.
            self._journal.verify(run_id)
            run = self._run(description, run.control)
            metas, open_rows = self._recovered_rows(description)
            run.recovered(metas, self._journal_bytes(run_id), open_rows)
        run.has_parts = any(key.part != WHOLE for key in self._journal.list_rows(run_id))
        self._recover_sketches(run)
        return run

    def _recover_sketches(self, run: Run) -> None:
        """Which sketches there are; a sum that a crash prevented is made now."""
        keys = self._journal.list_rows(run.description.run_id, kind="sketch")
        if not keys:
            return
        columns = self._rows.sketch_columns(run.description)
        known = {key.checkpoint for key in keys if key.part == WHOLE}
        open_rows: dict[int, OpenRow] = {}
        for checkpoint in sorted({key.checkpoint for key in keys} - known):
            found = self._rows.open_sketch(run.description, checkpoint)
            if found is None or columns is None:
                continue
            if found.is_complete and self._rows.sketch(run.description, columns, checkpoint) is not None:
                known.add(checkpoint)
            else:
                open_rows[checkpoint] = found
        run.sketches.recovered(None if columns is None else columns.spec, known, open_rows)

    def _journal_bytes(self, run_id: str) -> int:
        kinds: tuple[RecordKind, ...] = ("row", "sketch")
        return sum(key.size_bytes for kind in kinds for key in self._journal.list_rows(run_id, kind=kind))

    def _recovered_rows(
        self, description: RunDescription
    ) -> tuple[dict[int, CheckpointMeta], dict[int, OpenRow]]:
        """The rows that are known, and those that are open; a sum that a crash prevented is made now."""
        run_id = description.run_id
        metas: dict[int, CheckpointMeta] = {}
        for checkpoint, header, _ in self._journal.headers(run_id):
            if self.stopping.is_set():
                raise JournalUnavailableError("the server is stopping")
            metas[checkpoint] = CheckpointMeta.from_header(header, ())
        open_rows: dict[int, OpenRow] = {}
        in_parts = {key.checkpoint for key in self._journal.list_rows(run_id) if key.part != WHOLE}
        for checkpoint in sorted(in_parts - metas.keys()):
            found = self._rows.look(description, checkpoint)
            if found.meta is not None:
                metas[checkpoint] = found.meta
            elif found.open is not None:
                open_rows[checkpoint] = found.open
        return metas, open_rows

    def _recovered_control(self, run_id: str, attempt: int, get_file: GetFile) -> RunControl:
        try:
            return RunControl.from_json(get_file(run_id, CONTROL_FILE) or {})
        except JournalUnavailableError:
            raise  # it may be there
        except (KeyError, TypeError, ValueError, StoreError) as error:
            control = RunControl.rebuilt(attempt, time.time())
            log.error(
                "control file of a run was lost; its agent must open the run anew",
                run_id=run_id,
                problem=str(error),
                attempt=attempt,
                epoch=control.writer_epoch,
            )
            self.count_event("rebuilt_controls")
            return control
