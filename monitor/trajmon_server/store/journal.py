"""The journal on a local disk.

    ROOT/tmp/                                       files being written; cleaned at start
    ROOT/<run_id>/run.json, control.json, ...       the run's own small files, opaque to the journal
    ROOT/<run_id>/rows/, sketches/                  records, see :mod:`trajmon_server.store.records`
    ROOT/<run_id>/damaged/<name>.<serial>           records that failed their checksum

A record is written under a temporary name, synced, linked to its final name (which fails if the name is taken, so
that of two writers one wins), and its folder is synced. Only then does `append` return. A record that is visible
is therefore complete, and one that was acknowledged is durable.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.names import RUN_ID
from trajmon_protos.record import PRODUCTS, Row, read_digest
from trajmon_protos.sketch_record import SketchRow
from trajmon_protos.v1 import types_pb2
from trajmon_server.store import errors
from trajmon_server.store.base import AppendOutcome, Damage, RecordKind, RowKey
from trajmon_server.store.disk import Disk
from trajmon_server.store.files import TempFolder, set_aside, write_all
from trajmon_server.store.records import (
    FORMATS,
    ROWS,
    SKETCHES,
    Piece,
    RecordFormat,
    open_piece,
    row_layers,
    sketch_gram_start,
)

__all__ = ["LocalJournal"]

T = TypeVar("T")

_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}(\.json)?", re.ASCII)


class LocalJournal:
    """A :class:`~trajmon_server.store.base.Journal` in a directory. Thread safe."""

    def __init__(self, root: Path) -> None:
        """Open the journal, creating its directory; removes what dead writers left in `tmp`."""
        self._root = root
        self._temp = TempFolder(root / "tmp")
        self._disk = Disk(root)
        self._lock = threading.Lock()
        self._ready: set[tuple[str, RecordKind]] = set()
        with self._disk.translated("open the journal", "start again"):
            self._temp.folder.mkdir(parents=True, exist_ok=True)
            self._temp.clean()

    # Writing

    def append(
        self, run_id: str, checkpoint: int, part: int, record: bytes, kind: RecordKind = "row"
    ) -> AppendOutcome:
        """See :meth:`Journal.append`."""
        self._disk.refuse_if_broken()
        form = FORMATS[kind]
        path, name = self._path(form, run_id, checkpoint, part), form.in_words(run_id, checkpoint, part)
        with self._disk.translated(f"store {name}"):
            self._prepare(run_id, kind)
            with self._temp.file() as (fd, temporary):
                write_all(fd, record)
                self._disk.sync_data(fd)
                outcome = self._link(temporary, path, record, form, name)
                temporary.unlink()
            # Also for a duplicate: whoever linked it may have died before this.
            self._disk.sync_folder(path.parent)
        return outcome

    def _link(
        self, temporary: Path, path: Path, record: bytes, form: RecordFormat[Any], name: str
    ) -> AppendOutcome:
        while True:
            try:
                os.link(temporary, path)
            except FileExistsError:
                try:
                    stored = path.read_bytes()
                except FileNotFoundError:
                    continue  # another thread has just set it aside
            else:
                return "stored"
            if stored == record:
                return "duplicate"
            try:
                form.decode(stored)
            except RecordError:
                self._set_aside(path)
                continue
            raise errors.ConflictError(name, read_digest(stored), read_digest(record))

    def put_run_file(self, run_id: str, name: str, data: Mapping[str, Any]) -> None:
        """See :meth:`Journal.put_run_file`."""
        self._disk.refuse_if_broken()
        path = self._file_path(run_id, name)
        content = json.dumps(data, indent=1, allow_nan=False).encode()
        with self._disk.translated(f"store {path.name} of run {run_id}"):
            self._prepare(run_id)
            with self._temp.file() as (fd, temporary):
                write_all(fd, content)
                self._disk.sync_data(fd)
                temporary.replace(path)
            self._disk.sync_folder(path.parent)

    def _prepare(self, run_id: str, kind: RecordKind = "row") -> None:
        """Create the run's folders and make their names durable, once in the life of this object."""
        if (run_id, kind) in self._ready:
            return
        folder = self._root / run_id
        (folder / FORMATS[kind].folder).mkdir(parents=True, exist_ok=True)
        for parent in (folder, self._root, self._root.parent):
            self._disk.sync_folder(parent)
        with self._lock:
            self._ready.add((run_id, kind))

    @property
    def broken(self) -> bool:
        """True once the device has refused a sync: nothing is appended any more."""
        return self._disk.broken

    # Reading

    def read(self, run_id: str, checkpoint: int, part: int = 0, kind: RecordKind = "row") -> bytes:
        """See :meth:`Journal.read`."""
        form = FORMATS[kind]
        path, name = self._path(form, run_id, checkpoint, part), form.in_words(run_id, checkpoint, part)
        with self._disk.translated(f"read {name}"):
            try:
                return path.read_bytes()
            except FileNotFoundError as error:
                raise _missing(name) from error

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """See :meth:`Journal.read_row`."""
        return self._verified(ROWS, run_id, checkpoint, part)

    def read_sketch(self, run_id: str, checkpoint: int, part: int = 0) -> SketchRow:
        """See :meth:`Journal.read_sketch`."""
        return self._verified(SKETCHES, run_id, checkpoint, part)

    def _verified(self, form: RecordFormat[T], run_id: str, checkpoint: int, part: int) -> T:
        record = self.read(run_id, checkpoint, part, form.kind)
        try:
            return form.decode(record)
        except RecordError as error:
            kept = self._set_aside(self._path(form, run_id, checkpoint, part))
            raise errors.RowDamagedError(
                f"{form.in_words(run_id, checkpoint, part)} is damaged ({error}); it was set aside as {kept}: "
                "the agent that recorded it can send it again"
            ) from error

    def read_rows(self, run_id: str, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """See :meth:`Journal.read_rows`."""
        for key in self.list_rows(run_id):
            if key.part or key.checkpoint < start or (stop is not None and key.checkpoint >= stop):
                continue
            try:
                row = self.read_row(run_id, key.checkpoint)
            except (errors.RowDamagedError, errors.RowMissingError):
                continue  # it lies in `damaged` and is reported from there
            yield row

    def read_layer_rows(
        self, run_id: str, layer_index: int, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """See :meth:`Journal.read_layer_rows`."""
        return [self._layer_row(run_id, layer_index, int(checkpoint)) for checkpoint in checkpoints]

    def _layer_row(self, run_id: str, layer_index: int, checkpoint: int) -> NDArray[np.float64]:
        with self._opened_row(run_id, checkpoint, 0) as (piece, num_layers):
            _check_layer(layer_index, num_layers)
            count = checkpoint + 1
            return piece.read(8 * count * layer_index, count)

    def read_products(self, run_id: str, checkpoint: int) -> NDArray[np.float64]:
        """See :meth:`Journal.read_products`."""
        with self._opened_row(run_id, checkpoint, 0) as (piece, num_layers):
            values = piece.read(8 * num_layers * (checkpoint + 1), num_layers * len(PRODUCTS))
        return values.reshape(num_layers, len(PRODUCTS))

    def read_sketch_gram(
        self, run_id: str, layer_index: int | None, checkpoints: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """See :meth:`Journal.read_sketch_gram`."""
        return [self._sketch_gram(run_id, layer_index, int(checkpoint)) for checkpoint in checkpoints]

    def _sketch_gram(self, run_id: str, layer_index: int | None, checkpoint: int) -> NDArray[np.float64]:
        count = checkpoint + 1
        with self._opened(SKETCHES, run_id, checkpoint, 0) as piece:
            place = None if piece is None else sketch_gram_start(piece, checkpoint)
            if piece is None or place is None:
                raise self._damaged(SKETCHES, run_id, checkpoint, 0)
            num_layers, start = place
            if layer_index is None:
                return piece.read(start, num_layers * count).reshape(num_layers, count)
            _check_layer(layer_index, num_layers)
            return piece.read(start + 8 * count * layer_index, count)

    @contextmanager
    def _opened_row(self, run_id: str, checkpoint: int, part: int) -> Iterator[tuple[Piece, int]]:
        """The row, open, and its number of layers; sizes are checked."""
        with self._opened(ROWS, run_id, checkpoint, part) as piece:
            num_layers = None if piece is None else row_layers(piece, checkpoint)
            if piece is None or num_layers is None:
                raise self._damaged(ROWS, run_id, checkpoint, part)
            yield piece, num_layers

    @contextmanager
    def _opened(
        self, form: RecordFormat[Any], run_id: str, checkpoint: int, part: int
    ) -> Iterator[Piece | None]:
        """The record, open; None if its size is not right."""
        path, name = self._path(form, run_id, checkpoint, part), form.in_words(run_id, checkpoint, part)
        with self._disk.translated(f"read {name}"):
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise _missing(name) from error
            try:
                yield open_piece(fd, form.magic)
            finally:
                os.close(fd)

    def _damaged(
        self, form: RecordFormat[Any], run_id: str, checkpoint: int, part: int
    ) -> errors.RowDamagedError:
        """What to raise for a record of a wrong size. If it is damaged, sets it aside, and raises that."""
        self._verified(form, run_id, checkpoint, part)
        return errors.RowDamagedError(f"{form.in_words(run_id, checkpoint, part)} is of another checkpoint")

    def headers(self, run_id: str) -> Iterator[tuple[int, types_pb2.RowHeader, int]]:
        """See :meth:`Journal.headers`."""
        for key in self.list_rows(run_id):
            if key.part == 0:
                try:
                    header = self.header(run_id, key.checkpoint, 0)
                except errors.RowDamagedError:
                    continue  # it lies in `damaged` and is reported from there
                yield key.checkpoint, header, key.size_bytes

    def header(self, run_id: str, checkpoint: int, part: int) -> types_pb2.RowHeader:
        """See :meth:`Journal.header`."""
        with self._opened_row(run_id, checkpoint, part) as (piece, _):
            header = _parse_header(piece.header)
        # If it is no header, reading the whole record sets it aside and raises.
        return self.read_row(run_id, checkpoint, part).header if header is None else header

    # Listing

    def count(self, run_id: str) -> int:
        """See :meth:`Journal.count`."""
        numbers = [key.checkpoint for key in self.list_rows(run_id) if key.part == 0]
        return next((i for i, number in enumerate(numbers) if i != number), len(numbers))

    def list_rows(self, run_id: str, kind: RecordKind = "row") -> list[RowKey]:
        """See :meth:`Journal.list_rows`."""
        form = FORMATS[kind]
        folder = self._folder(run_id) / form.folder
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            keys = (form.key(entry.name, entry.stat().st_size) for entry in entries)
            return sorted(key for key in keys if key)

    def parts(self, run_id: str, checkpoint: int, kind: RecordKind = "row") -> list[int]:
        """See :meth:`Journal.parts`."""
        form = FORMATS[kind]
        folder = self._folder(run_id) / form.folder
        keys = (form.key(path.name) for path in folder.glob(f"{checkpoint:08d}.*.{kind}"))
        return sorted(key.part for key in keys if key)

    def list_runs(self) -> list[str]:
        """See :meth:`Journal.list_runs`."""
        patterns = ("*.json", *(f"{form.folder}/*.{kind}" for kind, form in FORMATS.items()))
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if RUN_ID.fullmatch(folder.name) and any(any(folder.glob(pattern)) for pattern in patterns)
        )

    def get_run_file(self, run_id: str, name: str) -> dict[str, Any] | None:
        """See :meth:`Journal.get_run_file`."""
        path = self._file_path(run_id, name)
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise errors.JournalError(f"{path} is not JSON ({error}); restore it from a copy") from error
        if not isinstance(data, dict):
            raise errors.JournalError(f"{path} is not a JSON object; restore it from a copy")
        return data

    # Damage

    def verify(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """See :meth:`Journal.verify`."""
        for key in self.list_rows(run_id, kind):
            try:
                self._verified(FORMATS[kind], run_id, key.checkpoint, key.part)
            except errors.RowDamagedError:
                continue  # part of the answer below
        return self.damages(run_id, kind)

    def damages(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """See :meth:`Journal.damages`."""
        form, found = FORMATS[kind], []
        for path in sorted((self._folder(run_id) / "damaged").glob(f"*.{kind}.*")):
            key = form.key(path.stem)  # behind the name stands a serial number
            if key:
                found.append(Damage(run_id, key.checkpoint, key.part, str(path), form.problem(path), kind))
        return found

    def set_aside(
        self, run_id: str, checkpoint: int, reason: str, part: int = 0, kind: RecordKind = "row"
    ) -> Damage:
        """See :meth:`Journal.set_aside`."""
        form = FORMATS[kind]
        path, name = self._path(form, run_id, checkpoint, part), form.in_words(run_id, checkpoint, part)
        with self._disk.translated(f"set aside {name}"):
            try:
                kept = self._set_aside(path)
            except FileNotFoundError as error:
                raise _missing(name) from error
        return Damage(run_id, checkpoint, part, str(kept), reason, kind)

    def _set_aside(self, path: Path) -> Path:
        return set_aside(path, path.parent.parent / "damaged", path.name)

    # Names

    def _folder(self, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id[:64]!r} is not 32 hex digits")
        return self._root / run_id

    def _path(self, form: RecordFormat[Any], run_id: str, checkpoint: int, part: int) -> Path:
        name = form.file_name(checkpoint, part)
        return self._folder(run_id) / form.folder / name

    def _file_path(self, run_id: str, name: str) -> Path:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"run file name {name[:64]!r} is not made of a-z 0-9 _ -, with or without .json")
        return self._folder(run_id) / f"{name.removesuffix('.json')}.json"


def _missing(name: str) -> errors.RowMissingError:
    return errors.RowMissingError(
        f"{name} is not in the journal; it was never accepted, or was damaged and set aside"
    )


def _check_layer(index: int, num_layers: int) -> None:
    if not 0 <= index < num_layers:
        raise ValueError(f"layer index {index} is not in 0..{num_layers - 1}")


def _parse_header(data: bytes) -> types_pb2.RowHeader | None:
    header = types_pb2.RowHeader()
    try:
        header.ParseFromString(data)
    except DecodeError:
        return None
    return header
