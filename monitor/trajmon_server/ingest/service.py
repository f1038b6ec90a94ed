"""The ingest core: what happens between a request and its acknowledgement.

validate -> authorise -> quota -> journal (durable) -> acknowledge. Hallmarks, advice and maps are made after
the acknowledgement, from the journal: see runs/worker.py.

A call may be given up by its caller at any moment, while a thread writes for it. What changes a run is therefore
a task of its own that goes on to its end, holding the run's lock: what is on disk and what is known never differ.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from trajmon_protos.errors import RecordError
from trajmon_protos.record import Row, decode, read_digest
from trajmon_protos.sketch_record import SketchRow, decode_sketch, is_sketch, spec_of
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.auth import Principal
from trajmon_server.config import Limits
from trajmon_server.errors import (
    Conflict,
    Exhausted,
    InvalidRequest,
    NotFound,
    ServiceError,
    Unavailable,
    Violation,
)
from trajmon_server.ingest import checks, quota
from trajmon_server.ingest.opening import describe, name_taken, refuse_other_model
from trajmon_server.ingest.validation import validate_open, validate_report, validate_row, validate_sketch
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.control import AgentReport, RunControl
from trajmon_server.runs.ownership import Ownership
from trajmon_server.runs.parts import file_part
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.store import errors as store_errors
from trajmon_server.store.base import Journal, RecordKind

__all__ = ["Ingest", "Receipt"]

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an acknowledgement says."""

    checkpoint: int
    digest: bytes
    duplicate: bool
    """True if the same record was there already."""
    next_checkpoint: int
    """First checkpoint that this writer has not handed in."""


