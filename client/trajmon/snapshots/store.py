"""All snapshots of one run: a folder of files, one a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmon.errors import SnapshotError
from trajmon.snapshots.format import HEAD_BYTES, SnapshotHeader, open_data, read_header, write_snapshot

__all__ = ["SnapshotStore", "path_to", "previous_for_step"]

_SUFFIX = ".snap"


class SnapshotStore:
    """The folder. Training and agent each hold one; each checkpoint is written by one of them only."""

    def __init__(self, folder: Path, fingerprint: str, data_bytes: int, writer: str) -> None:
        """`data_bytes`: of each snapshot; `writer` tells the temporary files of the two sides apart."""
        self.folder = folder
        self.fingerprint = fingerprint
        self.data_bytes = data_bytes
        self._writer = writer

    def path(self, checkpoint: int) -> Path:
        """File of a checkpoint, there or not."""
        return self.folder / f"{checkpoint:08d}{_SUFFIX}"

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints that have a file, ascending."""
        stems = (file.stem for file in self.folder.iterdir() if file.suffix == _SUFFIX)
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def used_bytes(self) -> int:
        """Size of all snapshots together."""
        return self.usage()[0]

    def usage(self) -> tuple[int, int]:
        """Size of all snapshots together, and how many have their data."""
        sizes = self._sizes()
        return sum(sizes), sum(map(self._has_data, sizes))

    def kept_bytes(self) -> int:
        """Size of the snapshots that have their data; what is left of others, a page each, is not counted."""
        return sum(filter(self._has_data, self._sizes()))

    def _sizes(self) -> list[int]:
        with os.scandir(self.folder) as entries:
            return [entry.stat().st_size for entry in entries if entry.name.endswith(_SUFFIX)]

    def _has_data(self, file_bytes: int) -> bool:
        # A header fills whole pages; data follows it.
        head = file_bytes - self.data_bytes
        return head > 0 and head % HEAD_BYTES == 0

    def header(self, checkpoint: int) -> SnapshotHeader:
        """Raises SnapshotError."""
        return read_header(self.path(checkpoint))

    def data(self, checkpoint: int) -> NDArray[np.uint8]:
        """Parameters of a checkpoint, mapped read-only. Raises SnapshotError."""
        return open_data(self.path(checkpoint), self.fingerprint, self.data_bytes)

    def write(
        self,
        checkpoint: int,
        header: SnapshotHeader | Callable[[], SnapshotHeader],
        data: memoryview,
        *,
        durable: bool,
    ) -> SnapshotHeader:
        """Store a checkpoint; see :func:`trajmon.snapshots.format.write_snapshot`. Raises OSError."""
        temporary = f".{self._writer}.{checkpoint:08d}.tmp"
        return write_snapshot(self.path(checkpoint), header, data, temporary=temporary, durable=durable)

    def give_up(self, checkpoint: int) -> None:
        """Replace a snapshot by its header alone. Raises SnapshotError, OSError; then it stays as it was."""
        header = replace(self.header(checkpoint), kept=False)
        self.write(checkpoint, header, memoryview(b""), durable=True)

    def make_durable(self, checkpoint: int) -> None:
        """Sync a file that the training process wrote: it must not wait for the disk, the agent may."""
        descriptor = os.open(self.path(checkpoint), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove_leftovers(self) -> None:
        """Remove what an earlier writer of the same kind left half-written."""
        for leftover in self.folder.glob(f".{self._writer}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def headers(self) -> dict[int, SnapshotHeader]:
        """Headers of all snapshots that can be read."""
        found = {}
        for number in self.numbers():
            try:
                found[number] = self.header(number)
            except SnapshotError:
                # Its number stays taken; on the path it counts as following the one before it.
                continue
        return found


def path_to(checkpoint: int, headers: Mapping[int, SnapshotHeader]) -> list[int]:
    """The path that ends in a checkpoint: the chain of `previous`, from checkpoint 0.

    A checkpoint whose header is lost is taken to follow the one before it.

    >>> headers = {2: SnapshotHeader(2, 1, 20, "", previous=0)}
    >>> path_to(3, headers)
    [0, 2, 3]
    """
    path = [checkpoint]
    while path[-1] > 0:
        header = headers.get(path[-1])
        previous = path[-1] - 1 if header is None or header.previous is None else header.previous
        if not 0 <= previous < path[-1]:
            previous = path[-1] - 1
        path.append(previous)
    return path[::-1]


def previous_for_step(path: Sequence[int], headers: Mapping[int, SnapshotHeader], step: int) -> int:
    """Last checkpoint of the path before a step; checkpoint 0, the origin, is never left out.

    >>> headers = {n: SnapshotHeader(n, 1, 10 * n, "") for n in range(4)}
    >>> previous_for_step([0, 1, 2, 3], headers, step=20), previous_for_step([0, 1], headers, step=0)
    (1, 0)
    """
    for number in reversed(path[1:]):
        if number in headers and headers[number].step < step:
            return number
    return path[0]
