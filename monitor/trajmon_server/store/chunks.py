"""Chunk files byte by byte, as Zarr's `crc32c` and `sharding_indexed` codecs have them.

A plain chunk: the values, little-endian, row-major, then their CRC-32C (uint32).

A shard: inner chunks, each like a plain chunk, one after the other; then the index, for every inner chunk in row-major
order its offset and length (uint64 each; both 2^64-1 where there is none); then the index's CRC-32C.

Written by hand because zarr-python takes ten times as long over a shard; read by hand because one inner chunk is
wanted, with a named error if it is damaged.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.files import write_all
from trajmon_server.store.layout import ArrayPlan

__all__ = ["ChunkError", "ShardReader", "ShardWriter", "decode_chunk", "encode_chunk", "encode_strings"]

_CRC_BYTES = 4
_NONE = 2**64 - 1


class ChunkError(ValueError):
    """Bytes that are not the chunk they should be."""


def encode_chunk(values: NDArray[Any]) -> bytes:
    """A plain chunk."""
    return _with_crc(np.ascontiguousarray(values).tobytes())


def decode_chunk(data: bytes, plan: ArrayPlan) -> NDArray[Any]:
    """The values of a plain chunk, a fresh array of the chunk's shape. ChunkError if it is damaged."""
    return np.frombuffer(_checked(data), dtype=plan.dtype).reshape(_sized(data, plan)).copy()


def encode_strings(values: tuple[str, ...]) -> bytes:
    """A chunk of the `vlen-utf8` codec: count, then length and bytes of each."""
    parts = [struct.pack("<I", len(values))]
    for value in values:
        encoded = value.encode()
        parts += [struct.pack("<I", len(encoded)), encoded]
    return _with_crc(b"".join(parts))


def _with_crc(data: bytes) -> bytes:
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(_CRC_BYTES, "little")


def _checked(data: bytes) -> bytes:
    body = data[:-_CRC_BYTES]
    if len(data) < _CRC_BYTES or google_crc32c.value(body) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise ChunkError("checksum does not match")
    return body


def _sized(data: bytes, plan: ArrayPlan) -> tuple[int, ...]:
    expected = math.prod(plan.chunk) * np.dtype(plan.dtype).itemsize + _CRC_BYTES
    if len(data) != expected:
        raise ChunkError(f"it has {len(data)} bytes instead of {expected}")
    return plan.chunk


def _grid(plan: ArrayPlan) -> tuple[int, ...]:
    assert plan.inner is not None
    return tuple(outer // inner for outer, inner in zip(plan.chunk, plan.inner, strict=True))


class ShardWriter:
    """Writes a shard to a file descriptor, inner chunk by inner chunk, in any order. Close with :meth:`finish`."""

    def __init__(self, fd: int, plan: ArrayPlan) -> None:
        self._fd = fd
        self._index = np.full((*_grid(plan), 2), _NONE, dtype="<u8")
        self._offset = 0

    def add(self, position: tuple[int, int, int], values: NDArray[np.float64]) -> None:
        """Append the inner chunk at `position` of the shard's grid; `values` has an inner chunk's size."""
        data = _with_crc(np.ascontiguousarray(values, dtype="<f8").tobytes())
        write_all(self._fd, data)
        self._index[position] = self._offset, len(data)
        self._offset += len(data)

    def finish(self) -> None:
        """Write the index."""
        write_all(self._fd, _with_crc(self._index.tobytes()))


class ShardReader:
    """Reads inner chunks of one shard file. A context manager; FileNotFoundError if there is no file."""

    def __init__(self, path: Path, plan: ArrayPlan) -> None:
        assert plan.inner is not None
        self.path = path
        self._inner = plan.inner
        self._bytes = 8 * math.prod(plan.inner) + _CRC_BYTES
        grid = (*_grid(plan), 2)
        index_bytes = 8 * math.prod(grid) + _CRC_BYTES
        self._fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(self._fd).st_size
            if size < index_bytes:
                raise ChunkError(f"it has {size} bytes, fewer than its index")
            index = _checked(os.pread(self._fd, index_bytes, size - index_bytes))
        except BaseException:
            os.close(self._fd)
            raise
        self._index = np.frombuffer(index, dtype="<u8").reshape(grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, position: tuple[int, int, int]) -> NDArray[np.float64]:
        """The inner chunk at `position` of the grid, read-only. ChunkError if it is damaged or not there."""
        offset, length = (int(value) for value in self._index[position])
        if length != self._bytes:
            raise ChunkError(f"inner chunk {position} is not there")
        data = _checked(os.pread(self._fd, length, offset))
        return np.frombuffer(data, dtype="<f8").reshape(self._inner)
