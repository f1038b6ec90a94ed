"""The journal on a local disk.

    ROOT/tmp/                                       files being written; cleaned at start
    ROOT/<run_id>/run.json, control.json, ...       the run's own small files, opaque to the journal
    ROOT/<run_id>/rows/<checkpoint:08d>.<part:04d>.row    row records: part 0 is the row as a whole, p + 1 its part p
    ROOT/<run_id>/damaged/<name>.<serial>           records that failed their checksum

A record is written under a temporary name, synced, linked to its final name (which fails if the name is taken, so
that of two writers one wins), and its folder is synced. Only then does `append` return. A record that is visible
is therefore complete, and one that was acknowledged is durable.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.names import RUN_ID
from trajmon_protos.record import MAGIC, PRODUCTS, Row, decode, payload_bytes, read_digest
from trajmon_protos.v1 import types_pb2
from trajmon_server.store import errors
from trajmon_server.store.base import AppendOutcome, Damage, RowKey
from trajmon_server.store.files import TempFolder, set_aside, sync_data, sync_folder, write_all

__all__ = ["LocalJournal"]

_ROW_NAME = re.compile(r"(\d{8})\.(\d{4})\.row", re.ASCII)
_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}(\.json)?", re.ASCII)
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 16
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class LocalJournal:
    """A :class:`~trajmon_server.store.base.Journal` in a directory. Thread safe."""

    def __init__(self, root: Path) -> None:
        """Open the journal, creating its directory; removes what dead writers left in `tmp`."""
        self._root = root
        self._temp = TempFolder(root / "tmp")
        self._lock = threading.Lock()
        self._ready: set[str] = set()
        self._broken: str | None = None
        with self._translated("open the journal", "start again"):
            self._temp.folder.mkdir(parents=True, exist_ok=True)
            self._temp.clean()

    # Writing

    def append(self, run_id: str, checkpoint: int, part: int, record: bytes) -> AppendOutcome:
        """See :meth:`Journal.append`."""
        self._refuse_if_broken()
        path = self._row_path(run_id, checkpoint, part)
        with self._translated(f"store {_name(run_id, checkpoint, part)}"):
            self._prepare(run_id)
            with self._temp.file() as (fd, temporary):
                write_all(fd, record)
                self._sync_data(fd)
                outcome = self._link(temporary, path, record, _name(run_id, checkpoint, part))
                temporary.unlink()
            # Also for a duplicate: whoever linked it may have died before this.
            self._sync_folder(path.parent)
        return outcome

    def _link(self, temporary: Path, path: Path, record: bytes, name: str) -> AppendOutcome:
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
                decode(stored)
            except RecordError:
                self._set_aside(path)
                continue
            raise errors.ConflictError(name, read_digest(stored), read_digest(record))

    def put_run_file(self, run_id: str, name: str, data: Mapping[str, Any]) -> None:
        """See :meth:`Journal.put_run_file`."""
        self._refuse_if_broken()
        path = self._file_path(run_id, name)
        content = json.dumps(data, indent=1, allow_nan=False).encode()
        with self._translated(f"store {path.name} of run {run_id}"):
            self._prepare(run_id)
            with self._temp.file() as (fd, temporary):
                write_all(fd, content)
                self._sync_data(fd)
                temporary.replace(path)
            self._sync_folder(path.parent)

    def _prepare(self, run_id: str) -> None:
        """Create the run's folders and make their names durable, once in the life of this object."""
        if run_id in self._ready:
            return
        folder = self._root / run_id
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        for parent in (folder, self._root, self._root.parent):
            self._sync_folder(parent)
        with self._lock:
            self._ready.add(run_id)

    # Faults

    @property
    def broken(self) -> bool:
        """True once the device has refused a sync: nothing is appended any more."""
        return self._broken is not None

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise errors.JournalBrokenError(self._broken)

    def _sync_data(self, fd: int) -> None:
        try:
            sync_data(fd)
        except OSError as error:
            # Space can run out as late as here. The file is then thrown away, and written anew next time.
            if error.errno in _FULL:
                raise
            raise self._break(error) from error

    def _sync_folder(self, folder: Path) -> None:
        try:
            sync_folder(folder)
        except OSError as error:
            raise self._break(error) from error

    def _break(self, error: OSError) -> errors.JournalBrokenError:
        with self._lock:
            self._broken = (
                f"the disk under {self._root} refused a sync ({error.strerror}); rows after this cannot be "
                "acknowledged: check the disk, then start the server again"
            )
        return errors.JournalBrokenError(self._broken)

    @contextmanager
    def _translated(self, action: str, then: str = "send again") -> Iterator[None]:
        try:
            yield
        except errors.StoreError:
            raise  # RowMissingError is an OSError too
        except OSError as error:
            what = f"cannot {action} in {self._root}: {error.strerror}"
            if error.errno in _FULL:
                raise errors.JournalFullError(f"{what}; free space on this disk, then {then}") from error
            if error.errno in _READ_ONLY:
                raise errors.JournalReadOnlyError(
                    f"{what}; make the directory writable, then {then}"
                ) from error
            if error.errno == errno.EIO:
                raise self._break(error) from error
            raise errors.JournalUnavailableError(f"{what}; {then} later") from error

    # Reading

    def read(self, run_id: str, checkpoint: int, part: int = 0) -> bytes:
        """See :meth:`Journal.read`."""
        path = self._row_path(run_id, checkpoint, part)
        with self._translated(f"read {_name(run_id, checkpoint, part)}"):
            try:
                return path.read_bytes()
            except FileNotFoundError as error:
                raise _missing(run_id, checkpoint, part) from error

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        """See :meth:`Journal.read_row`."""
        record = self.read(run_id, checkpoint, part)
        try:
            return decode(record)
        except RecordError as error:
            kept = self._set_aside(self._row_path(run_id, checkpoint, part))
            raise errors.RowDamagedError(
                f"{_name(run_id, checkpoint, part)} is damaged ({error}); it was set aside as {kept}: "
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
        with self._opened(run_id, checkpoint, 0) as (fd, start, num_layers):
            if not 0 <= layer_index < num_layers:
                raise ValueError(f"layer index {layer_index} is not in 0..{num_layers - 1}")
            count = checkpoint + 1
            return np.frombuffer(os.pread(fd, 8 * count, start + 8 * count * layer_index), dtype="<f8")

    def read_products(self, run_id: str, checkpoint: int) -> NDArray[np.float64]:
        """See :meth:`Journal.read_products`."""
        with self._opened(run_id, checkpoint, 0) as (fd, start, num_layers):
            offset = start + 8 * num_layers * (checkpoint + 1)
            data = os.pread(fd, 8 * num_layers * len(PRODUCTS), offset)
        return np.frombuffer(data, dtype="<f8").reshape(num_layers, len(PRODUCTS))

    @contextmanager
    def _opened(self, run_id: str, checkpoint: int, part: int) -> Iterator[tuple[int, int, int]]:
        """File descriptor, offset of the payload, number of layers; sizes are checked."""
        path, name = self._row_path(run_id, checkpoint, part), _name(run_id, checkpoint, part)
        with self._translated(f"read {name}"):
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise _missing(run_id, checkpoint, part) from error
            try:
                prefix = os.pread(fd, _PREFIX.size, 0)
                size = os.fstat(fd).st_size
                magic, header, payload = _PREFIX.unpack(prefix.ljust(_PREFIX.size, b"\0"))
                num_layers, rest = divmod(payload, payload_bytes(1, checkpoint))
                if magic != MAGIC or rest or size != _PREFIX.size + header + payload + _DIGEST_BYTES:
                    self.read_row(run_id, checkpoint, part)  # sets it aside and raises
                    raise errors.RowDamagedError(f"{name} is of another checkpoint")
                yield fd, _PREFIX.size + header, num_layers
            finally:
                os.close(fd)

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
        with self._opened(run_id, checkpoint, part) as (fd, start, _):
            header = _parse_header(os.pread(fd, start - _PREFIX.size, _PREFIX.size))
        # If it is no header, reading the whole record sets it aside and raises.
        return self.read_row(run_id, checkpoint, part).header if header is None else header

    # Listing

    def count(self, run_id: str) -> int:
        """See :meth:`Journal.count`."""
        numbers = [key.checkpoint for key in self.list_rows(run_id) if key.part == 0]
        return next((i for i, number in enumerate(numbers) if i != number), len(numbers))

    def list_rows(self, run_id: str) -> list[RowKey]:
        """See :meth:`Journal.list_rows`."""
        folder = self._folder(run_id) / "rows"
        keys: list[RowKey] = []
        if not folder.is_dir():
            return keys
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _ROW_NAME.fullmatch(entry.name)
                if match:
                    keys.append(RowKey(int(match[1]), int(match[2]), entry.stat().st_size))
        return sorted(keys)

    def parts(self, run_id: str, checkpoint: int) -> list[int]:
        """See :meth:`Journal.parts`."""
        folder = self._folder(run_id) / "rows"
        matches = (_ROW_NAME.fullmatch(path.name) for path in folder.glob(f"{checkpoint:08d}.*.row"))
        return sorted(int(match[2]) for match in matches if match)

    def list_runs(self) -> list[str]:
        """See :meth:`Journal.list_runs`."""
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if RUN_ID.fullmatch(folder.name)
            and (any(folder.glob("*.json")) or any(folder.glob("rows/*.row")))
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

    def verify(self, run_id: str) -> list[Damage]:
        """See :meth:`Journal.verify`."""
        for key in self.list_rows(run_id):
            try:
                self.read_row(run_id, key.checkpoint, key.part)
            except errors.RowDamagedError:
                continue  # part of the answer below
        return self.damages(run_id)

    def damages(self, run_id: str) -> list[Damage]:
        """See :meth:`Journal.damages`."""
        found = []
        for path in sorted((self._folder(run_id) / "damaged").glob("*.row.*")):
            match = _ROW_NAME.match(path.name)
            if match:
                found.append(Damage(run_id, int(match[1]), int(match[2]), str(path), _what_is_wrong(path)))
        return found

    def set_aside(self, run_id: str, checkpoint: int, reason: str, part: int = 0) -> Damage:
        """See :meth:`Journal.set_aside`."""
        path = self._row_path(run_id, checkpoint, part)
        with self._translated(f"set aside {_name(run_id, checkpoint, part)}"):
            try:
                kept = self._set_aside(path)
            except FileNotFoundError as error:
                raise _missing(run_id, checkpoint, part) from error
        return Damage(run_id, checkpoint, part, str(kept), reason)

    def _set_aside(self, path: Path) -> Path:
        return set_aside(path, path.parent.parent / "damaged", path.name)

    # Names

    def _folder(self, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id[:64]!r} is not 32 hex digits")
        return self._root / run_id

    def _row_path(self, run_id: str, checkpoint: int, part: int) -> Path:
        if not 0 <= checkpoint < 10**8 or not 0 <= part < 10**4:
            raise ValueError(f"checkpoint {checkpoint} part {part} is out of range: 0..99999999 and 0..9999")
        return self._folder(run_id) / "rows" / f"{checkpoint:08d}.{part:04d}.row"

    def _file_path(self, run_id: str, name: str) -> Path:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"run file name {name[:64]!r} is not made of a-z 0-9 _ -, with or without .json")
        return self._folder(run_id) / f"{name.removesuffix('.json')}.json"


def _name(run_id: str, checkpoint: int, part: int) -> str:
    return f"checkpoint {checkpoint} part {part} of run {run_id}"


def _missing(run_id: str, checkpoint: int, part: int) -> errors.RowMissingError:
    return errors.RowMissingError(
        f"{_name(run_id, checkpoint, part)} is not in the journal; it was never accepted, "
        "or was damaged and set aside"
    )


def _parse_header(data: bytes) -> types_pb2.RowHeader | None:
    header = types_pb2.RowHeader()
    try:
        header.ParseFromString(data)
    except DecodeError:
        return None
    return header


def _what_is_wrong(path: Path) -> str:
    try:
        decode(path.read_bytes())
    except RecordError as error:
        return f"{error.kind}: {error}"
    return "intact now: it may be put back"
