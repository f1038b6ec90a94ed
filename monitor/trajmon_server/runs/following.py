"""What other servers have stored of a run since this one last looked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from trajmon_protos.sketch import SketchSpec
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.control import CONTROL_FILE, RunControl
from trajmon_server.runs.parts import WHOLE, OpenRow
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Found, Run
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.store.base import Journal, RowKey
from trajmon_server.store.errors import (
    JournalError,
    JournalReadOnlyError,
    JournalUnavailableError,
    RowDamagedError,
    RowMissingError,
)

__all__ = ["Follower", "Known", "News"]


@dataclass(frozen=True, slots=True)
class Known:
    """What this server knows of a run; taken on the event loop, used in a thread."""

    description: RunDescription
    checkpoints: Collection[int]
    open: Mapping[int, OpenRow]
    sketches: Collection[int]
    open_sketches: Mapping[int, OpenRow]
    spec: SketchSpec | None
    """Of the sketches, if there were any."""
    next_checkpoint: int

    @classmethod
    def of(cls, run: Run) -> Known:
        """Of a run as it is now."""
        return cls(
            run.description,
            set(run.metas),
            dict(run.open),
            set(run.sketches.known),
            dict(run.sketches.open),
            run.sketches.spec,
            run.next_checkpoint,
        )

    @property
    def settled(self) -> int:
        """Below this checkpoint, nothing is expected to come."""
        return min(self.next_checkpoint, min(self.open_sketches, default=self.next_checkpoint))


@dataclass(frozen=True, slots=True)
class News:
    """What has come."""

    control: RunControl | None
    """As it is stored; None if it is not, or cannot be read."""
    journal_bytes: int
    rows: Mapping[int, Found] = field(default_factory=dict)
    """By checkpoint, ascending."""
    has_parts: bool = False
    spec: SketchSpec | None = None
    """Of the new sketches."""
    sketches: Collection[int] = ()
    """Checkpoints whose sketch has come, ascending."""
    open_sketches: Mapping[int, OpenRow] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show anew."""
        return not (self.rows or self.sketches)

    def tell(self, run: Run) -> None:
        """Take it in. On the event loop, under the run's lock ever since what was known was taken."""
        run.journal_bytes = self.journal_bytes
        run.has_parts = run.has_parts or self.has_parts
        for checkpoint, found in self.rows.items():
            run.settle(checkpoint, found)
        if self.spec is not None:
            known = run.sketches.known
            run.sketches.recovered(self.spec, known, dict(self.open_sketches))
            for checkpoint in self.sketches:
                run.settle_sketch(checkpoint, True)
        if self.control is not None and self.control != run.control:
            run.control = self.control
            run.announce()


class Follower:
    """Looks into the journal. Methods block; one at a time for a run."""

    def __init__(self, journal: Journal, rows: Rows) -> None:
        self._journal = journal
        self._rows = rows
        self._counted: dict[str, tuple[int, int]] = {}
        """By run: a checkpoint, and the bytes of all records below it."""

    def look(self, known: Known, *, as_writer: bool, wholly: bool = False) -> News:
        """What has come. `as_writer`: all of it is looked at, and sums that are missing are made.

        `wholly`: records of checkpoints that are known as well, such as a sketch that came behind its row.
        """
        run_id = known.description.run_id
        # First: where it says that the run has ended, the rows of before are seen below.
        control = self._control(run_id, as_writer=as_writer)
        after, bytes_below = self._counted.get(run_id, (0, 0))
        if as_writer or wholly or after > known.settled:
            after, bytes_below = 0, 0
        row_keys = self._journal.list_rows(run_id, after=after)
        sketch_keys = self._journal.list_rows(run_id, kind="sketch", after=after)
        keys = [*row_keys, *sketch_keys]
        below = sum(key.size_bytes for key in keys if key.checkpoint < known.settled)
        self._counted[run_id] = (known.settled, bytes_below + below)
        spec, sketches, open_sketches = self._sketches(known, sketch_keys, as_writer=as_writer)
        return News(
            control=control,
            rows=self._new_rows(known, row_keys, as_writer=as_writer),
            journal_bytes=bytes_below + sum(key.size_bytes for key in keys),
            has_parts=any(key.part != WHOLE for key in row_keys),
            spec=spec,
            sketches=sketches,
            open_sketches=open_sketches,
        )

    def _control(self, run_id: str, *, as_writer: bool) -> RunControl | None:
        # Who only follows leaves the fence up: what this server has still to put is of before.
        read = self._journal.get_run_file if as_writer else self._journal.peek_run_file
        try:
            stored = read(run_id, CONTROL_FILE)
            return None if stored is None else RunControl.from_json(stored)
        except (JournalUnavailableError, JournalReadOnlyError):
            raise
        except (KeyError, TypeError, ValueError, JournalError):
            return None

    def _new_rows(self, known: Known, keys: Collection[RowKey], *, as_writer: bool) -> dict[int, Found]:
        parts: dict[int, int] = {}
        for key in keys:
            if key.checkpoint not in known.checkpoints:
                bit = 0 if key.part == WHOLE else 1 << (key.part - 1)
                parts[key.checkpoint] = parts.get(key.checkpoint, 0) | bit
        whole = {key.checkpoint for key in keys if key.part == WHOLE}
        found: dict[int, Found] = {}
        for checkpoint in sorted(parts):
            before = known.open.get(checkpoint)
            if checkpoint in whole:
                found[checkpoint] = self._row(known.description, checkpoint)
            elif as_writer:
                found[checkpoint] = self._rows.look(known.description, checkpoint)
            elif before is None or before.stored != parts[checkpoint]:
                found[checkpoint] = Found(open=self._rows.open_row(known.description, checkpoint))
        # What is known may have been set aside by the server that held the run: it is to be sent again.
        for checkpoint in sorted(set(known.checkpoints) - whole) if as_writer else ():
            looked = self._rows.look(known.description, checkpoint)
            if looked.meta is None:
                found[checkpoint] = looked
        return found

    def _row(self, description: RunDescription, checkpoint: int) -> Found:
        try:
            header = self._journal.header(description.run_id, checkpoint, WHOLE)
        except (RowDamagedError, RowMissingError):
            return self._rows.look(description, checkpoint)
        previous = header.previous if header.HasField("previous") else None
        if (header.checkpoint, previous) != (checkpoint, checkpoint - 1 if checkpoint else None):
            # Only the header was read: before the path bends, the whole row is verified.
            return self._rows.look(description, checkpoint)
        return Found(CheckpointMeta.from_header(header, ()))

    def _sketches(
        self, known: Known, keys: Collection[RowKey], *, as_writer: bool
    ) -> tuple[SketchSpec | None, list[int], dict[int, OpenRow]]:
        new = sorted({key.checkpoint for key in keys} - set(known.sketches))
        if not new:
            return None, [], {}
        if known.spec is not None:
            columns: SketchColumns | None = SketchColumns.of(known.description, known.spec)
        else:
            columns = self._rows.sketch_columns(known.description)
        if columns is None:
            return None, [], {}
        whole = {key.checkpoint for key in keys if key.part == WHOLE}
        here = [checkpoint for checkpoint in new if checkpoint in whole]
        still_open: dict[int, OpenRow] = {}
        for checkpoint in (number for number in new if number not in whole):
            found = self._rows.open_sketch(known.description, checkpoint)
            if found is None:
                continue
            if as_writer and found.is_complete and self._rows.sketch(known.description, columns, checkpoint):
                here.append(checkpoint)
            else:
                still_open[checkpoint] = found
        return columns.spec, sorted(here), still_open
