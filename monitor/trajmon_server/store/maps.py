"""The Zarr maps of a run: made from rows, readable by anybody at any moment, and made again where damaged.

layout.py says what the store looks like and in which order it is published.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_server.store import layout
from trajmon_server.store.base import RowSource
from trajmon_server.store.chunks import encode_strings
from trajmon_server.store.entries import (
    LOST_ATTEMPT,
    Entry,
    PublishRow,
    columns,
    entry_of,
    group_sum,
    lost_entry,
    superseded_by,
)
from trajmon_server.store.errors import MapDamagedError, RowDamagedError, RowMissingError
from trajmon_server.store.files import TempFolder, exchange, replace_file, set_aside
from trajmon_server.store.layout import STRIP_ROWS, RunShape
from trajmon_server.store.strips import DamagedChunk, GramFiles
from trajmon_server.store.vectors import VectorFiles

__all__ = ["MapFinding", "MapStore", "PublishRow", "RunShape"]

T = TypeVar("T")

_MAX_REPAIRS = 4 * STRIP_ROWS
"""In one action: more than the rows of the strips it can touch, so that a repair that does not help comes to an end."""


@dataclass(frozen=True, slots=True)
class MapFinding:
    """Something that was wrong with the maps, and what was done about it."""

    kind: Literal["damaged_chunk", "damaged_store", "lost_row"]
    text: str


class MapStore:
    """The maps of one run, at ROOT/<run_id>.zarr. Thread safe; one such object per run at a time.

    What is damaged is moved to ROOT/<run_id>.damaged, reported in `findings`, and made again from `source`;
    MapDamagedError without a source. OSError passes: whatever was published before stays published, and the
    rows from `published()` on may be published again.
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
        self._plans = layout.arrays(run)
        self._vectors = VectorFiles(self.path, self._temp, self._plans, self._prefix)
        self._layers = self._gram_files("", len(run.layer_names))
        self._groups = self._gram_files("group_", len(run.groups))
        self._published = 0
        self._lost: set[int] = set()
        self._temp.clean(self._prefix)
        self._open()

    def _gram_files(self, prefix: str, count: int) -> GramFiles:
        sealed, tail = self._plans[f"{prefix}gram"], self._plans[f"{prefix}gram_tail"]
        return GramFiles(self.path, self._temp, sealed, tail, count)

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
            self._layers.write_row(number, item.row.gram, self._prefix)
            self._groups.write_row(number, group_sum(item.row.gram, self._run), self._prefix)
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

    def _add_lost(self, pending: list[Entry], stop: int) -> None:
        while self._published + len(pending) < stop:
            self._add(pending, lost_entry(self._run))

    def _add(self, pending: list[Entry], entry: Entry) -> None:
        pending.append(entry)
        if (self._published + len(pending)) % STRIP_ROWS == 0:
            self._commit(pending)

    def _commit(self, pending: list[Entry]) -> None:
        """The Gram's chunks are written: write the others, then the metadata; then seal what became complete."""
        if not pending:
            return
        start, stop = self._published, self._published + len(pending)
        self._mending_vectors(lambda: self._write_vectors(start, stop, pending))
        self._write_metadata(stop)
        self._lost.update(start + i for i, entry in enumerate(pending) if entry.attempt == LOST_ATTEMPT)
        self._published = stop
        pending.clear()
        if stop % STRIP_ROWS == 0:
            self._seal(stop // STRIP_ROWS - 1)

    def _write_vectors(self, start: int, stop: int, entries: Sequence[Entry]) -> None:
        for name, values in columns(entries).items():
            self._vectors.write(name, start, values, start)
        for name in ("checkpoint", "checkpoint_j"):
            self._vectors.fill_up(name, stop)
        self._vectors.put("superseded", (), True, start, stop)

    def _write_metadata(self, length: int) -> None:
        own, root = layout.documents(self._run, self._plans, length)
        for name, document in own.items():
            replace_file(self._temp, self.path / name / "zarr.json", document, prefix=self._prefix)
        replace_file(self._temp, self.path / "zarr.json", root, prefix=self._prefix)

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

    def read_map(
        self, scope_kind: Literal["layer", "group"], index: int, numbers: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """The Gram of one layer or group over the checkpoints `numbers`, [n, n], symmetric; NaN where missing.

        Memory beyond the result: one strip. ValueError for an index or a number that does not exist.
        """
        files, count = self._scope(scope_kind)
        if not 0 <= index < count:
            raise ValueError(f"{scope_kind} index {index} is not in 0..{count - 1}")
        wanted = np.asarray(numbers, dtype=np.int64)
        stop = self._published
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < stop):
            raise ValueError(
                f"checkpoints {wanted.min()}..{wanted.max()} are not all published; there are {stop}"
            )
        order = np.argsort(wanted, kind="stable")
        if np.any(order[1:] < order[:-1]):
            back = np.argsort(order, kind="stable")
            return self.read_map(scope_kind, index, wanted[order])[np.ix_(back, back)]
        gram = np.full((wanted.size, wanted.size), np.nan)
        for strip in np.unique(wanted // STRIP_ROWS):
            first, last = np.searchsorted(wanted, (strip * STRIP_ROWS, (strip + 1) * STRIP_ROWS))
            values = self._read_strip(files, index, int(strip), stop)
            rows = values[np.ix_(wanted[first:last] - strip * STRIP_ROWS, wanted[:last])]
            # In a strip, the part beside the diagonal is whole; on it, only the lower half is.
            corner = rows[:, first:]
            upper = np.arange(last - first)[:, None] < np.arange(last - first)
            rows[:, first:] = np.where(
                upper & (wanted[first:last, None] != wanted[first:last]), corner.T, corner
            )
            gram[first:last, :last] = rows
            gram[:first, first:last] = rows[:, :first].T
        return gram

    def _read_strip(self, files: GramFiles, index: int, strip: int, stop: int) -> NDArray[np.float64]:
        try:
            return files.read_strip(index, strip, stop, self._lost)
        except DamagedChunk:
            with self._lock:  # now nobody else seals or repairs
                values = self._mending(files, lambda: files.read_strip(index, strip, stop, self._lost))
                if (strip + 1) * STRIP_ROWS <= self._published:
                    self._mending(files, partial(files.seal, strip, self._lost, self._prefix))
                return values

    def _scope(self, kind: str) -> tuple[GramFiles, int]:
        if kind == "layer":
            return self._layers, len(self._run.layer_names)
        if kind == "group":
            return self._groups, len(self._run.groups)
        raise ValueError(f"scope kind {kind!r} is neither layer nor group")

    # Sealing

    def _seal(self, strip: int) -> None:
        for files in (self._layers, self._groups):
            self._mending(files, partial(files.seal, strip, self._lost, self._prefix))
            files.trim(strip, self._keep_tail_seconds)

    # Opening

    def _open(self) -> None:
        length = self._length()
        if length is None:
            self._create()
            return
        self._published = length
        self._mending_vectors(self._check_vectors)
        for strip in range(length // STRIP_ROWS):
            if not (self._layers.is_sealed(strip) and self._groups.is_sealed(strip)):
                self._seal(strip)
        for files in (self._layers, self._groups):
            for number in range(length - length % STRIP_ROWS, length):
                self._mending(files, partial(self._verify_row, files, number))

    def _verify_row(self, files: GramFiles, number: int) -> None:
        if number not in self._lost:
            files.verify_row(number)

    def _length(self) -> int | None:
        """Checkpoints in the store; None if there is no store that can be continued."""
        try:
            document = json.loads((self.path / "zarr.json").read_bytes())
            length = int(document["consolidated_metadata"]["metadata"]["step"]["shape"][0])
            expected = json.loads(layout.documents(self._run, self._plans, length)[1])
            reason = "" if document == expected else "it is of another format, or of another run"
        except FileNotFoundError:
            if not any(self.path.glob("gram_tail/c.*")):
                return None  # nothing was ever published
            reason = "its zarr.json is missing"
        except (ValueError, KeyError, IndexError, TypeError) as error:
            reason = f"its zarr.json cannot be read ({error})"
        if not reason:
            return length
        kept = set_aside(self.path, self._damaged_folder, "store")
        self._note(
            "damaged_store", f"{self.path.name} cannot be continued: {reason}; it was set aside as {kept}"
        )
        return None

    def _create(self) -> None:
        for name in self._plans:
            (self.path / name).mkdir(parents=True, exist_ok=True)
        names = {"layer": self._run.layer_names, "group": tuple(name for name, _ in self._run.groups)}
        for name, values in names.items():
            replace_file(self._temp, self.path / name / "c.0", encode_strings(values), prefix=self._prefix)
        self._write_metadata(0)
        self._published, self._lost = 0, set()

    def _check_vectors(self) -> None:
        self._lost = set(
            np.flatnonzero(self._vectors.read("attempt", self._published) == LOST_ATTEMPT).tolist()
        )
        if self._published:
            for name, plan in self._plans.items():
                if plan.inner is None and plan.dtype != "string":
                    self._vectors.verify(name, plan.shape(self._run, 0)[0], self._published)

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
            scratch._publish(self._rows_of(rows, end), end)
            for mine, new in ((self._layers, scratch._layers), (self._groups, scratch._groups)):
                new.adopt(mine, end)
            exchange(scratch.path, self.path)
            shutil.rmtree(scratch.path)
            self._published, self._lost = scratch._published, scratch._lost
            self.findings += scratch.findings

    def _rows_of(self, source: RowSource, stop: int) -> Iterator[PublishRow]:
        for number in range(stop):
            row = self._fetch(source, number)
            if row is not None:
                yield PublishRow(row, row.header.attempt)

    def _fetch(self, source: RowSource, number: int) -> Row | None:
        try:
            return source.read_row(self._run.run_id, number)
        except (RowMissingError, RowDamagedError) as error:
            self._note("lost_row", f"checkpoint {number} is shown as missing: {error}")
            return None

    def _mending_vectors(self, action: Callable[[], None]) -> None:
        try:
            action()
        except MapDamagedError as error:
            self._note("damaged_chunk", f"{error}; the store is made again from the journal")
            self.rebuild()
            action()

    def _mending(self, files: GramFiles, action: Callable[[], T]) -> T:
        for _ in range(_MAX_REPAIRS):
            try:
                return action()
            except DamagedChunk as damage:
                self._mend(files, damage)
        return action()

    def _mend(self, files: GramFiles, damage: DamagedChunk) -> None:
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
            if number not in self._lost:
                self._restore(files, number)
        if damage.checkpoint is None:
            files.seal(damage.strip, self._lost, self._prefix)

    def _restore(self, files: GramFiles, number: int) -> None:
        assert self._source is not None
        row = self._fetch(self._source, number)
        if row is None:
            self._lost.add(number)
            lost = np.array([LOST_ATTEMPT])
            self._mending_vectors(lambda: self._vectors.write("attempt", number, lost, self._published))
            return
        files.write_row(
            number, row.gram if files is self._layers else group_sum(row.gram, self._run), self._prefix
        )

    @property
    def _damaged_folder(self) -> Path:
        return self._root / f"{self._run.run_id}.damaged"

    def _note(self, kind: Literal["damaged_chunk", "damaged_store", "lost_row"], text: str) -> None:
        self.findings.append(MapFinding(kind, text))
