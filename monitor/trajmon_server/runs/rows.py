"""The rows of runs as readers want them: whole. Where a row came in parts, its sum is made here, and made again.

The parts are the truth, the sum is derived from them: it is written to the journal beside them, so that it is read
like any other row, and whenever it is missing or damaged it is added up anew. The bytes are the same every time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
import structlog
from numpy.typing import NDArray

from trajmon_protos.record import Row, encode
from trajmon_protos.sketch_record import SketchRow, encode_sketch, spec_of
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.parts import WHOLE, OpenRow, add_up
from trajmon_server.runs.run import Found, Run
from trajmon_server.runs.sketches import SketchColumns, add_up_sketches
from trajmon_server.store import errors
from trajmon_server.store.base import Journal

__all__ = ["Rows", "settle"]

log = structlog.get_logger(__name__)

_NOT_NOW = (
    errors.JournalBrokenError,
    errors.JournalFullError,
    errors.JournalReadOnlyError,
    errors.JournalUnavailableError,
)


class Rows:
    """Reads whole rows out of a journal. Methods block and may be called from several threads at once."""

    def __init__(self, journal: Journal, count_event: Callable[[str], None]) -> None:
        """`count_event` is told what was set right, and what could not be."""
        self._journal = journal
        self.count_event = count_event

    def read(self, description: RunDescription, checkpoint: int) -> Row:
        """The row, verified; RowMissingError or RowDamagedError if it is not known, or not any more."""
        return self._read(description, checkpoint)[0]

    def _read(self, description: RunDescription, checkpoint: int) -> tuple[Row, int]:
        """The row, and the bytes that were added to the journal."""
        try:
            return self._journal.read_row(description.run_id, checkpoint), 0
        except (errors.RowMissingError, errors.RowDamagedError) as error:
            made = self._made(description, checkpoint)
            if made is None:
                raise
            if isinstance(error, errors.RowDamagedError):
                self.count_event("damaged_rows")
                log.error(
                    "journal row was damaged and is added up again from its parts",
                    run=description.name,
                    checkpoint=checkpoint,
                    problem=str(error),
                )
            return made

    def products(self, description: RunDescription, checkpoint: int) -> NDArray[np.float64]:
        """The update products of the row, [L, 4]; errors as in :meth:`read`."""
        try:
            return self._journal.read_products(description.run_id, checkpoint)
        except (errors.RowMissingError, errors.RowDamagedError):
            return self.read(description, checkpoint).products

    def look(self, description: RunDescription, checkpoint: int) -> Found:
        """What there is of a checkpoint: its row, or else its parts. Adds up what is complete."""
        try:
            row, added_bytes = self._read(description, checkpoint)
        except (errors.RowMissingError, errors.RowDamagedError) as error:
            if isinstance(error, errors.RowDamagedError):
                self.count_event("damaged_rows")
                log.error(
                    "journal row is damaged",
                    run=description.name,
                    checkpoint=checkpoint,
                    problem=str(error),
                )
            return Found(open=self.open_row(description, checkpoint))
        return Found(CheckpointMeta.from_row(row), None, added_bytes)

    def sketch(
        self, description: RunDescription, columns: SketchColumns, checkpoint: int
    ) -> SketchRow | None:
        """The sketch of a checkpoint, verified; None if there is none that can be read. Adds up what came in parts."""
        run_id = description.run_id
        try:
            return self._journal.read_sketch(run_id, checkpoint)
        except errors.RowMissingError:
            pass
        except errors.RowDamagedError as error:
            self._count_damage(description, error)
        numbers = [part for part in self._journal.parts(run_id, checkpoint, kind="sketch") if part != WHOLE]
        if not numbers:
            return None
        try:
            row = add_up_sketches(
                (self._journal.read_sketch(run_id, checkpoint, n) for n in numbers), columns
            )
        except (ValueError, errors.RowDamagedError) as error:
            if isinstance(error, errors.RowDamagedError):
                self._count_damage(description, error)
            return None
        with contextlib.suppress(*_NOT_NOW):
            # Derived: if there is no room for it, it is added up again when it is next asked for.
            self._journal.append(run_id, checkpoint, WHOLE, encode_sketch(row), kind="sketch")
        return row

    def sketch_gram(
        self, description: RunDescription, checkpoint: int, members: Sequence[int]
    ) -> NDArray[np.float64]:
        """Inner products of a checkpoint's sketch with all up to it, over some layers, [n]; NaN where not known."""
        try:
            (gram,) = self._journal.read_sketch_gram(description.run_id, None, [checkpoint])
        except (errors.RowMissingError, errors.RowDamagedError):
            return np.full(checkpoint + 1, np.nan)
        total: NDArray[np.float64] = gram[list(members)].sum(axis=0)
        return total

    def sketch_columns(self, description: RunDescription) -> SketchColumns | None:
        """How the run is sketched, as the first of its sketches says that can be read; None if there is none."""
        run_id = description.run_id
        for key in self._journal.list_rows(run_id, kind="sketch"):
            try:
                header = self._journal.read_sketch(run_id, key.checkpoint, key.part).header
            except (errors.RowMissingError, errors.RowDamagedError):
                continue
            return SketchColumns.of(description, spec_of(header.spec))
        return None

    def open_sketch(self, description: RunDescription, checkpoint: int) -> OpenRow | None:
        """What the journal has of the parts of a sketch."""
        run_id = description.run_id
        known: OpenRow | None = None
        for part in self._journal.parts(run_id, checkpoint, kind="sketch"):
            if part != WHOLE:
                try:
                    header = self._journal.read_sketch(run_id, checkpoint, part).header.row
                except (errors.RowMissingError, errors.RowDamagedError):
                    continue
                known = (known or OpenRow.announced_by(header)).with_part(part - 1)
        return known

    def _count_damage(self, description: RunDescription, error: Exception) -> None:
        self.count_event("damaged_rows")
        log.error("sketch is damaged", run=description.name, problem=str(error))

    def open_row(self, description: RunDescription, checkpoint: int) -> OpenRow | None:
        """What the journal has of the parts of a row, whether or not its sum is there too."""
        run_id = description.run_id
        while parts := [part for part in self._journal.parts(run_id, checkpoint) if part != WHOLE]:
            try:
                # Verified: what one part says of its row is believed of all.
                known = OpenRow.announced_by(self._journal.read_row(run_id, checkpoint, parts[0]).header)
            except errors.RowDamagedError as error:
                self.count_event("damaged_rows")
                log.error("part of a row is damaged", run=description.name, problem=str(error))
                continue  # it has been set aside: the next one may be intact
            for part in parts:
                known = known.with_part(part - 1)
            return known
        return None

    def _made(self, description: RunDescription, checkpoint: int) -> tuple[Row, int] | None:
        """The sum of the parts, now in the journal, and its size; None if not all of them are there."""
        known = self.open_row(description, checkpoint)
        if known is None or not known.is_complete:
            return None
        empty = [index for index, layer in enumerate(description.layers) if not layer.parameters]
        row = add_up(self._parts(description, checkpoint, known.num_parts), len(description.layers), empty)
        record = encode(row)
        try:
            self._journal.append(description.run_id, checkpoint, WHOLE, record)
        except _NOT_NOW as error:
            # Nothing is lost: the parts are durable, and the sum is added up again when it is next asked for.
            self.count_event("sums_not_stored")
            log.warning("sum of a row's parts cannot be stored", run=description.name, problem=str(error))
            return row, 0
        return row, len(record)

    def _parts(self, description: RunDescription, checkpoint: int, num_parts: int) -> Iterator[Row]:
        for part in range(num_parts):
            yield self._journal.read_row(description.run_id, checkpoint, part + 1)


async def settle(run: Run, checkpoint: int, rows: Rows, executor: Executor) -> None:
    """Look again at a row that could not be read: what is known of the run is then what the journal holds.

    If the journal cannot be read at all, the row stays lost; the next part that comes for it makes the look good.
    """
    async with run.lock:  # no part may come between the look and what follows from it
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(executor, rows.look, run.description, checkpoint)
        except (errors.StoreError, OSError, ValueError) as error:
            rows.count_event("unsettled_rows")
            log.error("row cannot be looked at", run=run.description.name, exc_info=error)
        else:
            run.settle(checkpoint, found)
