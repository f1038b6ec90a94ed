"""The journal in an object store, shared by any number of servers.

    <run_id>/run.json, control.json, ...    the run's own small files, replaced only by who has seen what is there
    <run_id>/rows/, sketches/               records, see :mod:`trajmon_server.store.records`
    <run_id>/damaged/<name>.<serial>        records that failed their checksum

A record is put under its final name on the condition that there is none, so that of two writers one wins. Whole
objects appear at once, and a put that was answered is durable.

Nothing below `rows` and `sketches` is ever deleted: a store that deletes does not ask whether the object is still
the one that was read, and would take a good record away that another server has just put there. What is set aside is
copied to `damaged`, then replaced by the ten bytes of :data:`GONE`, on the condition that it is still what was
copied. To every reader, that is no record.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from trajmon_protos.errors import RecordError
from trajmon_protos.names import RUN_ID
from trajmon_protos.record import read_digest
from trajmon_protos.v1 import types_pb2
from trajmon_server.store import errors
from trajmon_server.store.base import AppendOutcome, Damage, RecordKind, RowKey
from trajmon_server.store.fenced import FencedFiles
from trajmon_server.store.header_cache import HeaderCache
from trajmon_server.store.objects import Objects, Part, listed_tag
from trajmon_server.store.record_journal import DAMAGED, Aside, RecordJournal, missing, parse_header
from trajmon_server.store.records import FORMATS, ROWS, OpenRecord, Piece, Place, check_run_id, open_piece

__all__ = ["GONE", "ObjectJournal"]

A = TypeVar("A")
T = TypeVar("T")

GONE: Final = b"set aside\n"
"""Stands where a record was that was set aside. No record is so short."""
_HEAD_BYTES: Final = 16 * 1024
"""Read first of a record: its header, and all of it if it is small."""
_THREADS: Final = 16
_WAITING_BYTES: Final = 64 * 2**20
"""Of records that were read ahead."""
_TRIES: Final = 8
"""Each but the first follows a change by another server."""


class ObjectJournal(RecordJournal):
    """A :class:`~trajmon_server.store.base.Journal` in an object store. Thread safe."""

    def __init__(self, objects: Objects, cache: HeaderCache | None = None) -> None:
        """Open the journal. JournalError if the store cannot be used for one: that is tried."""
        self._objects = objects
        self._cache = cache
        self._files = FencedFiles(objects)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="object-store")
        self._described: set[str] = set()
        """Runs that have a description: it is never removed."""
        _try_out(objects)

    @property
    def broken(self) -> bool:
        """Never: a store that refuses or fails once is asked again the next time."""
        return False

    # Writing

    def append(
        self, run_id: str, checkpoint: int, part: int, record: bytes, kind: RecordKind = "row"
    ) -> AppendOutcome:
        """See :meth:`Journal.append`.

        ``stored`` only if the store said so, to one of all that put the same bytes (to each that replaces the same
        damaged record by them). If that answer was lost and the put repeated, it is a ``duplicate``.
        """
        place = FORMATS[kind].place(run_id, checkpoint, part)
        for tried in range(_TRIES):
            tag = self._objects.create(place.path, record)
            if tag is not None:
                self._remember_stored(place, record, tag)
                return "stored"
            try:
                found = self._objects.get(place.path)
            except KeyError:
                time.sleep(0.05 * tried)  # another put of it is under way
                continue
            if found.data == record:
                return "duplicate"
            if found.data != GONE:
                self._refuse_conflict(place, found.data, record)
                self._copy_aside(place, found.data)
            tag = self._objects.replace(place.path, record, found.tag)
            if tag is not None:
                self._remember_stored(place, record, tag)
                return "stored"
        raise self._restless(place)

    def _refuse_conflict(self, place: Place[Any], stored: bytes, record: bytes) -> None:
        """ConflictError unless the stored record is damaged."""
        try:
            place.form.decode(stored)
        except RecordError:
            return
        raise errors.ConflictError(place.words, read_digest(stored), read_digest(record))

    def headers(self, run_id: str) -> Iterator[tuple[int, types_pb2.RowHeader, int]]:
        """See :meth:`Journal.headers`. Those of objects that were seen before come from the cache."""
        if self._cache is None:
            yield from super().headers(run_id)
            return
        check_run_id(run_id)
        listed = self._objects.sizes_and_tags(f"{run_id}/{ROWS.folder}")
        rows = [
            (key, listed_tag(tag))
            for path, (size, tag) in sorted(listed.items())
            if size != len(GONE) and (key := ROWS.key(path.rpartition("/")[2], size)) and not key.part
        ]
        cached, num_lines = self._cache.load(run_id)
        known = {
            place: header for place, data in cached.items() if (header := parse_header(data)) is not None
        }
        new = [key.checkpoint for key, tag in rows if (key.checkpoint, tag) not in known]
        read = iter(self._each(lambda number: self._header_and_tag(run_id, number), new))
        kept: dict[tuple[int, str], bytes] = {}
        for key, tag in rows:
            place = (key.checkpoint, tag)
            header, read_tag = (known[place], tag) if place in known else next(read)
            if header is not None:
                if read_tag == tag:  # else it was replaced meanwhile
                    kept[place] = header.SerializeToString()
                yield key.checkpoint, header, key.size_bytes
        if new or len(kept) != num_lines:
            self._cache.save(run_id, kept)

    def _header_and_tag(self, run_id: str, checkpoint: int) -> tuple[types_pb2.RowHeader | None, str]:
        place = ROWS.place(run_id, checkpoint, 0)
        try:
            header, piece = self._header(place)
        except (errors.RowDamagedError, errors.RowMissingError):
            return None, ""
        return header, self._remember(place, piece)

    def header(self, run_id: str, checkpoint: int, part: int) -> types_pb2.RowHeader:
        """See :meth:`Journal.header`."""
        place = ROWS.place(run_id, checkpoint, part)
        header, piece = self._header(place)
        self._remember(place, piece)
        return header

    def verify(self, run_id: str, kind: RecordKind = "row") -> list[Damage]:
        """See :meth:`Journal.verify`. Headers are read again after this: no digest has told that they were right."""
        if self._cache is not None:
            self._cache.save(run_id, {})
        return super().verify(run_id, kind)

    def _remember_stored(self, place: Place[Any], record: bytes, tag: str) -> None:
        piece = open_piece(_OpenObject(self._objects, place.path, Part(record, len(record), tag)), ROWS.magic)
        if piece is not None:
            self._remember(place, piece)

    def _remember(self, place: Place[Any], piece: Piece) -> str:
        """The header of a row, for the next start. The tag of its object, as in listings."""
        assert isinstance(piece.stored, _OpenObject)
        tag = listed_tag(piece.stored.head.tag)
        if self._cache is not None and not place.part:
            self._cache.add(place.run_id, place.checkpoint, tag, piece.header)
        return tag

    def _replace_file(self, path: str, content: bytes) -> None:
        self._files.put(path, content)

    # Reading

    def _read(self, place: Place[Any]) -> bytes:
        try:
            stored = self._objects.get(place.path).data
        except KeyError as error:
            raise missing(place) from error
        if stored == GONE:
            raise missing(place)
        return stored

    def _look(self, place: Place[Any], use: Callable[[OpenRecord], T]) -> T:
        for _ in range(_TRIES):
            try:
                head = self._objects.part(place.path, 0, _HEAD_BYTES)
            except KeyError as error:
                raise missing(place) from error
            if head.data == GONE:
                raise missing(place)
            try:
                return use(_OpenObject(self._objects, place.path, head))
            except _Replaced:
                continue
        raise self._restless(place)

    def _restless(self, place: Place[Any]) -> errors.JournalUnavailableError:
        return errors.JournalUnavailableError(
            f"{place.words} in {self._objects.name} is being changed by other servers; try again later"
        )

    def _read_file(self, path: str) -> bytes | None:
        return self._files.get(path)

    def _peek_file(self, path: str) -> bytes | None:
        try:
            return self._objects.get(path).data
        except KeyError:
            return None

    def _each(
        self, use: Callable[[A], T], items: Iterable[A], size_bytes: Callable[[A], int] = lambda _: 0
    ) -> Iterator[T]:
        waiting: deque[tuple[int, Future[T]]] = deque()
        waiting_bytes = 0
        try:
            for item in items:
                size = size_bytes(item)
                while waiting and (len(waiting) >= 2 * _THREADS or waiting_bytes + size > _WAITING_BYTES):
                    done_bytes, done = waiting.popleft()
                    yield done.result()
                    waiting_bytes -= done_bytes
                waiting.append((size, self._pool.submit(use, item)))
                waiting_bytes += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, abandoned in waiting:
                abandoned.cancel()

    # Listing

    def list_rows(self, run_id: str, kind: RecordKind = "row", after: int = -1) -> list[RowKey]:
        """See :meth:`Journal.list_rows`."""
        check_run_id(run_id)
        form = FORMATS[kind]
        folder = f"{run_id}/{form.folder}"
        # No record has this name, and those of the checkpoint come right behind it.
        behind = f"{folder}/{after:08d}" if after > 0 else ""
        keys = (
            form.key(path.rpartition("/")[2], size)
            for path, size in self._objects.list(folder, behind)
            if size != len(GONE)
        )
        return sorted(key for key in keys if key)

    def list_runs(self) -> list[str]:
        """See :meth:`Journal.list_runs`."""
        runs = sorted(name for name in self._objects.folders() if RUN_ID.fullmatch(name))
        return [
            run_id for run_id, has_any in zip(runs, self._each(self._has_any, runs), strict=True) if has_any
        ]

    def _has_any(self, run_id: str) -> bool:
        """Whether the run has a file or a record. Most have a description: a cheap question, asked once of each."""
        if run_id in self._described:
            return True
        try:
            self._objects.size(f"{run_id}/run.json")
        except KeyError:
            paths = (path.split("/")[1:] for path, size in self._objects.list(run_id) if size != len(GONE))
            folders = {form.folder for form in FORMATS.values()}
            return any(path[0] in folders or path[-1].endswith(".json") for path in paths)
        self._described.add(run_id)
        return True

    # Damage

    def _move_aside(self, place: Place[Any], stored: bytes | None = None) -> str | None:
        for _ in range(_TRIES):
            try:
                found = self._objects.get(place.path)
            except KeyError:
                return None
            if found.data == GONE or (stored is not None and found.data != stored):
                return None
            kept = self._copy_aside(place, found.data)
            if self._objects.replace(place.path, GONE, found.tag) is not None:
                return self._in_full(kept)
        raise self._restless(place)

    def _copy_aside(self, place: Place[Any], stored: bytes) -> str:
        """Keep a copy in `damaged`, if there is none yet: another server may have begun with this and stopped."""
        for serial in itertools.count(1):
            path = f"{place.run_id}/{DAMAGED}/{place.file_name}.{serial}"
            if self._objects.create(path, stored) is not None or self._objects.get(path).data == stored:
                break
        return path

    def _list_aside(self, run_id: str) -> Iterator[Aside]:
        for path, _ in self._objects.list(f"{run_id}/{DAMAGED}"):
            yield Aside(path.rpartition("/")[2], self._in_full(path), partial(self._content, path))

    def _content(self, path: str) -> bytes:
        return self._objects.get(path).data

    def _in_full(self, path: str) -> str:
        return f"{self._objects.name}/{path}"


class _Replaced(Exception):
    """The object is another one than was opened."""


@dataclass(frozen=True, slots=True)
class _OpenObject:
    """A record in the store, of which the first bytes are here."""

    objects: Objects
    path: str
    head: Part

    @property
    def size_bytes(self) -> int:
        return self.head.size_bytes

    def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.head.size_bytes)
        if end <= len(self.head.data):
            return self.head.data[offset:end]
        try:
            part = self.objects.part(self.path, offset, end - offset)
        except KeyError as error:
            raise _Replaced from error
        if part.tag != self.head.tag:
            raise _Replaced
        return part.data


def _try_out(objects: Objects) -> None:
    """Whether the store can be written, and keeps to conditions: one that ignores them would lose records."""
    path = f"tried-out/{uuid.uuid4().hex}"
    try:
        objects.create(path, b"1")  # said to be taken if the answer to a first try was lost
        is_second_refused = objects.create(path, b"2") is None
        first = objects.get(path)
        is_replaced = objects.replace(path, b"3", first.tag) is not None
        is_stale_refused = objects.replace(path, b"4", first.tag) is None
        last = objects.get(path)
        objects.delete(path)
    except KeyError as error:
        raise errors.JournalUnavailableError(
            f"{objects.name} does not give back what was put there"
        ) from error
    kept = is_second_refused and is_replaced and is_stale_refused and (first.data, last.data) == (b"1", b"3")
    if not kept:
        raise errors.JournalUnavailableError(
            f"{objects.name} does not keep to conditional puts (If-None-Match, If-Match); a journal needs them: use a "
            "store that has them"
        )
