"""The seams of the store: the journal, and where maps take rows from when they are made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_protos.sketch_record import SketchRow
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.estimates import RowEstimates

__all__ = [
    "AppendOutcome",
    "Damage",
    "EstimateSource",
    "Journal",
    "RecordKind",
    "RowEstimates",
    "RowKey",
    "RowSource",
]

AppendOutcome = Literal["stored", "duplicate"]

RecordKind = Literal["row", "sketch"]
"""Rows and sketches are kept side by side, under the same keys."""


@dataclass(frozen=True, slots=True, order=True)
class RowKey:
    """One stored record."""

    checkpoint: int
    part: int
    """0: the row as a whole, as it came or as the sum of its parts; p + 1: part p of it, as it came."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A record that failed its checksum. It is kept, out of the way."""

    run_id: str
    checkpoint: int
    part: int
    kept_as: str
    """Where it lies now."""
    reason: str
    """What is wrong with it."""
    kind: RecordKind = "row"


class RowSource(Protocol):
    """Where maps take rows from when a chunk has to be made again. A journal is one."""

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """The row, verified. RowMissingError or RowDamagedError if it has been lost."""
        ...


@runtime_checkable
class EstimateSource(Protocol):
    """What a :class:`RowSource` is besides, if it makes estimates."""

    def read_estimates(self, run_id: str, checkpoint: int) -> RowEstimates | None:
        """What sketches say of the row; None if nothing. RowMissingError or RowDamagedError if one is lost."""
        ...


class Journal(Protocol):
    """The truth: every record that was accepted, byte for byte, for ever.

    Where a method has no `kind`, or none is given, it is about rows.
    Methods block and may be called from several threads at once. Buffers passed in are not kept.
    All raise :class:`~trajmon_server.store.errors.JournalError`, and ValueError for a key out of range.
    """

    @property
    def broken(self) -> bool:
        """True once nothing will be appended any more until a restart."""
        ...

    def append(
        self, run_id: str, checkpoint: int, part: int, record: bytes, kind: RecordKind = "row"
    ) -> AppendOutcome:
        """Store a record; returns only when it is durable. The record is not parsed.

        The same bytes again are a ``duplicate``. ConflictError if another intact record has the key; a damaged one
        is set aside and replaced. JournalFullError, JournalReadOnlyError, JournalUnavailableError: nothing stored.
        """
        ...

    def read(self, run_id: str, checkpoint: int, part: int = 0, kind: RecordKind = "row") -> bytes:
        """The bytes of a record, unverified. RowMissingError if there is none."""
        ...

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """A row record, verified. RowDamagedError, after setting it aside, if it fails its checksum."""
        ...

    def read_sketch(self, run_id: str, checkpoint: int, part: int = 0) -> SketchRow:
        """A sketch record, verified. RowMissingError, or RowDamagedError after setting it aside."""
        ...

    def read_sketch_gram(
        self, run_id: str, layer_index: int | None, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """Sketch Gram rows of one layer, [checkpoint + 1] each, or of all, [L, checkpoint + 1].

        Reads those bytes only: checked for size, not for content. Errors as in :meth:`read_sketch`.
        """
        ...

    def read_rows(self, run_id: str, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Part 0 of all rows from `start` up to `stop`, exclusive, verified, in order.

        Damaged ones are set aside, appear in :meth:`damages`, and are left out here, as are missing ones.
        """
        ...

    def read_layer_rows(
        self, run_id: str, layer_index: int, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """One layer's Gram rows, [checkpoint + 1] each. Reads those bytes only: checked for size, not for content."""
        ...

    def read_products(self, run_id: str, checkpoint: int) -> NDArray[np.float64]:
        """The update products of a row, [L, 4]. Reads those bytes only: checked for size, not for content."""
        ...

    def headers(self, run_id: str) -> Iterator[tuple[int, types_pb2.RowHeader, int]]:
        """Checkpoint, header and record size in bytes of part 0 of all rows, in order.

        Reads the headers only: checked for size, not for content. Rows that fail that check are set aside.
        """
        ...

    def header(self, run_id: str, checkpoint: int, part: int) -> types_pb2.RowHeader:
        """The header of one record: checked for size, not for content. RowMissingError or RowDamagedError."""
        ...

    def parts(self, run_id: str, checkpoint: int, kind: RecordKind = "row") -> list[int]:
        """Part numbers of the checkpoint's stored records, ascending."""
        ...

    def count(self, run_id: str) -> int:
        """How many rows there are from 0 without a gap."""
        ...

    def list_rows(self, run_id: str, kind: RecordKind = "row", after: int = -1) -> list[RowKey]:
        """Stored records of the kind, of checkpoints `after` (inclusive) and later, by checkpoint and part."""
        ...

    def list_runs(self) -> list[str]:
        """Ids of all runs that have a run file or a record, sorted."""
        ...

    def put_run_file(self, run_id: str, name: str, data: Mapping[str, Any]) -> None:
        """Replace a small JSON file of the run, atomically and durably.

        FencedError where several servers share the journal, if another has changed the file since this one last
        read or replaced it.
        """
        ...

    def get_run_file(self, run_id: str, name: str) -> dict[str, Any] | None:
        """A JSON file of the run, None if there is none. JournalError if it is not a JSON object."""
        ...

    def peek_run_file(self, run_id: str, name: str) -> dict[str, Any] | None:
        """The same for who will not replace it: where another server has changed it, a put is still fenced off."""
        ...

    def set_aside(
        self, run_id: str, checkpoint: int, reason: str, part: int = 0, kind: RecordKind = "row"
    ) -> Damage:
        """Move a record out of the way, keeping it. RowMissingError if there is none."""
        ...

    def verify(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """Check every record of the kind, set the damaged ones aside, and report all that lie aside."""
        ...

    def damages(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """All records of the kind that lie aside, without checking the others."""
        ...
