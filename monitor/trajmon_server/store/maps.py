"""The Zarr maps of a run: made from rows, readable by anybody at any moment, and made again where damaged.

layout.py says what the store looks like and in which order it is published.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmon_protos.record import PRODUCTS, Row
from trajmon_server.store import layout
from trajmon_server.store.base import RowSource
from trajmon_server.store.chunks import encode_strings
from trajmon_server.store.errors import MapDamagedError, RowDamagedError, RowMissingError
from trajmon_server.store.files import TempFolder, exchange, replace_file, set_aside
from trajmon_server.store.layout import STRIP_ROWS, RunShape
from trajmon_server.store.strips import DamagedChunk, GramFiles
from trajmon_server.store.vectors import VectorFiles

__all__ = ["MapFinding", "MapStore", "PublishRow", "RunShape"]

T = TypeVar("T")

_MAX_REPAIRS = 4 * STRIP_ROWS
"""Of one read or one seal: every row of a strip in both Grams, and then some."""


@dataclass(frozen=True, slots=True)
class PublishRow:
    """A row to be shown."""

    row: Row
    """Complete: the sum of its parts."""
    attempt: int
    """Attempt of the run that recorded it."""


@dataclass(frozen=True, slots=True)
class MapFinding:
    """Something that was wrong with the maps, and what was done about it."""

    kind: Literal["damaged_chunk", "damaged_store", "lost_row"]
    text: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a row brings besides its Gram."""

    step: int
    epoch: float
    learning_rate: float
    time: float
    attempt: int
    products: NDArray[np.float64]
    group_products: NDArray[np.float64]


class MapStore:
    """The maps of one run, at ROOT/<run_id>.zarr. Thread safe; one such object per run at a time.

    What is damaged is moved to ROOT/<run_id>.damaged, reported in `findings`, and made again from `source`.
    OSError passes; whatever was published before stays published, and the same rows may be published again.
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
        self._members = tuple(np.array(members, dtype=np.intp) for _, members in run.groups)
        self._published = 0
        self._lost: set[int] = set()
        with self._lock:
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
        ValueError for a row that is published already, is out of order or has other layers: nothing of it is shown.
        """
        with self._lock:
            pending: list[_Entry] = []
            for item in rows:
                number = item.row.header.checkpoint
                self._check(item, self._published + len(pending))
                while self._published + len(pending) < number:
                    self._add_lost(pending)
                self._layers.write_row(number, item.row.gram, self._prefix)
                self._groups.write_row(number, self._sum(item.row.gram), self._prefix)
                self._add(pending, self._entry(item))
                # After its entry: a new chunk must start with the fill value.
                self._supersede(item.row, self._published + len(pending))
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

    def _add_lost(self, pending: list[_Entry]) -> None:
        nothing = np.full((len(self._run.layer_names), len(PRODUCTS)), np.nan)
        self._lost.add(self._published + len(pending))
        self._add(pending, _Entry(-1, np.nan, np.nan, np.nan, -1, nothing, self._sum(nothing)))

    def _add(self, pending: list[_Entry], entry: _Entry) -> None:
        pending.append(entry)
        if (self._published + len(pending)) % STRIP_ROWS == 0:
            self._commit(pending)

    def _entry(self, item: PublishRow) -> _Entry:
        info = item.row.header.info
        return _Entry(
            step=info.step,
            epoch=info.epoch if info.HasField("epoch") else np.nan,
            learning_rate=info.learning_rate if info.HasField("learning_rate") else np.nan,
            time=info.time_unix_seconds,
            attempt=item.attempt,
            products=item.row.products,
            group_products=self._sum(item.row.products),
        )

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[layer, ...] to [group, ...]; NaN where any of a group's layers is NaN."""
        return np.stack([values[members].sum(axis=0) for members in self._members])

    def _supersede(self, row: Row, stop: int) -> None:
        """Mark what lies between a row and the one it follows on its path."""
        number = row.header.checkpoint
        start = row.header.previous + 1 if row.header.HasField("previous") else 0
        if start < number:
            self._vectors.put("superseded", range(start, number), True, self._published)

    def _commit(self, pending: list[_Entry]) -> None:
        """Chunks are written, except for what is pending; then metadata; then seal what became complete."""
        if not pending:
            return
        start, stop = self._published, self._published + len(pending)
        for name in ("step", "epoch", "learning_rate", "time", "attempt"):
            values = np.array([getattr(entry, name) for entry in pending], dtype=self._plans[name].dtype)
            self._vectors.write(name, start, values, start)
        for column, name in enumerate(PRODUCTS):
            layers = np.stack([entry.products[:, column] for entry in pending], axis=1)
            groups = np.stack([entry.group_products[:, column] for entry in pending], axis=1)
            self._vectors.write(name, start, layers, start)
            self._vectors.write(f"group_{name}", start, groups, start)
        self._vectors.write_once("checkpoint", stop)
        self._vectors.write_once("checkpoint_j", stop)
        self._write_metadata(stop)
        self._published = stop
        pending.clear()
        if stop % STRIP_ROWS == 0:
            self._seal(stop // STRIP_ROWS - 1)
