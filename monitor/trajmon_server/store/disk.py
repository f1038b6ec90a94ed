"""Durable writes to a disk that may be full, read-only or failing: its system errors as errors of the journal."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajmon_server.store import errors
from trajmon_server.store.files import sync_data, sync_folder

__all__ = ["Disk"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Disk:
    """The disk under `root`. Once it has refused a sync, nothing more is acknowledged. Thread safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._broken: str | None = None

    @property
    def broken(self) -> bool:
        """True once the device has refused a sync: nothing is appended any more."""
        return self._broken is not None

    def refuse_if_broken(self) -> None:
        """JournalBrokenError if a sync was refused."""
        if self._broken is not None:
            raise errors.JournalBrokenError(self._broken)

    def sync_data(self, fd: int) -> None:
        """Make the content of an open file durable."""
        try:
            sync_data(fd)
        except OSError as error:
            # Space can run out as late as here. The file is then thrown away, and written anew next time.
            if error.errno in _FULL:
                raise
            raise self._break(error) from error

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
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
    def translated(self, action: str, then: str = "send again") -> Iterator[None]:
        """System errors of the block as errors of the journal, with what was tried and what to do then."""
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
