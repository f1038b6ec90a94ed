"""Small files that are replaced whole, and locks that end with their process."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

__all__ = [
    "ProcessLock",
    "lock_holder",
    "read_json",
    "sync_directory",
    "write_all",
    "write_bytes",
    "write_json",
]

# struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it; a single call may stop at 2 GiB or at a signal."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_bytes(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace a file atomically; `durable` means that it survives a power cut once this returns."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def write_json(path: Path, value: dict[str, Any], *, durable: bool = False) -> None:
    """Replace a JSON file atomically."""
    write_bytes(path, json.dumps(value).encode(), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is missing, cannot be read or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sync_directory(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_held: set[str] = set()
# Between two threads: a question about a lock must not close a descriptor of one that is just being taken.
_guard = threading.Lock()


class ProcessLock:
    """A POSIX record lock on a file: held by one process, freed by the kernel however that ends.

    It is not inherited by fork. The trap of these locks: closing *any* descriptor of the file in the
    holding process frees them, so the file is opened here and nowhere else (see :func:`lock_holder`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False if somebody has it, this process included. Raises OSError."""
        with _guard:
            return self._acquire(str(self._path))

    def _acquire(self, key: str) -> bool:
        if key in _held:
            return False
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(key)
        return True

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        with _guard:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                _held.discard(str(self._path))


def lock_holder(path: Path) -> int | None:
    """Process id of whoever holds the lock on the file; None if nobody does. Raises OSError."""
    with _guard:
        return _holder(path)


def _holder(path: Path) -> int | None:
    if str(path) in _held:
        return os.getpid()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(pid)
