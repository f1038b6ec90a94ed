"""Files that appear whole or not at all.

Two strengths. `durable`: content and name survive a power cut once the call returns, for the journal.
Not durable: what other processes see is always whole, but a power cut may take it back, for what can be made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["TempFolder", "exchange", "replace_file", "set_aside", "sync_data", "sync_folder", "write_all"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`: a single write may stop short, at the latest after 2 GiB."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def sync_data(fd: int) -> None:
    """Make the content of an open file durable."""
    os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class TempFolder:
    """A folder for files that are still being written, on the same file system as their final place.

    Each such file is locked by its writer, so that :meth:`clean` removes those of dead writers only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._serial = itertools.count()

    def clean(self, prefix: str = "") -> int:
        """Remove what dead writers left behind; returns how many files."""
        if not self.folder.is_dir():
            return 0
        return sum(_remove_if_abandoned(path) for path in list(self.folder.glob(f"{prefix}*")))

    @contextlib.contextmanager
    def file(self, prefix: str = "") -> Iterator[tuple[int, Path]]:
        """A new file, open for writing, which the caller renames or removes. It is gone after an exception."""
        path = self.folder / f"{prefix}{os.getpid()}.{next(self._serial)}.{os.urandom(4).hex()}"
        fd = self._create(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd, path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o600)


def _remove_if_abandoned(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    path.unlink(missing_ok=True)
    return True


def replace_file(
    temp: TempFolder, path: Path, data: bytes, *, prefix: str = "", durable: bool = False
) -> None:
    """Put `data` at `path`, in place of what is there; no reader ever sees a part of it."""
    with temp.file(prefix) as (fd, temporary):
        write_all(fd, data)
        if durable:
            sync_data(fd)
        temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def set_aside(path: Path, folder: Path, name: str) -> Path:
    """Move a file or folder into `folder` under a name not yet taken; returns where it is now."""
    folder.mkdir(parents=True, exist_ok=True)
    for serial in itertools.count(1):
        target = folder / f"{name}.{serial}"
        if not target.exists():
            break
    path.rename(target)
    sync_folder(folder)
    return target


def exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step, so that both names exist at every moment.

    On a file system that cannot, `first` takes the place of `second` by two renames; between them,
    for some microseconds, `second` does not exist.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    outcome = libc.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if outcome == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), str(first), None, str(second))
    parked = first.with_name(first.name + ".parked")
    second.rename(parked)
    first.rename(second)
    parked.rename(first)
