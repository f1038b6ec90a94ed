"""A matrix over checkpoints for every layer, or every group: sealed strips of 64 rows, single rows before that."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.chunks import ChunkError, ShardReader, ShardWriter
from trajmon_server.store.errors import MapDamagedError
from trajmon_server.store.files import TempFolder, sync_data, sync_folder
from trajmon_server.store.layout import STRIP_ROWS, ArrayPlan

__all__ = ["DamagedChunk", "GramFiles"]


class DamagedChunk(MapDamagedError):
    """A file that is missing, or not what it should be."""

    def __init__(self, path: Path, strip: int, checkpoint: int | None, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}; delete the folder {path.parent.parent} to have it made again"
        )
        self.path = path
        self.strip = strip
        self.checkpoint = checkpoint
        """The row, if it is a row of the tail; None for a sealed shard."""
        self.reason = reason


class GramFiles:
    """Writes and reads a matrix of `count` layers or groups. One writer at a time; readers need no lock.

    Where a method takes `rows`, these are the checkpoints that have a row; the others are NaN, and have no files.
    """

    def __init__(
        self, folder: Path, temp: TempFolder, sealed: ArrayPlan, tail: ArrayPlan, count: int
    ) -> None:
        assert tail.inner is not None
        assert sealed.inner is not None
        self._temp = temp
        self._sealed, self._tail = sealed, tail
        self._sealed_folder, self._tail_folder = folder / sealed.name, folder / tail.name
        self._count = count
        self._block = tail.inner[0]
        self._columns = sealed.chunk[2]
        self._sealed_columns, self._tail_columns = sealed.inner[2], tail.inner[2]

    def write_row(self, checkpoint: int, gram: NDArray[np.float64], prefix: str) -> None:
        """Put a row, [count, checkpoint + 1], into the tail."""
        for first in range(0, self._count, self._tail.chunk[0]):
            for column in range(0, checkpoint + 1, self._columns):
                part = gram[first : first + self._tail.chunk[0], column : column + self._columns]
                padded = np.full(
                    [-(-n // m) * m for n, m in zip(part.shape, self._tail_inner, strict=True)], np.nan
                )
                padded[: part.shape[0], : part.shape[1]] = part
                with self._temp.file(prefix) as (fd, temporary):
                    writer = ShardWriter(fd, self._tail)
                    for a in range(0, padded.shape[0], self._block):
                        for k in range(0, padded.shape[1], self._tail_columns):
                            inner = padded[a : a + self._block, k : k + self._tail_columns]
                            writer.add((a // self._block, 0, k // self._tail_columns), inner)
                    writer.finish()
                    temporary.replace(self._tail_path(first, checkpoint, column))

    @property
    def _tail_inner(self) -> tuple[int, int]:
        return self._block, self._tail_columns

    def drop_row(self, checkpoint: int) -> None:
        """Remove a row from the tail, if one is there."""
        for first in range(0, self._count, self._tail.chunk[0]):
            for column in range(0, checkpoint + 1, self._columns):
                self._tail_path(first, checkpoint, column).unlink(missing_ok=True)

    def is_sealed(self, strip: int, rows: Container[int]) -> bool:
        """Whether all shards of a strip are there, or none is needed."""
        return self._is_empty(strip, rows) or all(path.exists() for path, _, _ in self._shards(strip))

    def seal(self, strip: int, rows: Container[int], prefix: str) -> None:
        """Write the shards of a complete strip that are not there yet, durably; none if it has no row.

        DamagedChunk if a row of the tail cannot be read.
        """
        if self._is_empty(strip, rows):
            return
        for path, first, column in self._shards(strip):
            if path.exists():
                continue
            with self._temp.file(prefix) as (fd, temporary), ExitStack() as stack:
                readers = {
                    number: stack.enter_context(self._tail_row(first, number, column))
                    for number in self._rows(strip)
                    if number in rows
                }
                self._write_shard(ShardWriter(fd, self._sealed), strip, first, column, readers)
                sync_data(fd)
                temporary.replace(path)
        sync_folder(self._sealed_folder)

    def _write_shard(
        self, writer: ShardWriter, strip: int, first: int, column: int, rows: dict[int, ShardReader]
    ) -> None:
        start = strip * STRIP_ROWS
        width = min(self._columns, start + STRIP_ROWS - column)
        padded = -(-width // self._sealed_columns) * self._sealed_columns
        last = min(first + self._sealed.chunk[0], self._count)
        # A block of layers at a time: the whole shard would be 128 MiB.
        for a in range(first, last, self._block):
            block = np.full((self._block, STRIP_ROWS, padded), np.nan)
            for number, reader in rows.items():
                for k in range(0, min(number + 1 - column, width), self._tail_columns):
                    values = self._read_tail(reader, number, a, k)
                    block[:, number - start, k : k + self._tail_columns] = values
            for layer in range(a, min(a + self._block, last)):
                for k in range(0, padded, self._sealed_columns):
                    inner = block[layer - a, :, k : k + self._sealed_columns]
                    writer.add((layer - first, 0, k // self._sealed_columns), inner)
        writer.finish()

    def trim(self, before_strip: int, older_than_seconds: float) -> None:
        """Delete tail rows of strips below `before_strip` that were sealed long enough ago.

        A reader may have found such a strip unsealed, and be about to look into the tail.
        """
        latest = time.time() - older_than_seconds
        due: dict[int, bool] = {}
        for path in list(self._tail_folder.glob("c.*")):
            strip = int(path.name.split(".")[2]) // STRIP_ROWS
            if strip not in due:
                due[strip] = strip < before_strip and all(
                    shard.exists() and shard.stat().st_mtime <= latest for shard, _, _ in self._shards(strip)
                )
            if due[strip]:
                path.unlink()

    def adopt(self, other: GramFiles, start: int) -> None:
        """Take over the other's tail rows from checkpoint `start` on."""
        for path in list(other._tail_folder.glob("c.*")):
            if int(path.name.split(".")[2]) >= start:
                path.replace(self._tail_folder / path.name)

    def verify_row(self, checkpoint: int) -> None:
        """Read a row of the tail through. DamagedChunk if that cannot be done."""
        for a in range(0, self._count, self._block):
            self._row(a, checkpoint)

    def read_strip(self, index: int, strip: int, stop: int, rows: Container[int]) -> NDArray[np.float64]:
        """Rows of one layer or group, [rows, columns], of a strip below checkpoint `stop`; NaN above the diagonal.

        DamagedChunk if something is missing or damaged.
        """
        end = min((strip + 1) * STRIP_ROWS, stop)
        sealed = None if self._is_empty(strip, rows) else self._read_sealed(index, strip)
        if sealed is not None:
            return sealed[: end - strip * STRIP_ROWS, :end]
        values = np.full((end - strip * STRIP_ROWS, end), np.nan)
        for number in range(strip * STRIP_ROWS, end):
            if number in rows:
                values[number - strip * STRIP_ROWS, : number + 1] = self._row(index, number)
        return values

    def _read_sealed(self, index: int, strip: int) -> NDArray[np.float64] | None:
        first = index - index % self._sealed.chunk[0]
        end = (strip + 1) * STRIP_ROWS
        values = np.empty((STRIP_ROWS, end))
        for column in range(0, end, self._columns):
            path = self._sealed_path(first, strip, column)
            try:
                with ShardReader(path, self._sealed) as shard:
                    for k in range(column, min(column + self._columns, end), self._sealed_columns):
                        inner = shard.read((index - first, 0, (k - column) // self._sealed_columns))
                        values[:, k : k + self._sealed_columns] = inner[0][:, : end - k]
            except FileNotFoundError:
                return None
            except ChunkError as error:
                raise DamagedChunk(path, strip, None, str(error)) from error
        return values

    def _row(self, index: int, number: int) -> NDArray[np.float64]:
        values = np.empty(number + 1)
        for column in range(0, number + 1, self._columns):
            with self._tail_row(index, number, column) as row:
                for k in range(column, min(column + self._columns, number + 1), self._tail_columns):
                    inner = self._read_tail(row, number, index, k - column)
                    values[k : k + self._tail_columns] = inner[index % self._block, : number + 1 - k]
        return values

    def _tail_row(self, index: int, number: int, column: int) -> ShardReader:
        path = self._tail_path(index - index % self._tail.chunk[0], number, column)
        try:
            return ShardReader(path, self._tail)
        except FileNotFoundError as error:
            raise DamagedChunk(path, number // STRIP_ROWS, number, "there is no such file") from error
        except ChunkError as error:
            raise DamagedChunk(path, number // STRIP_ROWS, number, str(error)) from error

    def _read_tail(self, row: ShardReader, number: int, index: int, k: int) -> NDArray[np.float64]:
        """The inner chunk that holds layer `index` and column `k` of the shard, [block, columns]."""
        position = (index % self._tail.chunk[0] // self._block, 0, k // self._tail_columns)
        try:
            return row.read(position)[:, 0, :]
        except ChunkError as error:
            raise DamagedChunk(row.path, number // STRIP_ROWS, number, str(error)) from error

    def _rows(self, strip: int) -> range:
        return range(strip * STRIP_ROWS, (strip + 1) * STRIP_ROWS)

    def _is_empty(self, strip: int, rows: Container[int]) -> bool:
        return not any(number in rows for number in self._rows(strip))

    def _shards(self, strip: int) -> Iterator[tuple[Path, int, int]]:
        """Path, first layer and first column of the shards of a strip."""
        for first in range(0, self._count, self._sealed.chunk[0]):
            for column in range(0, (strip + 1) * STRIP_ROWS, self._columns):
                yield self._sealed_path(first, strip, column), first, column

    def _sealed_path(self, first: int, strip: int, column: int) -> Path:
        return self._sealed_folder / f"c.{first // self._sealed.chunk[0]}.{strip}.{column // self._columns}"

    def _tail_path(self, first: int, number: int, column: int) -> Path:
        return self._tail_folder / f"c.{first // self._tail.chunk[0]}.{number}.{column // self._columns}"
