"""What lies under a journal, for tests that look at it or spoil it past the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trajmon_server.store.base import Journal
from trajmon_server.store.journal import LocalJournal
from trajmon_server.store.object_journal import ObjectJournal
from trajmon_server.store.objects import Objects


class Shelf(Protocol):
    """Where one journal keeps its bytes, by paths below its root."""

    def open(self) -> Journal:
        """A journal over what is there, as another server or the same one after a restart would open it."""
        ...

    def get(self, path: str) -> bytes:
        """What is stored at a path."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Store it, whatever is there."""
        ...

    def in_full(self, path: str) -> str:
        """What the journal calls what is stored at a path."""
        ...


def flip(shelf: Shelf, path: str, at: int | None = None) -> None:
    """Change one bit of what is stored at a path: in its middle, or in the byte `at`."""
    change(shelf, path, lambda data: _flipped(data, len(data) // 2 if at is None else at))


def change(shelf: Shelf, path: str, make: Callable[[bytes], bytes]) -> None:
    """Replace what is stored at a path by what `make` makes of it."""
    shelf.put(path, make(shelf.get(path)))


def kept(shelf: Shelf, kept_as: str) -> bytes:
    """The content of what a journal says that it has set aside."""
    root = shelf.in_full("")
    assert kept_as.startswith(root)
    return shelf.get(kept_as[len(root) :].lstrip("/"))


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@dataclass
class LocalShelf:
    """A folder."""

    root: Path

    def open(self) -> Journal:
        return LocalJournal(self.root)

    def get(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        (self.root / path).write_bytes(data)

    def in_full(self, path: str) -> str:
        return str(self.root / path)


@dataclass
class ObjectShelf:
    """An object store, or a part of one."""

    objects: Objects

    def open(self) -> Journal:
        return ObjectJournal(self.objects)

    def get(self, path: str) -> bytes:
        return self.objects.get(path).data

    def put(self, path: str, data: bytes) -> None:
        self.objects.delete(path)
        assert self.objects.create(path, data) is not None

    def in_full(self, path: str) -> str:
        return f"{self.objects.name}/{path}"
