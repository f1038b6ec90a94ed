"""Rows that no server has acknowledged: one file each, ``spool/<checkpoint:08d>.row``."""

from __future__ import annotations

import threading
from pathlib import Path

from trajmon._files import write_bytes
from trajmon_protos.errors import RecordError
from trajmon_protos.record import decode

__all__ = ["Spool"]

_SUFFIX = ".row"


class Spool:
    """The folder, with its contents in mind. Used by all threads of the agent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for file in folder.glob(f"*{_SUFFIX}"):
            if file.stem.isdecimal():
                self._sizes[int(file.stem)] = file.stat().st_size

    def __contains__(self, checkpoint: int) -> bool:
        with self._lock:
            return checkpoint in self._sizes

    @property
    def total_bytes(self) -> int:
        """Size of all rows together."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def stop(self) -> int:
        """One more than the highest number that has a row."""
        with self._lock:
            return max(self._sizes, default=-1) + 1

    def first_missing(self, start: int) -> int:
        """Lowest number from `start` on that has no row."""
        with self._lock:
            while start in self._sizes:
                start += 1
            return start

    def count_missing(self, start: int, stop: int) -> int:
        """How many of the numbers from `start` up to, not including, `stop` have no row."""
        with self._lock:
            return max(0, stop - start) - sum(start <= number < stop for number in self._sizes)

    def put(self, checkpoint: int, record: bytes) -> None:
        """Store a row durably. Raises OSError; then nothing is stored."""
        write_bytes(self._path(checkpoint), record, durable=True)
        with self._lock:
            self._sizes[checkpoint] = len(record)

    def get(self, checkpoint: int) -> bytes | None:
        """A row; None if there is none. A file that does not match its checksum is removed: it can be made anew."""
        with self._lock:
            if checkpoint not in self._sizes:
                return None
        try:
            record = self._path(checkpoint).read_bytes()
            decode(record)
        except (FileNotFoundError, RecordError):
            self._drop(checkpoint)
            return None
        return record

    def drop_below(self, checkpoint: int) -> None:
        """Remove the rows that are acknowledged."""
        with self._lock:
            done = [number for number in self._sizes if number < checkpoint]
        for number in done:
            self._drop(number)

    def _drop(self, checkpoint: int) -> None:
        with self._lock:
            self._sizes.pop(checkpoint, None)
        self._path(checkpoint).unlink(missing_ok=True)

    def _path(self, checkpoint: int) -> Path:
        return self._folder / f"{checkpoint:08d}{_SUFFIX}"
