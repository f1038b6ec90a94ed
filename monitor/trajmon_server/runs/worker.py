"""From journal to hallmarks, advice and maps: the same way for a new row, after a restart and after a repair.

One task per run with new rows; each step works off a batch in a thread and hands the result to the run on the event
loop. Everything is read from the journal, so nothing that is shown can differ from what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import structlog

from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.ahead import look_ahead
from trajmon_server.runs.analysis import Analysis, advance, start
from trajmon_server.runs.early import Early
from trajmon_server.runs.estimates import Estimates
from trajmon_server.runs.path import superseded_by
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows, settle
from trajmon_server.runs.run import Run
from trajmon_server.signals.base import Policy
from trajmon_server.store import errors as store_errors
from trajmon_server.store.base import Journal
from trajmon_server.store.maps import PublishRow

__all__ = ["Worker"]

log = structlog.get_logger(__name__)

BATCH_ROWS = 64
BATCH_BYTES = 32 << 20
"""Rows of one batch are held in memory together."""
EARLY_AFTER_SECONDS = 2.0
"""A row that is so much later than its sketch is shown from that meanwhile."""
RETRY_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)
"""After the first failure, the second, ...; the last one from then on."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What one batch brought."""

    analysis: Analysis
    stop: int
    """First checkpoint that is not in `analysis`."""
    metas: Mapping[int, CheckpointMeta]
    """Of the rows of this batch, as the journal holds them."""
    is_stale: bool
    """Whether the maps show other estimates than these rows have now, or show some of them as lost: sketches, or the
    rows themselves, came after they were made, before a restart or at another server."""


