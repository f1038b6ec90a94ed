"""One run as the server holds it in memory: O(groups x checkpoints) in size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from trajmon_protos.sketch import SketchSpec
from trajmon_protos.v1 import types_pb2
from trajmon_server.hallmarks.integrity import Finding
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.analysis import Analysis, start
from trajmon_server.runs.control import AgentReport, Phase, RunControl, Writer, aggregate
from trajmon_server.runs.early import MOST_EARLY, Early
from trajmon_server.runs.known_sketches import KnownSketches
from trajmon_server.runs.parts import OpenRow
from trajmon_server.runs.path import extend_path, path_of, superseded_by
from trajmon_server.signals.base import Advice, AdviceState, Policy

__all__ = ["AgentReport", "Found", "Phase", "Run", "RunControl"]

_NO_OPEN_ROWS: Mapping[int, OpenRow] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Found:
    """What the journal holds of one checkpoint."""

    meta: CheckpointMeta | None = None
    """Of its row, if that can be read."""
    open: OpenRow | None = None
    """Of its parts, if there are some and the row is not known."""
    added_bytes: int = 0
    """Of the sum that was written on looking."""


class Reports(dict[str, AgentReport]):
    """What each writer last told of itself, by its name."""

    last_unix_seconds = 0.0
    """When one last told something, by this machine's clock; 0 before."""

    def __setitem__(self, writer: str, report: AgentReport) -> None:
        super().__setitem__(writer, report)
        self.last_unix_seconds = time.time()


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
        self.reports = Reports()
        self.is_ours = True
        """Whether this server writes the run; one of several servers at most does."""
        self.lock = asyncio.Lock()
        self.journal_bytes = 0
        self.metas: dict[int, CheckpointMeta] = {}
        """Of the rows that are known, by checkpoint number; one below the highest that is missing is open or lost."""
        self.open: dict[int, OpenRow] = {}
        """Rows of which some parts have come; none of them is in `metas`."""
        self.has_parts = False
        """Whether any row of the run ever came in parts."""
        self.sketches = KnownSketches()
        self._last_with_holes = -1
        """Newest checkpoint whose row says that older snapshots were not kept."""
        self.previous: list[int | None] = []
        """The `previous` of every checkpoint, open ones too; a lost one follows the one before it unless more is
        known."""
        self._all_known: tuple[int, ...] = ()
        """The path to the newest checkpoint, be it open."""
        self.path: tuple[int, ...] = ()
        """The path to the newest checkpoint whose row is known."""
        self.num_checkpoints = 0
        """One more than the highest number whose row was ever known."""
        self.next_checkpoint = 0
        """First checkpoint whose row is not known."""
        self._passed: dict[tuple[str, int], int] = {}
        """By writer and its first checkpoint: below this number there is nothing that it has not handed in."""
        self.analysed = 0
        """Rows below this number are in `analysis` and published."""
        self.analysis: Analysis = start(description.groups, policy)
        self.early: Early | None = None
        """What is shown beyond `analysis`, of checkpoints whose rows have not come."""
        self.looked_ahead: tuple[int, ...] = ()
        """Checkpoints whose sketches were there when `early` was made."""
        self.healed = False
        """A row below the newest has come, or more is known of the path: the maps must be made again."""
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
    def num_known(self) -> int:
        """One more than the highest number of which anything was ever stored."""
        return len(self.previous)

    @property
    def num_early(self) -> int:
        """Checkpoints that are shown from their sketches, their rows not having come."""
        early = self.early
        return 0 if early is None else sum(number not in self.metas for number in early.rows)

    @property
    def shown(self) -> Analysis:
        """What readers are shown: the analysis of the rows, and of the sketches that came ahead of theirs."""
        early, analysis = self.early, self.analysis
        return analysis if early is None else early.analysis

    def meta(self, checkpoint: int) -> CheckpointMeta | None:
        """What is known of a checkpoint, from its row, or from the sketch that came ahead of it."""
        known, early = self.metas.get(checkpoint), self.early
        if known is None and early is not None and checkpoint in early.rows:
            return early.rows[checkpoint].meta
        return known

    def sketched_ahead(self) -> list[int]:
        """Checkpoints right behind the last row whose sketches are there."""
        numbers = []
        for number in range(self.num_checkpoints, self.num_checkpoints + MOST_EARLY):
            if number not in self.sketches.known:
                break
            numbers.append(number)
        return numbers

    @property
    def agent(self) -> AgentReport:
        """How the run's agents do, together. Safe from any thread."""
        reports = dict(self.reports)
        leader = next((told for name, told in reports.items() if self.control.leads(name)), None)
        return aggregate(reports.values(), leader)

    @property
    def is_active(self) -> bool:
        """False once training has ended."""
        return self.control.is_active

    def accept(self, meta: CheckpointMeta, checkpoint: int, record_bytes: int) -> None:
        """Note a row that has just become durable."""
        self._note_previous(checkpoint, meta.previous)
        self._know(checkpoint, meta)
        self.journal_bytes += record_bytes
        self.announce()

    def accept_part(self, header: types_pb2.RowHeader, record_bytes: int) -> OpenRow:
        """Note a part that has just become durable, of a row that is not known; returns what there is of it now."""
        checkpoint = header.checkpoint
        known = self.open.get(checkpoint) or OpenRow.announced_by(header)
        self._note_previous(checkpoint, known.previous)
        self.open[checkpoint] = known.with_part(header.part)
        self.has_parts = True
        self.journal_bytes += record_bytes
        self.announce()
        return self.open[checkpoint]

    def accept_sketch(self, header: types_pb2.RowHeader, spec: SketchSpec, record_bytes: int) -> bool:
        """Note a sketch, or a part of one, that has just become durable; True if its parts are all there now."""
        self.journal_bytes += record_bytes
        return self.sketches.add(header, spec)

    def settle_sketch(self, checkpoint: int, is_whole: bool) -> None:
        """Note that the sketch of a checkpoint is known, or that it cannot be read."""
        self.sketches.settle(checkpoint, is_whole)
        if is_whole and checkpoint <= self._last_with_holes:
            # Estimates that were made without it.
            self.healed = True
            self.restart_analysis()
        self.announce()

    def settle(self, checkpoint: int, found: Found) -> None:
        """Note what a look into the journal found of a checkpoint, under `lock` all the while."""
        self.journal_bytes += found.added_bytes
        if found.meta is not None:
            self._note_previous(checkpoint, found.meta.previous)
            self._know(checkpoint, found.meta)
        else:
            self.lose(checkpoint)
            self.open.pop(checkpoint, None)
            if found.open is not None:
                self._note_previous(checkpoint, found.open.previous)
                self.open[checkpoint] = found.open
        self.announce()

    def lose(self, checkpoint: int) -> None:
        """Note that a row turned out to be damaged, or a part: it may be sent again."""
        if self.metas.pop(checkpoint, None) is not None:
            self.next_checkpoint = min(self.next_checkpoint, checkpoint)
        self._passed = {key: min(number, checkpoint) for key, number in self._passed.items()}

    def next_for(self, name: str) -> int:
        """First checkpoint that the writer may have something of and has not handed it in."""
        writer = self.control.writer(name) or Writer(epoch=0, attempt=0)
        key = (name, writer.first_checkpoint)
        number = max(writer.first_checkpoint, self._passed.get(key, 0))
        while number in self.metas or self._is_not_for(number, writer):
            number += 1
        self._passed[key] = number
        return number

    def _is_not_for(self, checkpoint: int, writer: Writer) -> bool:
        """Whether an open row has the writer's part, or is cut another way, so that it has none of it."""
        known = self.open.get(checkpoint)
        return known is not None and (known.num_parts != writer.num_parts or known.has(writer.part))

    def _note_previous(self, checkpoint: int, previous: int | None) -> None:
        if checkpoint > self.num_known:
            # Nothing is known of those in between: the path leads through all of them until more is.
            self.previous += [number - 1 if number else None for number in range(self.num_known, checkpoint)]
            self._all_known = path_of(self.previous)
        if checkpoint == self.num_known:
            self.previous.append(previous)
            self._all_known = extend_path(self._all_known, checkpoint, previous)
        elif self.previous[checkpoint] != previous:
            self.previous[checkpoint] = previous
            self._all_known = path_of(self.previous)
            if checkpoint < self.num_checkpoints:
                self.path = path_of(self.previous[: self.num_checkpoints])
                self.healed = True
                self.restart_analysis()

    def note_holes(self, checkpoint: int, meta: CheckpointMeta) -> None:
        """Take in what a row says of the snapshots that were not kept."""
        if meta.has_holes:
            self._last_with_holes = max(self._last_with_holes, checkpoint)

    def _know(self, checkpoint: int, meta: CheckpointMeta) -> None:
        self.metas[checkpoint] = meta
        self.note_holes(checkpoint, meta)
        self.open.pop(checkpoint, None)
        self.last_heard_unix_seconds = time.time()
        self.last_row_unix_seconds = max(self.last_row_unix_seconds, meta.time_unix_seconds)
        if checkpoint < self.num_checkpoints:
            self.healed = True
            self.restart_analysis()
        else:
            self.num_checkpoints = checkpoint + 1
            is_newest = self.num_checkpoints == self.num_known
            self.path = self._all_known if is_newest else path_of(self.previous[: self.num_checkpoints])
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1

    def restart_analysis(self) -> None:
        """Forget what was derived; the worker derives it again from the journal."""
        self.generation += 1
        self.analysed = 0
        self.early = None
        self.analysis = start(self.description.groups, self._policy)

    def current_advice(self) -> Advice:
        """The word on the run now: `unknown` before the first row, and when a running run has gone silent."""
        advice = self.shown.advice
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

    def recovered(
        self,
        metas: Mapping[int, CheckpointMeta],
        journal_bytes: int,
        open_rows: Mapping[int, OpenRow] = _NO_OPEN_ROWS,
    ) -> None:
        """Take in what the journal held at start; ValueError if the checkpoints do not form a path."""
        self.metas = dict(metas)
        self.open = dict(open_rows)
        self.journal_bytes = journal_bytes
        known = {number: meta.previous for number, meta in metas.items()}
        known |= {number: row.previous for number, row in open_rows.items()}
        self.previous = [
            known[number] if number in known else (number - 1 if number else None)
            for number in range(max(known, default=-1) + 1)
        ]
        self.num_checkpoints = max(metas, default=-1) + 1
        self.last_row_unix_seconds = max((meta.time_unix_seconds for meta in metas.values()), default=0.0)
        self.last_heard_unix_seconds = self.last_row_unix_seconds
        self._all_known = path_of(self.previous)
        self.path = path_of(self.previous[: self.num_checkpoints])
        while self.next_checkpoint in self.metas:
            self.next_checkpoint += 1

    def all_findings(self) -> tuple[Finding, ...]:
        """Doubts about the checkpoints, by checkpoint number."""
        analysis = self.shown  # one look: the loop may put another in its place meanwhile
        found = [replace(a, checkpoint=analysis.path[a.checkpoint]) for a in analysis.findings]
        return tuple(found)

    def check_previous(self, checkpoint: int, previous: int | None) -> None:
        """ValueError if `checkpoint` cannot follow `previous`, or if one after it could then not follow its own."""
        if checkpoint > self.num_known:
            unseen = [number - 1 if number else None for number in range(self.num_known, checkpoint)]
            superseded_by(path_of([*self.previous, *unseen]), previous)
        elif checkpoint == self.num_known:
            superseded_by(self._all_known, previous)
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
