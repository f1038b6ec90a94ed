"""What every journal does with its records, whatever they lie on.

A journal that derives from :class:`RecordJournal` says how bytes are stored, found and moved out of the way; checking
them, reading pieces of them, and what is said when they are missing or damaged are the same for all.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.record import PRODUCTS, Row
from trajmon_protos.sketch_record import SketchRow
from trajmon_protos.v1 import types_pb2
from trajmon_server.store import errors
from trajmon_server.store.base import AppendOutcome, Damage, RecordKind, RowKey
from trajmon_server.store.records import (
    FORMATS,
    ROWS,
    SKETCHES,
    OpenRecord,
    Piece,
    Place,
    check_run_id,
    open_piece,
    row_layers,
    sketch_gram_start,
)

__all__ = ["DAMAGED", "Aside", "RecordJournal", "missing", "parse_header"]

A = TypeVar("A")
T = TypeVar("T")

DAMAGED = "damaged"
"""The folder of a run in which records lie that were set aside, as ``<name>.<serial>``."""

_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}(\.json)?", re.ASCII)


class Aside(NamedTuple):
    """A record that was set aside."""

    name: str
    """With its serial number."""
    kept_as: str
    """Where it lies now, in full."""
    read: Callable[[], bytes]


class RecordJournal(ABC):
    """A :class:`~trajmon_server.store.base.Journal`, less what depends on where the bytes lie. Thread safe."""

    # What a journal has to say

    @property
    @abstractmethod
    def broken(self) -> bool:
        """See :attr:`Journal.broken`."""

    @abstractmethod
    def append(
        self, run_id: str, checkpoint: int, part: int, record: bytes, kind: RecordKind = "row"
    ) -> AppendOutcome:
        """See :meth:`Journal.append`."""

    @abstractmethod
    def list_rows(self, run_id: str, kind: RecordKind = "row", after: int = -1) -> list[RowKey]:
        """See :meth:`Journal.list_rows`."""

    @abstractmethod
    def list_runs(self) -> list[str]:
        """See :meth:`Journal.list_runs`."""

    @abstractmethod
    def _read(self, place: Place[Any]) -> bytes:
        """A whole record. RowMissingError if there is none."""

    @abstractmethod
    def _look(self, place: Place[Any], use: Callable[[OpenRecord], T]) -> T:
        """What `use` makes of the open record. RowMissingError if there is none. `use` may be called again."""

    @abstractmethod
    def _move_aside(self, place: Place[Any], stored: bytes | None = None) -> str | None:
        """Move a record out of the way; where it lies now, or None if there is none, or none but `stored`."""

    @abstractmethod
    def _list_aside(self, run_id: str) -> Iterable[Aside]:
        """All that was set aside in a run, sorted by name."""

    @abstractmethod
    def _read_file(self, path: str) -> bytes | None:
        """A small file of a run, None if there is none."""

    def _peek_file(self, path: str) -> bytes | None:
        """The same, where that does not make the next replacement one of what was read."""
        return self._read_file(path)

    @abstractmethod
    def _replace_file(self, path: str, content: bytes) -> None:
        """See :meth:`Journal.put_run_file`."""

    @abstractmethod
    def _in_full(self, path: str) -> str:
        """What an error text calls what is stored at `path`."""

    def _each(
        self, use: Callable[[A], T], items: Iterable[A], size_bytes: Callable[[A], int] = lambda _: 0
    ) -> Iterator[T]:
        """`use` of each item, in order, several at once where that is faster.

        Results that wait for their turn are of items of a bounded size together.
        """
        return map(use, items)

    # Records

    def read(self, run_id: str, checkpoint: int, part: int = 0, kind: RecordKind = "row") -> bytes:
        """See :meth:`Journal.read`."""
        return self._read(FORMATS[kind].place(run_id, checkpoint, part))

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """See :meth:`Journal.read_row`."""
        return self._verified(ROWS.place(run_id, checkpoint, part))

    def read_sketch(self, run_id: str, checkpoint: int, part: int = 0) -> SketchRow:
        """See :meth:`Journal.read_sketch`."""
        return self._verified(SKETCHES.place(run_id, checkpoint, part))

    def _verified(self, place: Place[T]) -> T:
        while True:
            stored = self._read(place)
            try:
                return place.form.decode(stored)
            except RecordError as error:
                kept = self._move_aside(place, stored)
                if kept is None:
                    continue  # another thread or server has just set it aside, or replaced it
                raise errors.RowDamagedError(
                    f"{place.words} is damaged ({error}); it was set aside as {kept}: the agent that recorded it can "
                    "send it again"
                ) from error

    def read_rows(self, run_id: str, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """See :meth:`Journal.read_rows`."""
        keys = [
            key
            for key in self.list_rows(run_id, after=start)
            if not key.part and (stop is None or key.checkpoint < stop)
        ]
        # What is damaged lies in `damaged` and is reported from there.
        rows = self._each(
            lambda key: _unless_lost(lambda: self.read_row(run_id, key.checkpoint)),
            keys,
            lambda key: key.size_bytes,
        )
        return (row for row in rows if row is not None)

    # Pieces of records

    def read_layer_rows(
        self, run_id: str, layer_index: int, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """See :meth:`Journal.read_layer_rows`."""

        def read(checkpoint: int) -> NDArray[np.float64]:
            def layer_row(piece: Piece, num_layers: int) -> NDArray[np.float64]:
                _check_layer(layer_index, num_layers)
                return piece.read(8 * (checkpoint + 1) * layer_index, checkpoint + 1)

            return self._piece_of_row(ROWS.place(run_id, checkpoint, 0), layer_row)

        return list(self._each(read, map(int, checkpoints)))

    def read_products(self, run_id: str, checkpoint: int) -> NDArray[np.float64]:
        """See :meth:`Journal.read_products`."""

        def products(piece: Piece, num_layers: int) -> NDArray[np.float64]:
            values = piece.read(8 * num_layers * (checkpoint + 1), num_layers * len(PRODUCTS))
            return values.reshape(num_layers, len(PRODUCTS))

        return self._piece_of_row(ROWS.place(run_id, checkpoint, 0), products)

    def read_sketch_gram(
        self, run_id: str, layer_index: int | None, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """See :meth:`Journal.read_sketch_gram`."""

        def read(checkpoint: int) -> NDArray[np.float64]:
            count = checkpoint + 1

            def gram(piece: Piece) -> NDArray[np.float64] | None:
                place = sketch_gram_start(piece, checkpoint)
                if place is None:
                    return None
                num_layers, start = place
                if layer_index is None:
                    return piece.read(start, num_layers * count).reshape(num_layers, count)
                _check_layer(layer_index, num_layers)
                return piece.read(start + 8 * count * layer_index, count)

            return self._piece(SKETCHES.place(run_id, checkpoint, 0), gram)

        return list(self._each(read, map(int, checkpoints)))

    def headers(self, run_id: str) -> Iterator[tuple[int, types_pb2.RowHeader, int]]:
        """See :meth:`Journal.headers`."""
        keys = [key for key in self.list_rows(run_id) if not key.part]
        found = self._each(lambda key: _unless_lost(lambda: self.header(run_id, key.checkpoint, 0)), keys)
        for key, header in zip(keys, found, strict=True):
            if header is not None:
                yield key.checkpoint, header, key.size_bytes

    def header(self, run_id: str, checkpoint: int, part: int) -> types_pb2.RowHeader:
        """See :meth:`Journal.header`."""
        return self._header(ROWS.place(run_id, checkpoint, part))[0]

    def _header(self, place: Place[Row]) -> tuple[types_pb2.RowHeader, Piece]:
        """Of a row, and the row that it was read of, closed again."""
        piece = self._piece_of_row(place, lambda piece, _: piece)
        header = parse_header(piece.header)
        # If it is no header, reading the whole record sets it aside and raises.
        return self._verified(place).header if header is None else header, piece

    def _piece_of_row(self, place: Place[Row], use: Callable[[Piece, int], T]) -> T:
        """What `use` makes of an open row and its number of layers; sizes are checked."""

        def checked(piece: Piece) -> T | None:
            num_layers = row_layers(piece, place.checkpoint)
            return None if num_layers is None else use(piece, num_layers)

        return self._piece(place, checked)

    def _piece(self, place: Place[Any], use: Callable[[Piece], T | None]) -> T:
        """What `use` makes of an open record. None says that it is of no right size; so does what it says of itself.

        Raises RowDamagedError then; if the record is damaged, it is set aside.
        """

        def checked(stored: OpenRecord) -> T | None:
            piece = open_piece(stored, place.form.magic)
            return None if piece is None else use(piece)

        found = self._look(place, checked)
        if found is None:
            self._verified(place)
            raise errors.RowDamagedError(f"{place.words} is of another checkpoint")
        return found

    # Listing

    def count(self, run_id: str) -> int:
        """See :meth:`Journal.count`."""
        numbers = [key.checkpoint for key in self.list_rows(run_id) if key.part == 0]
        return next((i for i, number in enumerate(numbers) if i != number), len(numbers))

    def parts(self, run_id: str, checkpoint: int, kind: RecordKind = "row") -> list[int]:
        """See :meth:`Journal.parts`."""
        keys = self.list_rows(run_id, kind, after=checkpoint)
        return [key.part for key in keys if key.checkpoint == checkpoint]

    # Files of a run

    def put_run_file(self, run_id: str, name: str, data: Mapping[str, Any]) -> None:
        """See :meth:`Journal.put_run_file`."""
        path = _file_path(run_id, name)
        self._replace_file(path, json.dumps(data, indent=1, allow_nan=False).encode())

    def get_run_file(self, run_id: str, name: str) -> dict[str, Any] | None:
        """See :meth:`Journal.get_run_file`."""
        return self._parsed_file(_file_path(run_id, name), self._read_file)

    def peek_run_file(self, run_id: str, name: str) -> dict[str, Any] | None:
        """See :meth:`Journal.peek_run_file`."""
        return self._parsed_file(_file_path(run_id, name), self._peek_file)

    def _parsed_file(self, path: str, read: Callable[[str], bytes | None]) -> dict[str, Any] | None:
        content = read(path)
        if content is None:
            return None
        try:
            data = json.loads(content)
        except ValueError as error:
            raise errors.JournalError(
                f"{self._in_full(path)} is not JSON ({error}); restore it from a copy"
            ) from error
        if not isinstance(data, dict):
            raise errors.JournalError(f"{self._in_full(path)} is not a JSON object; restore it from a copy")
        return data

    # Damage

    def verify(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """See :meth:`Journal.verify`."""
        form = FORMATS[kind]

        def check(key: RowKey) -> None:
            _unless_lost(lambda: self._verified(form.place(run_id, key.checkpoint, key.part)))

        for _ in self._each(check, self.list_rows(run_id, kind), lambda key: key.size_bytes):
            pass
        return self.damages(run_id, kind)

    def damages(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """See :meth:`Journal.damages`."""
        check_run_id(run_id)
        form, found = FORMATS[kind], []
        for aside in self._list_aside(run_id):
            key = form.key(aside.name.rpartition(".")[0])  # behind the name stands a serial number
            if key:
                reason = form.problem(aside.read())
                found.append(Damage(run_id, key.checkpoint, key.part, aside.kept_as, reason, kind))
        return found

    def set_aside(
        self, run_id: str, checkpoint: int, reason: str, part: int = 0, kind: RecordKind = "row"
    ) -> Damage:
        """See :meth:`Journal.set_aside`."""
        place = FORMATS[kind].place(run_id, checkpoint, part)
        kept = self._move_aside(place)
        if kept is None:
            raise missing(place)
        return Damage(run_id, checkpoint, part, kept, reason, kind)


def missing(place: Place[Any]) -> errors.RowMissingError:
    """What to raise where there is no record."""
    return errors.RowMissingError(
        f"{place.words} is not in the journal; it was never accepted, or was damaged and set aside"
    )


def _unless_lost(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (errors.RowDamagedError, errors.RowMissingError):
        return None


def _file_path(run_id: str, name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"run file name {name[:64]!r} is not made of a-z 0-9 _ -, with or without .json")
    check_run_id(run_id)
    return f"{run_id}/{name.removesuffix('.json')}.json"


def _check_layer(index: int, num_layers: int) -> None:
    if not 0 <= index < num_layers:
        raise ValueError(f"layer index {index} is not in 0..{num_layers - 1}")


def parse_header(data: bytes) -> types_pb2.RowHeader | None:
    """The header of a row; None if it is none."""
    header = types_pb2.RowHeader()
    try:
        header.ParseFromString(data)
    except DecodeError:
        return None
    return header