class Ingest:
    """Takes runs and rows in. One instance per server, used from its event loop."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        limits: Limits,
        executor: Executor,
        disk: Path,
        observe_row: Callable[[bool, int], None],
        ownership: Ownership,
    ) -> None:
        self._ownership = ownership
        self._observe_row = observe_row
        self._journal = journal
        self._registry = registry
        self._rows = Rows(journal, registry.count_event)
        self._limits = limits
        self._executor = executor
        self._disk = disk
        self._changes: set[asyncio.Task[Any]] = set()
        """Changes under way, whether or not somebody still waits for their answer."""

    async def drain(self) -> None:
        """Wait until every change under way is done. No new ones may come: stop the server first."""
        while self._changes:
            await asyncio.wait(self._changes)

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Do it, also when the caller leaves meanwhile."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(_say_unheard)
        return await asyncio.shield(task)

    async def open_run(self, request: ingest_pb2.OpenRunRequest, caller: Principal) -> Run:
        """Register a run or continue one; raises the writer epoch. Durable when it returns."""
        violations = validate_open(request, self._limits)
        if violations:
            raise InvalidRequest.from_violations(violations)
        return await self._to_its_end(self._open(request, caller))

    async def _open(self, request: ingest_pb2.OpenRunRequest, caller: Principal) -> Run:
        run_id = request.run_id
        await self._ownership.meet(run_id)
        self._refuse_unreadable(run_id)
        # Before the run is held, too: a caller who is refused leaves nothing behind.
        if self._registry.find(run_id, caller.team) is None:
            self._refuse_new(request, caller)
            other = await self._ownership.named(caller.team, request.name)
            if other not in ("", run_id):
                raise name_taken(request, f"run {other}, which another server has taken in")
        await self._ownership.hold(run_id)
        async with self._registry.opening:
            run = self._registry.find(run_id, caller.team)
            if run is not None:
                refuse_other_model(request, run)
                await self._grant(run, request)
            else:
                self._refuse_new(request, caller)
                self._registry.being_opened = run_id
                try:
                    run = self._registry.new(describe(request, caller.team))
                    other = await self._ownership.claim(run.description)
                    if other != run_id:
                        raise name_taken(request, f"run {other}, which another server has taken in")
                    await self._grant(run, request)
                finally:
                    self._registry.being_opened = ""
        log.info("run opened", run=run.description.name, attempt=request.attempt, writer=request.writer)
        return run

    async def _grant(self, run: Run, request: ingest_pb2.OpenRunRequest) -> None:
        """Let the writer of the request write."""
        run_id = run.description.run_id
        async with run.lock:
            self._ownership.confirm(run_id)
            control = checks.control_after_open(run, request)
            await self._store_control(run, replace(control, lease_epoch=self._ownership.epoch(run_id)))
            self._registry.add(run)

    def _refuse_new(self, request: ingest_pb2.OpenRunRequest, caller: Principal) -> None:
        """Refuse a run that is not known if it cannot become so."""
        self._refuse_taken_id(request.run_id)
        self._refuse_taken_name(request, caller.team)
        quota.check_new_run(self._registry.count(caller.team), self._limits)

    async def _store_control(self, run: Run, control: RunControl) -> None:
        """Make it durable, then take it over. Under the run's lock."""
        run_id = run.description.run_id
        try:
            await self._durably(lambda: self._registry.store(run, control))
        except Unavailable as error:
            if isinstance(error.__cause__, store_errors.FencedError):
                self._ownership.doubt(run_id)
            raise
        self._ownership.confirm(run_id)
        run.control = control

    def _refuse_unreadable(self, run_id: str) -> None:
        problem = self._registry.unreadable(run_id)
        if problem is not None:
            raise Unavailable(
                "RUN_UNREADABLE",
                f"run {run_id} is stored here but cannot be read: {problem}; nothing was changed: mend its folder in "
                "the journal, then start the server again",
                retry_seconds=60.0,
            )

    def _refuse_taken_id(self, run_id: str) -> None:
        # Ids are drawn at random: one that is known already was copied, e.g. from the metrics of another team.
        if self._registry.is_known(run_id):
            raise Conflict("RUN_ID_TAKEN", f"run id {run_id} is in use; draw another")

    def _refuse_taken_name(self, request: ingest_pb2.OpenRunRequest, team: str) -> None:
        other = self._registry.find_by_name(request.name, team)
        if other is not None:
            raise name_taken(
                request, f"run {other.description.run_id} (model {other.description.fingerprint})"
            )

    async def push(
        self, run_id: str, writer_epoch: int, record: bytes, caller: Principal, writer: str = ""
    ) -> Receipt:
        """Take in one record, a row or a part of one. Durable when it returns."""
        quota.check_record_size(len(record), self._limits)
        run = await self._ours(run_id, caller)
        try:
            if is_sketch(record):
                sketch = await self._durably(lambda: decode_sketch(record))
                return await self._to_its_end(self._store_sketch(run, writer, writer_epoch, sketch, record))
            row = await self._durably(lambda: decode(record))
        except RecordError as error:
            raise InvalidRequest(
                error.kind.upper(), f"record: {error}; nothing was stored", (Violation("record", str(error)),)
            ) from error
        return await self._to_its_end(self._store(run, writer, writer_epoch, row, record))

    async def _store(self, run: Run, name: str, epoch: int, row: Row, record: bytes) -> Receipt:
        header, checkpoint = row.header, row.header.checkpoint
        async with run.lock:
            self._ownership.confirm(run.description.run_id)
            writer = checks.current_writer(run, name, epoch)
            violations = validate_row(row, run.description, writer.attempt, writer.part, writer.num_parts)
            if violations:
                raise InvalidRequest.from_violations(violations)
            checks.refuse_gap(run, writer, checkpoint)
            await self._refuse_other_cut(run, header)
            known = run.open.get(checkpoint)
            is_new = checkpoint not in run.metas and not (known is not None and known.has(header.part))
            if is_new and known is None:
                checks.refuse_torn_path(run, row)
            outcome = await self._append(run, header, record, is_new)
            added_bytes = len(record) if is_new or outcome == "stored" else 0
            if checkpoint in run.metas:
                run.journal_bytes += added_bytes  # of a part that had been set aside
            else:
                await self._take(run, row, added_bytes)
            next_checkpoint = run.next_for(name)
        if run.analysed < run.num_checkpoints:
            self._registry.wake(run)
        self._observe_row(not added_bytes, len(record))
        return Receipt(checkpoint, read_digest(record), outcome == "duplicate", next_checkpoint)

    async def _store_sketch(
        self, run: Run, name: str, epoch: int, sketch: SketchRow, record: bytes
    ) -> Receipt:
        header = sketch.header.row
        async with run.lock:
            self._ownership.confirm(run.description.run_id)
            writer = checks.current_writer(run, name, epoch)
            violations = validate_sketch(
                sketch, run.description, run.sketches.spec, writer.attempt, writer.part, writer.num_parts
            )
            if violations:
                raise InvalidRequest.from_violations(violations)
            checks.refuse_sketch_ahead(run, header.checkpoint)
            known = run.sketches.open.get(header.checkpoint)
            if known is not None:
                checks.refuse_mismatch(known, header)
            is_new = not run.sketches.has(header)
            outcome = await self._append(run, header, record, is_new, kind="sketch")
            added_bytes = len(record) if is_new or outcome == "stored" else 0
            columns = SketchColumns.of(run.description, spec_of(sketch.header.spec))
            if run.accept_sketch(header, columns.spec, added_bytes):
                whole = await self._durably(
                    lambda: self._rows.sketch(run.description, columns, header.checkpoint)
                )
                run.settle_sketch(header.checkpoint, whole is not None)
        self._registry.wake(run)
        self._observe_row(not added_bytes, len(record))
        return Receipt(header.checkpoint, read_digest(record), outcome == "duplicate", run.next_for(name))

    async def _refuse_other_cut(self, run: Run, header: types_pb2.RowHeader) -> None:
        """Parts of one row are cut the same way and say the same of it; a whole row has none."""
        checkpoint = header.checkpoint
        if checkpoint in run.open:
            checks.refuse_mismatch(run.open[checkpoint], header)
        elif checkpoint in run.metas and (run.has_parts or header.num_parts > 1):
            # Of a row that is known, only the journal still knows what it was made of.
            cut = await self._durably(lambda: self._rows.open_row(run.description, checkpoint))
            checks.refuse_mismatch(cut, header)

    async def _take(self, run: Run, row: Row, added_bytes: int) -> None:
        """Note what has become durable; if that completes the row, add its parts up."""
        header, checkpoint = row.header, row.header.checkpoint
        if header.num_parts <= 1:
            run.accept(CheckpointMeta.from_row(row), checkpoint, added_bytes)
            return
        # Of a row that was lost, other parts may lie in the journal.
        was_lost = checkpoint < run.num_known and checkpoint not in run.open
        if run.accept_part(header, added_bytes).is_complete or was_lost:
            found = await self._durably(lambda: self._rows.look(run.description, checkpoint))
            run.settle(checkpoint, found)

    async def _append(
        self, run: Run, header: types_pb2.RowHeader, record: bytes, is_new: bool, kind: RecordKind = "row"
    ) -> str:
        def append() -> str:
            if is_new:
                free = shutil.disk_usage(self._disk).free
                quota.check_row(len(record), quota.Usage(run.journal_bytes, free), self._limits)
            run_id = run.description.run_id
            return self._journal.append(run_id, header.checkpoint, file_part(header), record, kind=kind)

        try:
            outcome = await self._durably(append)
        except Exhausted as error:
            if error.reason == "DISK_RESERVE":
                self._registry.count_event("refused_disk_full")
            raise
        except store_errors.ConflictError as error:
            self._registry.count_event("conflicting_rows")
            if is_new and kind == "row":
                # A server that lost its lease can have stored it, acknowledging nothing.
                found = await self._durably(lambda: self._rows.look(run.description, header.checkpoint))
                run.settle(header.checkpoint, found)
            raise Conflict("ROW_CONFLICT", f"{error}; the stored row was kept") from error
        # Durable and still ours: whoever takes the run up next will see it.
        self._ownership.confirm(run.description.run_id)
        return outcome

    async def report(self, request: ingest_pb2.ReportStatusRequest, caller: Principal) -> Run:
        """Take in how an agent does. The run's end is durable when it returns."""
        violations = validate_report(request)
        if violations:
            raise InvalidRequest.from_violations(violations)
        run = await self._ours(request.run_id, caller)
        return await self._to_its_end(self._report(request, run))

    async def _report(self, request: ingest_pb2.ReportStatusRequest, run: Run) -> Run:
        async with run.lock:
            self._ownership.confirm(run.description.run_id)
            checks.current_writer(run, request.writer, request.writer_epoch)
            report = AgentReport.from_message(request)
            control = run.control
            if control.leads(request.writer):
                control = control.reported(report.phase, report.reason, time.time())
            if control != run.control:
                await self._store_control(run, control)
            run.reports[request.writer] = report
            run.announce()
        return run

    async def _ours(self, run_id: str, caller: Principal) -> Run:
        """The run with this id, which this server may write."""
        await self._ownership.meet(run_id)
        run = self.require(run_id, caller)
        await self._ownership.hold(run_id)
        return run

    def require(self, run_id: str, caller: Principal) -> Run:
        """The run with this id; absent and forbidden are not told apart."""
        run = self._registry.find(run_id, caller.team)
        if run is None:
            raise NotFound("NO_SUCH_RUN", f"no run with id {run_id[:64]!r}; open it first")
        return run

    async def _durably(self, action: Callable[[], T]) -> T:
        """Run blocking work in a thread; storage errors become refusals that say whether to retry."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except store_errors.JournalFullError as error:
            self._registry.count_event("refused_disk_full")
            raise Exhausted("DISK_FULL", f"{error}; nothing was stored", retry_seconds=5.0) from error
        except store_errors.JournalReadOnlyError as error:
            self._registry.count_event("refused_read_only")
            raise Unavailable("READ_ONLY", f"{error}; nothing was stored", retry_seconds=30.0) from error
        except store_errors.JournalUnavailableError as error:
            self._registry.count_event("refused_unavailable")
            raise Unavailable(
                "JOURNAL_UNAVAILABLE", f"{error}; nothing was stored", retry_seconds=5.0
            ) from error
        except store_errors.JournalBrokenError as error:
            self._registry.count_event("refused_broken")
            raise Unavailable("JOURNAL_BROKEN", f"{error}", retry_seconds=30.0) from error
        except OSError as error:
            self._registry.count_event("refused_unavailable")
            raise Unavailable(
                "JOURNAL_UNAVAILABLE",
                f"data directory {self._disk}: {error.strerror or error}; nothing was stored",
                retry_seconds=30.0,
            ) from error


def _say_unheard(task: asyncio.Task[Any]) -> None:
    """A change that failed after its caller had left would otherwise fail in silence."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ServiceError):
        log.error("change failed", exc_info=error)
