"""The files behind a checkpoint: opened when needed, few at a time, read at stated places.

Read with read calls and not through a memory map: a file that its trainer cuts off meanwhile is an error here,
not a signal that ends the process, and no mapped page counts as memory of this process.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from trajmon.errors import CheckpointFileError

__all__ = ["FileState", "Files", "state_of"]

# Of one checkpoint; a series has hundreds of checkpoints open, and a process 1024 descriptors.
_MAX_OPEN = 2
_PIECE_BYTES = 1 << 30


class FileState(NamedTuple):
    """What tells one content of a file from another without reading it."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


def state_of(path: Path) -> FileState:
    """The state of a file now; a link is followed. Raises OSError."""
    facts = path.stat()
    return FileState(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


class Files:
    """Every method may be called from several threads; CheckpointFileError names the file that it is about."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._states: dict[Path, FileState] = {}

    def size_bytes(self, path: Path) -> int:
        """Length of a file, as it was when first asked for."""
        with self._guard:
            self._descriptor(path)
            return self._states[path].size_bytes

    def read_into(self, path: Path, start: int, out: memoryview) -> None:
        """Fill `out`, bytes, with the bytes of the file from `start` on."""
        with self._guard:
            descriptor = self._descriptor(path)
            done = 0
            while done < out.nbytes:
                try:
                    count = os.preadv(descriptor, [out[done : done + _PIECE_BYTES]], start + done)
                except OSError as error:
                    raise CheckpointFileError(f"{path}: {error.strerror}") from error
                if count == 0:
                    raise CheckpointFileError(
                        f"{path}: it ends at byte {start + done}, inside a tensor that reaches to byte "
                        f"{start + out.nbytes}"
                    )
                done += count

    def read(self, path: Path, start: int, count: int) -> bytes:
        """`count` bytes from `start` on."""
        if start < 0 or count < 0 or start + count > self.size_bytes(path):
            raise CheckpointFileError(
                f"{path}: it has {self.size_bytes(path)} bytes, bytes {start} to {start + count} are needed"
            )
        data = bytearray(count)
        self.read_into(path, start, memoryview(data))
        return bytes(data)

    def section(self, path: Path, start: int = 0, length: int | None = None) -> Section:
        """A part of a file as a file of its own; to its end by default."""
        size = self.size_bytes(path)
        length = size - start if length is None else length
        if start < 0 or length < 0 or start + length > size:
            raise CheckpointFileError(
                f"{path}: it has {size} bytes, bytes {start} to {start + length} are needed"
            )
        return Section(_RawSection(self, path, start, length))

    def verify_unchanged(self) -> None:
        """Raise if a file that was opened has changed or is gone."""
        with self._guard:
            for path, known in self._states.items():
                try:
                    now = state_of(path)
                except OSError as error:
                    raise CheckpointFileError(f"{path}: {error.strerror}") from error
                if now != known:
                    raise CheckpointFileError(f"{path}: it has changed since it was opened")

    def close(self) -> None:
        """Close what is open."""
        with self._guard:
            while self._open:
                os.close(self._open.popitem()[1])

    def _descriptor(self, path: Path) -> int:
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            facts = os.fstat(descriptor)
        except OSError as error:
            raise CheckpointFileError(f"{path}: {error.strerror}") from error
        state = FileState(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._states.setdefault(path, state) != state:
            os.close(descriptor)
            raise CheckpointFileError(f"{path}: it has changed since it was opened")
        self._open[path] = descriptor
        while len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


class _RawSection(io.RawIOBase):
    """Bytes `start` to `start + length` of a file."""

    def __init__(self, files: Files, path: Path, start: int, length: int) -> None:
        super().__init__()
        self.length = length
        self._files = files
        self._path = path
        self._start = start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        if base + offset < 0:
            raise OSError(f"position {base + offset} is before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # io's stub asks for any buffer
        view = memoryview(buffer).cast("B")[: max(0, self.length - self._position)]
        self._files.read_into(self._path, self._start + self._position, view)
        self._position += view.nbytes
        return view.nbytes


class Section(io.BufferedReader):
    """A part of a file, buffered."""

    def __init__(self, raw: _RawSection) -> None:
        super().__init__(raw, 1 << 16)
        self._length = raw.length

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what there is: a length that a file merely states must not make memory be set aside."""
        rest = max(0, self._length - self.tell())
        return super().read(rest if size is None or size < 0 else min(size, rest))
