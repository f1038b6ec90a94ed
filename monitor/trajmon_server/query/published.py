"""The published files of a run's Zarr store, for readers that have them over HTTP."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO

from trajmon_server.errors import NotFound, Unavailable
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import StoreError

__all__ = ["Published"]

# Names as the store makes them: an array's folder, then a chunk or the metadata. No dot at the start, so no way up.
_PATH = re.compile(r"(?:[A-Za-z0-9_]+/)?[A-Za-z0-9_][A-Za-z0-9_.]*", re.ASCII)


class Published:
    """Opens files of stores; nothing else on the disk."""

    def __init__(self, registry: Registry, executor: Executor) -> None:
        self._registry = registry
        self._executor = executor

    async def open(self, run: Run, path: str) -> tuple[BinaryIO, int]:
        """A file of the run's store, open for reading, and its length in bytes. NotFound if there is none.

        A file that is replaced meanwhile stays as it was for whoever has it open.
        """
        if not _PATH.fullmatch(path):
            raise _no_file(path)
        found = await asyncio.get_running_loop().run_in_executor(self._executor, self._opened, run, path)
        if found is None:
            raise _no_file(path)
        return found

    def _opened(self, run: Run, path: str) -> tuple[BinaryIO, int] | None:
        try:
            descriptor = _open_inside(self._registry.maps(run.description).path, path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except (OSError, StoreError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                return None
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb", buffering=0), status.st_size


def _open_inside(root: Path, path: str) -> int:
    """A descriptor of a file below `root`. No link is followed on the way, wherever it leads."""
    folder_flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder, _, name = path.rpartition("/")
    parent = os.open(root / folder, folder_flags)
    try:
        # Not to wait for the other end, should it be a pipe.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)


def _no_file(path: str) -> NotFound:
    return NotFound("NO_SUCH_FILE", f"the run's store has no file {path[:80]!r}")
