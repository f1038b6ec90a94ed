"""Records that no server has acknowledged: one file each, ``spool/<checkpoint:08d>.row`` and ``.sketch``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from trajmon._files import write_bytes
from trajmon_protos.errors import RecordError
from trajmon_protos.record import decode
from trajmon_protos.sketch_record import decode_sketch

__all__ = ["Spool"]


class Spool:
    """The records of one kind in the folder, with its contents in mind. Used by all threads of the agent."""

    def __init__(
        self, folder: Path, suffix: str = ".row", decode: Callable[[bytes], object] = decode
    ) -> None:
        """`decode` raises RecordError for bytes that are no record of the kind."""
        self._folder = folder
        self._suffix = suffix
        self._decode = decode
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._damaged: set[int] = set()
        for leftover in folder.glob(f".*{suffix}.*.tmp"):
            leftover.unlink(missing_ok=True)
        for file in folder.glob(f"*{suffix}"):
            if file.stem.isdecimal():
                self._sizes[int(file.stem)] = file.stat().st_size

    @classmethod
    def of_sketches(cls, folder: Path) -> Spool:
        """The sketches in the folder."""
        return cls(folder, ".sketch", decode_sketch)

    def __contains__(self, checkpoint: int) -> bool:
        with self._lock:
            return checkpoint in self._sizes

    @property
    def total_bytes(self) -> int:
        """Size of all records together."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def first(self) -> int | None:
        """Lowest number that has a record; None if there is none."""
        with self._lock:
            return min(self._sizes, default=None)

    @property
    def stop(self) -> int:
        """One more than the highest number that has a record."""
        with self._lock:
            return max(self._sizes, default=-1) + 1

    def first_missing(self, start: int) -> int:
        """Lowest number from `start` on that has no record."""
        with self._lock:
            while start in self._sizes:
                start += 1
            return start

    def count_missing(self, start: int, stop: int) -> int:
        """How many of the numbers from `start` up to, not including, `stop` have no record."""
        with self._lock:
            return max(0, stop - start) - sum(start <= number < stop for number in self._sizes)

    def put(self, checkpoint: int, record: bytes) -> None:
        """Store a record durably. Raises OSError; then nothing is stored."""
        write_bytes(self._path(checkpoint), record, durable=True)
        with self._lock:
            self._sizes[checkpoint] = len(record)

    def get(self, checkpoint: int) -> bytes | None:
        """A record; None if there is none. A file that does not match its checksum is removed, and remembered."""
        with self._lock:
            if checkpoint not in self._sizes:
                return None
        try:
            record = self._path(checkpoint).read_bytes()
            self._decode(record)
        except (FileNotFoundError, RecordError):
            self.drop(checkpoint)
            with self._lock:
                self._damaged.add(checkpoint)
            return None
        return record

    @property
    def damaged(self) -> list[int]:
        """Numbers of the records that were found damaged, and of which nobody has taken leave."""
        with self._lock:
            return sorted(self._damaged)

    def forget_damaged(self, checkpoint: int) -> None:
        """The record is there again, or cannot be made again."""
        with self._lock:
            self._damaged.discard(checkpoint)

    def drop_below(self, checkpoint: int) -> None:
        """Remove the records that are acknowledged."""
        with self._lock:
            done = [number for number in self._sizes if number < checkpoint]
        for number in done:
            self.drop(number)

    def drop(self, checkpoint: int) -> None:
        """Remove a record that is acknowledged."""
        with self._lock:
            self._sizes.pop(checkpoint, None)
        self._path(checkpoint).unlink(missing_ok=True)

    def _path(self, checkpoint: int) -> Path:
        return self._folder / f"{checkpoint:08d}{self._suffix}"