class Worker:
    """Keeps every run's analysis and maps up with the journal."""

    def __init__(self, registry: Registry, journal: Journal, policy: Policy[Any], executor: Executor) -> None:
        self._registry = registry
        self._rows = Rows(journal, registry.count_event)
        self._policy = policy
        self._executor = executor
        self._estimates: dict[str, Estimates] = {}
        """Of the runs that are being worked off; each is used by one batch at a time."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._catching_up: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    def wake(self, run: Run) -> None:
        """See to it that the run's new rows are worked off."""
        run_id = run.description.run_id
        if run_id not in self._tasks and not self._stop.is_set():
            task = asyncio.get_running_loop().create_task(self._work(run), name=f"run-{run.description.name}")
            self._tasks[run_id] = task
            task.add_done_callback(lambda _: self._rest(run))

    def catch_up(self, runs: Iterable[Run], at_once: int) -> None:
        """Work the runs off in the given order, `at_once` of them at a time: rows that come now wait for few."""
        waiting = iter(runs)
        loop = asyncio.get_running_loop()
        self._catching_up = [task for task in self._catching_up if not task.done()]
        self._catching_up += [loop.create_task(self._catch_up(waiting)) for _ in range(at_once)]

    async def _catch_up(self, waiting: Iterator[Run]) -> None:
        for run in waiting:
            self.wake(run)
            # A run that fails is tried again by its own task; the others need not wait for that.
            while (task := self._tasks.get(run.description.run_id)) and not run.failure:
                change = asyncio.ensure_future(run.next_change().wait())
                await asyncio.wait({task, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            if self._stop.is_set():
                return

    def _rest(self, run: Run) -> None:
        """A task has ended; a row may have come after it last looked."""
        del self._tasks[run.description.run_id]
        if run.analysed < run.num_checkpoints or _is_behind_sketches(run):
            self.wake(run)
        elif not run.is_active:
            self._estimates.pop(run.description.run_id, None)

    async def stop(self) -> None:
        """Finish the batches in hand; what is left is done after the next start."""
        self._stop.set()
        await asyncio.gather(*self._catching_up, *self._tasks.values())

    async def _work(self, run: Run) -> None:
        while not self._stop.is_set():
            await self._work_off(run)
            if not _is_behind_sketches(run):
                return
            if not await self._row_comes(run):
                await self._look_ahead(run)

    async def _row_comes(self, run: Run) -> bool:
        """Wait a moment for the rows of checkpoints whose sketches are there: they mostly follow at once."""
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            async with asyncio.timeout(EARLY_AFTER_SECONDS):
                while run.analysed == run.num_checkpoints and not self._stop.is_set():
                    change = asyncio.ensure_future(run.next_change().wait())
                    try:
                        await asyncio.wait({stop, change}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        change.cancel()
            return True
        except TimeoutError:
            return False
        finally:
            stop.cancel()

    async def _look_ahead(self, run: Run) -> None:
        """What sketches tell of checkpoints whose rows have not come."""
        numbers, generation, analysis = run.sketched_ahead(), run.generation, run.analysis
        early: Early | None = None
        if numbers:
            estimates = self._estimates_of(run)
            action = partial(
                look_ahead, analysis, run.description, numbers, self._rows, estimates, self._policy
            )
            try:
                early = await asyncio.get_running_loop().run_in_executor(self._executor, action)
            except (store_errors.StoreError, OSError, ValueError) as error:
                # The rows will come; what is shown until then is what was known before.
                self._registry.count_event("early_failed")
                log.error("sketches cannot be looked at", run=run.description.name, exc_info=error)
        if run.generation == generation and run.analysis is analysis:
            run.early, run.looked_ahead = early, tuple(numbers)
            run.announce()

    def _estimates_of(self, run: Run) -> Estimates:
        return self._estimates.setdefault(
            run.description.run_id, Estimates(self._rows, run.description, run.metas.keys)
        )

    async def _work_off(self, run: Run) -> None:
        loop = asyncio.get_running_loop()
        failures, made_again = 0, False
        while run.analysed < run.num_checkpoints and not self._stop.is_set():
            generation, analysis, begin = run.generation, run.analysis, run.analysed
            healed, run.healed = run.healed, False
            sketched = set(run.sketches.known)
            stop = min(run.num_checkpoints, begin + BATCH_ROWS)
            try:
                if healed:
                    self._estimates.pop(run.description.run_id, None)
                    maps = await loop.run_in_executor(self._executor, self._registry.maps, run.description)
                    await loop.run_in_executor(self._executor, maps.rebuild)
                estimates = self._estimates_of(run)
                step = await loop.run_in_executor(
                    self._executor,
                    self._step,
                    run.description,
                    analysis,
                    begin,
                    stop,
                    run.previous.copy(),
                    set(run.metas),
                    estimates,
                )
            except Exception as error:  # whatever it is: said, counted, tried again; other runs go on
                run.healed = run.healed or healed
                run.failure = f"its rows cannot be worked off: {error}"
                self._registry.count_event("analysis_failed")
                log.error("rows cannot be worked off", run=run.description.name, exc_info=error)
                run.announce()
                delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)
                continue
            failures = 0
            # Before rows are read, nobody knows which of them have holes, and so for which a sketch comes late.
            has_holes = any(meta.has_holes for meta in step.metas.values())
            late = has_holes and any(number < step.stop for number in run.sketches.known - sketched)
            if late and run.generation == generation:
                run.healed = True
                run.restart_analysis()
            elif step.is_stale and not made_again:
                run.healed = made_again = True
                run.restart_analysis()
            elif run.generation == generation:
                run.failure = ""
                run.analysis, run.analysed = step.analysis, step.stop
                if run.early is not None and max(run.early.rows) < step.stop:
                    run.early = None
                # After a restart only headers were read: now the layers' states are known as well.
                run.metas.update({n: meta for n, meta in step.metas.items() if n in run.metas})
                for number, meta in step.metas.items():
                    run.note_holes(number, meta)
                lost = sorted((set(range(begin, step.stop)) - step.metas.keys()) & run.metas.keys())
                for checkpoint in lost:
                    run.lose(checkpoint)
                run.announce()
                for checkpoint in lost if run.has_parts else ():
                    await settle(run, checkpoint, self._rows, self._executor)

    def _step(
        self,
        description: RunDescription,
        analysis: Analysis,
        begin: int,
        stop: int,
        previous: Sequence[int | None],
        known: Collection[int],
        estimates: Estimates,
    ) -> _Step:
        """Blocking; sees only what it is given, while the loop goes on with the run."""
        publish: list[PublishRow] = []
        read: dict[int, CheckpointMeta] = {}
        held = 0
        checkpoint = begin
        # Many batches may wait for a thread when the server is told to stop.
        while checkpoint < stop and held < BATCH_BYTES and not self._stop.is_set():
            row = self._read(description, checkpoint) if checkpoint in known else None
            if row is None:
                row, meta = _lost(description, checkpoint, previous[checkpoint])
                filled = None
            else:
                meta = read[checkpoint] = CheckpointMeta.from_row(row)
                filled = estimates.of(row)
                publish.append(PublishRow(row=row, attempt=meta.attempt, estimates=filled))
                held += row.gram.nbytes * (1 if filled is None else 4)
            dropped = superseded_by(analysis.path, meta.previous)
            if dropped:
                analysis = self._rewound(
                    description, analysis.path[: len(analysis.path) - len(dropped)], previous, known
                )
            analysis = advance(analysis, row, meta, description.groups, self._policy, filled)
            checkpoint += 1
        return _Step(analysis, checkpoint, read, is_stale=self._publish(description, publish))

    def _rewound(
        self,
        description: RunDescription,
        path: Sequence[int],
        previous: Sequence[int | None],
        known: Collection[int],
    ) -> Analysis:
        """The analysis of the kept part of a path, from the journal."""
        estimates = Estimates(self._rows, description, lambda: known)
        analysis = start(description.groups, self._policy)
        for checkpoint in path:
            row = self._read(description, checkpoint) if checkpoint in known else None
            if row is None:
                row, meta = _lost(description, checkpoint, previous[checkpoint])
            else:
                meta = CheckpointMeta.from_row(row)
            filled = estimates.of(row)
            analysis = advance(analysis, row, meta, description.groups, self._policy, filled)
        return analysis

    def _read(self, description: RunDescription, checkpoint: int) -> Row | None:
        try:
            return self._rows.read(description, checkpoint)
        except store_errors.RowMissingError:
            return None
        except store_errors.RowDamagedError as error:
            self._registry.count_event("damaged_rows")
            log.error(
                "journal row is damaged", run=description.name, checkpoint=checkpoint, problem=str(error)
            )
            return None

    def _publish(self, description: RunDescription, rows: Sequence[PublishRow]) -> bool:
        """Hand the rows to the maps; after a restart some are there already. True if with other content."""
        maps = self._registry.maps(description)
        published = maps.published()
        is_stale = any(
            not maps.has_row(row.row.header.checkpoint)
            or (
                row.estimates is not None
                and maps.num_estimated(row.row.header.checkpoint) != row.estimates.num_estimated
            )
            for row in rows
            if row.row.header.checkpoint < published
        )
        maps.publish([row for row in rows if row.row.header.checkpoint >= published])
        return is_stale


def _is_behind_sketches(run: Run) -> bool:
    """Whether there are other sketches ahead of the rows than those that were last looked at."""
    return tuple(run.sketched_ahead()) != run.looked_ahead


def _lost(description: RunDescription, checkpoint: int, previous: int | None) -> tuple[Row, CheckpointMeta]:
    """What stands in for a row that has been lost to damage: nothing in it is known."""
    num_layers = len(description.layers)
    header = types_pb2.RowHeader(
        run_id=description.run_id,
        checkpoint=checkpoint,
        num_parts=1,
        previous=previous,
        fingerprint=description.fingerprint,
        num_layers=num_layers,
        info=types_pb2.CheckpointInfo(step=-1),
    )
    row = Row(
        header=header,
        # One NaN seen many times: a long gap costs no memory.
        gram=np.broadcast_to(np.float64(np.nan), (num_layers, checkpoint + 1)),
        products=np.full((num_layers, len(PRODUCTS)), np.nan),
        status=np.full(num_layers, LayerStatus.SNAPSHOT_MISSING, dtype=np.uint8),
    )
    return row, replace(CheckpointMeta.from_header(header, ()), lost=True)
