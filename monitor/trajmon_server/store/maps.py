"""The Zarr maps of a run: made from rows, readable by anybody at any moment, and made again where damaged.

layout.py says what the store looks like and in which order it is published.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.base import RowSource
from trajmon_server.store.chunks import encode_strings
from trajmon_server.store.document import UnusableStore, read_stored, shown_plans, write_metadata
from trajmon_server.store.entries import (
    LOST_ATTEMPT,
    Entry,
    PublishRow,
    columns,
    entry_of,
    lost_entry,
    superseded_by,
)
from trajmon_server.store.errors import MapDamagedError
from trajmon_server.store.estimates import Estimates, RowEstimates, group_sum
from trajmon_server.store.files import TempFolder, exchange, replace_file, set_aside
from trajmon_server.store.gather import gather
from trajmon_server.store.layout import NO_ESTIMATES, STRIP_ROWS, Quantity, RunShape, Scope
from trajmon_server.store.sheets import Sheet, Sheets
from trajmon_server.store.strips import DamagedChunk
from trajmon_server.store.supply import FindingKind, MapFinding, Supply
from trajmon_server.store.vectors import VectorFiles

__all__ = ["Estimates", "MapFinding", "MapStore", "PublishRow", "RowEstimates", "RunShape"]

T = TypeVar("T")

_MAX_REPAIRS = 16 * STRIP_ROWS
"""In one action: more than the rows of the strips it can touch, so that a repair that does not help comes to an end."""


class MapStore:
    """The maps of one run, at ROOT/<run_id>.zarr. Thread safe; one such object per run at a time.

    What is damaged is moved to ROOT/<run_id>.damaged, reported in `findings`, and made again from `source`;
    MapDamagedError without a source. OSError passes: whatever was published before stays published, and the
    rows from `published()` on may be published again. Of a source that is no EstimateSource, no estimates come.
    """

    def __init__(
        self, root: Path, run: RunShape, source: RowSource | None = None, *, keep_tail_seconds: float = 60.0
    ) -> None:
        """Open the store and finish what a crash interrupted; create it if there is none.

        A store that cannot be continued (other format, unreadable) is set aside, and `published()` starts at 0.
        """
        self.path = root / f"{run.run_id}.zarr"
        self.findings: list[MapFinding] = []
        """In the order found."""
        self._root = root
        self._run = run
        self._source = source
        self._keep_tail_seconds = keep_tail_seconds
        self._lock = threading.RLock()
        self._temp = TempFolder(root / ".tmp")
        self._prefix = f"{run.run_id}."
        plans = shown_plans(run, with_estimates=True)
        self._vectors = VectorFiles(self.path, self._temp, plans, self._prefix)
        self._sheets = Sheets(self.path, self._temp, plans, run, self._prefix)
        self._published = 0
        self._swaps = 0
        """Odd while another store takes the place of this one."""
        self._temp.clean(self._prefix)
        self._open()

    def published(self) -> int:
        """How many checkpoints a reader sees."""
        return self._published

    # Publishing

    def publish(self, rows: Iterable[PublishRow]) -> None:
        """Show rows, in ascending order, each behind all published so far; takes one at a time from `rows`.

        Numbers left out are lost rows, shown as NaN. What a row's `previous` supersedes is marked.
        ValueError for a row that is published already, is out of order or has other layers; it is not shown.
        """
        with self._lock:
            self._publish(rows, stop=0)

    def _publish(self, rows: Iterable[PublishRow], stop: int) -> None:
        """Show rows, then lost ones up to `stop`."""
        pending: list[Entry] = []
        for item in rows:
            number = item.row.header.checkpoint
            self._check(item, self._published + len(pending))
            self._add_lost(pending, number)
            if item.estimates is not None:
                self._begin_estimates()
            self._sheets.write(item)
            self._mark(superseded_by(item.row))
            self._add(pending, entry_of(item, self._run))
        self._add_lost(pending, stop)
        self._commit(pending)

    def _check(self, item: PublishRow, expected: int) -> None:
        number = item.row.header.checkpoint
        if number < expected:
            raise ValueError(
                f"checkpoint {number} is published already, {expected} is next; rebuild() takes in rows that came late"
            )
        shape = (len(self._run.layer_names), number + 1)
        if item.row.gram.shape != shape:
            raise ValueError(f"Gram row of checkpoint {number} has shape {item.row.gram.shape}, not {shape}")
        if item.estimates is not None:
            item.estimates.check(self._run, number)

    def _add_lost(self, pending: list[Entry], stop: int) -> None:
        while self._published + len(pending) < stop:
            self._sheets.drop(self._published + len(pending))
            self._add(pending, lost_entry(self._run))

    def _add(self, pending: list[Entry], entry: Entry) -> None:
        pending.append(entry)
        if (self._published + len(pending)) % STRIP_ROWS == 0:
            self._commit(pending)

    def _begin_estimates(self) -> None:
        """From the next commit on, the store has arrays of sketches and estimates."""
        if not self._sheets.with_estimates:
            self._sheets.begin_estimates()
            self._vectors.write("estimated", 0, np.full(self._published, NO_ESTIMATES), 0)
            self._sheets.with_estimates = True

    def _commit(self, pending: list[Entry]) -> None:
        """The sheets' chunks are written: write the others, then the metadata; then seal what became complete."""
        if not pending:
            return
        start, stop = self._published, self._published + len(pending)
        self._mending_vectors(lambda: self._write_vectors(start, stop, pending))
        self._write_metadata(stop)
        for number, entry in enumerate(pending, start):
            self._sheets.published(number, entry)
        self._published = stop
        pending.clear()
        if stop % STRIP_ROWS == 0:
            self._seal(stop // STRIP_ROWS - 1)

    def _write_vectors(self, start: int, stop: int, entries: Sequence[Entry]) -> None:
        for name, values in columns(entries).items():
            if name != "estimated" or self._sheets.with_estimates:
                self._vectors.write(name, start, values, start)
        for name in ("checkpoint", "checkpoint_j"):
            self._vectors.fill_up(name, stop)
        self._vectors.put("superseded", (), True, start, stop)

    def _write_metadata(self, length: int) -> None:
        plans = shown_plans(self._run, with_estimates=self._sheets.with_estimates)
        write_metadata(self.path, self._temp, self._prefix, self._run, plans, length)

    def mark_superseded(self, checkpoints: Sequence[int]) -> None:
        """Mark published checkpoints as superseded. ValueError for a number that is not published."""
        with self._lock:
            beyond = [number for number in checkpoints if not 0 <= number < self._published]
            if beyond:
                raise ValueError(f"checkpoints {beyond} are not published; there are {self._published}")
            self._mark(checkpoints)

    def _mark(self, checkpoints: Sequence[int]) -> None:
        if checkpoints:
            stop = self._published
            self._mending_vectors(lambda: self._vectors.put("superseded", checkpoints, True, stop, stop))

    # Reading

    def read_map(self, scope_kind: Scope, index: int, numbers: NDArray[np.integer]) -> NDArray[np.float64]:
        """The Gram of one layer or group over the checkpoints `numbers`, [n, n], symmetric; NaN where missing.

        Exact entries alone. Memory beyond the result: one strip. ValueError for an index or a number that does
        not exist.
        """
        return self._read(scope_kind, "gram", index, numbers)

    def has_row(self, number: int) -> bool:
        """Whether a published row is shown; else it is shown as lost."""
        return number in self._sheets.rows["gram"]

    def num_estimated(self, number: int) -> int:
        """In how many columns a published row has estimates."""
        if not self._sheets.with_estimates:
            return 0
        return max(0, int(self._vectors.read("estimated", self._published)[number]))

    def read_estimates(self, scope_kind: Scope, index: int, numbers: NDArray[np.integer]) -> Estimates | None:
        """What sketches say of one layer or group over the checkpoints `numbers`; None if nothing.

        ValueError for an index or a number that does not exist.
        """
        while True:
            swaps = self._swaps
            estimate = self._read(scope_kind, "gram_estimate", index, numbers)
            error = self._read(scope_kind, "gram_error", index, numbers)
            sketch_gram = self._read(scope_kind, "sketch_gram", index, numbers)
            sketched = not self._sheets.rows["sketch_gram"].isdisjoint(np.asarray(numbers).tolist())
            # An estimate of one store is not given with the standard error of another.
            if swaps % 2 == 0 and swaps == self._swaps:
                return Estimates(estimate, error, sketch_gram) if sketched else None

    def _read(
        self, scope: Scope, quantity: Quantity, index: int, numbers: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        sheet = self._sheets.sheet(scope, quantity)
        if not 0 <= index < sheet.count:
            raise ValueError(f"{scope} index {index} is not in 0..{sheet.count - 1}")
        wanted = np.asarray(numbers, dtype=np.int64)
        stop = self._published
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < stop):
            raise ValueError(
                f"checkpoints {wanted.min()}..{wanted.max()} are not all published; there are {stop}"
            )
        return gather(wanted, lambda strip: self._read_strip(sheet, index, strip, stop))

    def read_strip(self, scope_kind: Scope, index: int, strip: int) -> NDArray[np.float64]:
        """The exact Gram's rows of one strip, as far as they are published, [rows, columns]; NaN where missing."""
        return self._read_strip(self._sheets.sheet(scope_kind, "gram"), index, strip, self._published)

    def _read_strip(self, sheet: Sheet, index: int, strip: int, stop: int) -> NDArray[np.float64]:
        def read() -> NDArray[np.float64]:
            return sheet.files.read_strip(index, strip, stop, self._sheets.rows[sheet.quantity])

        try:
            return read()
        except DamagedChunk:
            with self._lock:  # now nobody else seals or repairs
                values = self._mending(sheet, read)
                if (strip + 1) * STRIP_ROWS <= self._published:
                    self._mending(sheet, partial(self._seal_sheet, sheet, strip))
                return values

    # Sealing

    def _seal(self, strip: int) -> None:
        for sheet in self._sheets.shown():
            self._mending(sheet, partial(self._seal_sheet, sheet, strip))
            sheet.files.trim(strip, self._keep_tail_seconds)

    def _seal_sheet(self, sheet: Sheet, strip: int) -> None:
        sheet.files.seal(strip, self._sheets.rows[sheet.quantity], self._prefix)

    # Opening

    def _open(self) -> None:
        try:
            stored = read_stored(self.path, self._run)
        except UnusableStore as reason:
            kept = set_aside(self.path, self._damaged_folder, "store")
            self._note(
                "damaged_store", f"{self.path.name} cannot be continued: {reason}; it was set aside as {kept}"
            )
            stored = None
        if stored is None:
            self._create()
            return
        length = self._published = stored.length
        self._sheets.with_estimates = stored.with_estimates
        self._mending_vectors(self._check_vectors)
        for strip in range(length // STRIP_ROWS):
            if not self._sheets.is_sealed(strip):
                self._seal(strip)
        for sheet in self._sheets.shown():
            for number in range(length - length % STRIP_ROWS, length):
                self._mending(sheet, partial(self._verify_row, sheet, number))

    def _verify_row(self, sheet: Sheet, number: int) -> None:
        if number in self._sheets.rows[sheet.quantity]:
            sheet.files.verify_row(number)

    def _create(self) -> None:
        for name in shown_plans(self._run, with_estimates=False):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        names = {"layer": self._run.layer_names, "group": tuple(name for name, _ in self._run.groups)}
        for name, values in names.items():
            replace_file(self._temp, self.path / name / "c.0", encode_strings(values), prefix=self._prefix)
        self._write_metadata(0)

    def _check_vectors(self) -> None:
        length, with_estimates = self._published, self._sheets.with_estimates
        estimated = np.full(length, NO_ESTIMATES, dtype=np.int32)
        if with_estimates:
            estimated = self._vectors.read("estimated", length)
        self._sheets.load(self._vectors.read("attempt", length), estimated)
        if length:
            for name, plan in shown_plans(self._run, with_estimates=with_estimates).items():
                if plan.inner is None and plan.dtype != "string":
                    self._vectors.verify(name, plan.shape(self._run, 0)[0], length)

    # Repair

    def rebuild(self, source: RowSource | None = None, stop: int | None = None) -> None:
        """Make the whole store again from rows 0 to `stop`, exclusive, by default as many as are published.

        Readers see the old store until the new one takes its place in one step.
        """
        rows = source or self._source
        if rows is None:
            raise MapDamagedError(f"{self.path} cannot be made again: there is no journal to make it from")
        with self._lock:
            end = self._published if stop is None else stop
            scratch_root = self._root / ".rebuild"
            shutil.rmtree(scratch_root / self.path.name, ignore_errors=True)
            scratch = MapStore(scratch_root, self._run, rows, keep_tail_seconds=0.0)
            if self._sheets.with_estimates:
                scratch._begin_estimates()
            sketched = self._sheets.rows["sketch_gram"]
            scratch._publish(self._supply(rows).rows(end, sketched.__contains__), end)
            scratch._sheets.adopt(self._sheets, end)
            self._swaps += 1
            exchange(scratch.path, self.path)
            self._published, self._sheets.rows = scratch._published, scratch._sheets.rows
            self._sheets.with_estimates = scratch._sheets.with_estimates
            self._swaps += 1
            shutil.rmtree(scratch.path)
            self.findings += scratch.findings

    def _supply(self, source: RowSource) -> Supply:
        return Supply(source, self._run.run_id, self._note)

    def _mending_vectors(self, action: Callable[[], None]) -> None:
        try:
            action()
        except MapDamagedError as error:
            self._note("damaged_chunk", f"{error}; the store is made again from the journal")
            self.rebuild()
            action()

    def _mending(self, sheet: Sheet, action: Callable[[], T]) -> T:
        for _ in range(_MAX_REPAIRS):
            try:
                return action()
            except DamagedChunk as damage:
                self._mend(sheet, damage)
        return action()

    def _mend(self, sheet: Sheet, damage: DamagedChunk) -> None:
        if self._source is None:
            raise damage
        kept = "nothing"
        if damage.path.exists():
            kept = str(
                set_aside(damage.path, self._damaged_folder, f"{damage.path.parent.name}.{damage.path.name}")
            )
        self._note(
            "damaged_chunk", f"{damage.path}: {damage.reason}; kept: {kept}; made again from the journal"
        )
        start = damage.strip * STRIP_ROWS
        whole = range(start, min(start + STRIP_ROWS, self._published))
        for number in whole if damage.checkpoint is None else (damage.checkpoint,):
            if number in self._sheets.rows[sheet.quantity]:
                self._restore(sheet, self._supply(self._source), number)
        if damage.checkpoint is None:
            self._seal_sheet(sheet, damage.strip)

    def _restore(self, sheet: Sheet, supply: Supply, number: int) -> None:
        if sheet.quantity != "gram":
            estimates = supply.estimates(number, expected=True)
            values = {} if estimates is None else estimates.rows(self._run)
            if (sheet.scope, sheet.quantity) in values:
                self._sheets.write_sheet(sheet, number, values[sheet.scope, sheet.quantity])
            else:
                # All that is said of the row comes from the same sketches.
                self.rebuild()
            return
        row = supply.row(number)
        if row is None:
            self._sheets.rows["gram"].discard(number)
            lost = np.array([LOST_ATTEMPT])
            self._mending_vectors(lambda: self._vectors.write("attempt", number, lost, self._published))
            return
        gram = row.gram if sheet.scope == "layer" else group_sum(row.gram, self._run)
        self._sheets.write_sheet(sheet, number, gram)

    @property
    def _damaged_folder(self) -> Path:
        return self._root / f"{self._run.run_id}.damaged"

    def _note(self, kind: FindingKind, text: str) -> None:
        self.findings.append(MapFinding(kind, text))
