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

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trajmon_protos.errors import RecordError
from trajmon_protos.names import RUN_ID
from trajmon_protos.record import read_digest
from trajmon_server.store import errors
from trajmon_server.store.base import AppendOutcome, RecordKind, RowKey
from trajmon_server.store.disk import Disk
from trajmon_server.store.files import TempFolder, set_aside, write_all
from trajmon_server.store.record_journal import DAMAGED, Aside, RecordJournal, missing
from trajmon_server.store.records import FORMATS, OpenRecord, Place, check_run_id

__all__ = ["LocalJournal"]

T = TypeVar("T")


class LocalJournal(RecordJournal):
    """A :class:`~trajmon_server.store.base.Journal` in a directory. Thread safe."""

    def __init__(self, root: Path) -> None:
        """Open the journal, creating its directory; removes what dead writers left in `tmp`."""
        self._root = root
        self._temp = TempFolder(root / "tmp")
        self._disk = Disk(root)
        self._lock = threading.Lock()
        self._aside = threading.Lock()
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
        place = FORMATS[kind].place(run_id, checkpoint, part)
        with self._disk.translated(f"store {place.words}"):
            self._prepare(run_id, kind)
            with self._temp.file() as (fd, temporary):
                write_all(fd, record)
                self._disk.sync_data(fd)
                outcome = self._link(temporary, place, record)
                temporary.unlink()
            # Also for a duplicate: whoever linked it may have died before this.
            self._disk.sync_folder(self._path(place).parent)
        return outcome

    def _link(self, temporary: Path, place: Place[Any], record: bytes) -> AppendOutcome:
        path = self._path(place)
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
                place.form.decode(stored)
            except RecordError:
                self._rename_aside(path, stored)
                continue
            raise errors.ConflictError(place.words, read_digest(stored), read_digest(record))

    def _replace_file(self, path: str, content: bytes) -> None:
        self._disk.refuse_if_broken()
        target = self._root / path
        run_id = target.parent.name
        with self._disk.translated(f"store {target.name} of run {run_id}"):
            self._prepare(run_id)
            with self._temp.file() as (fd, temporary):
                write_all(fd, content)
                self._disk.sync_data(fd)
                temporary.replace(target)
            self._disk.sync_folder(target.parent)

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

    def _read(self, place: Place[Any]) -> bytes:
        with self._disk.translated(f"read {place.words}"):
            try:
                return self._path(place).read_bytes()
            except FileNotFoundError as error:
                raise missing(place) from error

    def _look(self, place: Place[Any], use: Callable[[OpenRecord], T]) -> T:
        with self._disk.translated(f"read {place.words}"):
            try:
                fd = os.open(self._path(place), os.O_RDONLY)
            except FileNotFoundError as error:
                raise missing(place) from error
            try:
                return use(_OpenFile(fd))
            finally:
                os.close(fd)

    def _read_file(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    # Listing

    def list_rows(self, run_id: str, kind: RecordKind = "row", after: int = -1) -> list[RowKey]:
        """See :meth:`Journal.list_rows`."""
        check_run_id(run_id)
        form = FORMATS[kind]
        folder = self._root / run_id / form.folder
        if not folder.is_dir():
            return []
        first = f"{max(after, 0):08d}"
        with os.scandir(folder) as entries:
            keys = (form.key(entry.name, entry.stat().st_size) for entry in entries if entry.name >= first)
            return sorted(key for key in keys if key)

    def list_runs(self) -> list[str]:
        """See :meth:`Journal.list_runs`."""
        patterns = ("*.json", *(f"{form.folder}/*.{kind}" for kind, form in FORMATS.items()))
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if RUN_ID.fullmatch(folder.name) and any(any(folder.glob(pattern)) for pattern in patterns)
        )

    # Damage

    def _move_aside(self, place: Place[Any], stored: bytes | None = None) -> str | None:
        with self._disk.translated(f"set aside {place.words}"):
            kept = self._rename_aside(self._path(place), stored)
            return None if kept is None else str(kept)

    def _rename_aside(self, path: Path, stored: bytes | None) -> Path | None:
        # Locked, so that of two threads that found the same damage the second does not move what replaced it.
        with self._aside:
            try:
                if stored is not None and path.read_bytes() != stored:
                    return None
                return set_aside(path, path.parent.parent / DAMAGED, path.name)
            except FileNotFoundError:
                return None

    def _list_aside(self, run_id: str) -> Iterator[Aside]:
        for path in sorted((self._root / run_id / DAMAGED).glob("*")):
            yield Aside(path.name, str(path), path.read_bytes)

    # Names

    def _path(self, place: Place[Any]) -> Path:
        return self._root / place.path

    def _in_full(self, path: str) -> str:
        return str(self._root / path)


@dataclass(frozen=True, slots=True)
class _OpenFile:
    """An open record on the disk."""

    fd: int

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)
