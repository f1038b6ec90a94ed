"""The snapshot file: one checkpoint's parameters, ready to be memory-mapped.

All integers little-endian:

=============  ========  ======================================================================
bytes          type      meaning
=============  ========  ======================================================================
0..8           8 bytes   magic ``TMSNAP\\x00\\x01``; the last byte is the format version
8..16          uint64    H, length of the header
16..24         uint64    D, where the data starts; a multiple of 4096
24..32         uint64    N, length of the data
32..32+H       bytes     header: a JSON object, fields as in :class:`SnapshotHeader`
..D            zeros     padding
D..D+N         bytes     the parameters, in the order and with the offsets of the run's layout
=============  ========  ======================================================================

Nothing follows the data: a file of another length is not complete. A file is written under a temporary name
and renamed, so a complete name means complete bytes, power cuts aside.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajmon._files import sync_directory, write_all
from trajmon._plan import PlanAhead
from trajmon.errors import SnapshotError, SnapshotNotKeptError

__all__ = [
    "HEAD_BYTES",
    "MAGIC",
    "CopyMode",
    "SnapshotHeader",
    "TrainingMode",
    "open_data",
    "read_header",
    "snapshot_bytes",
    "write_snapshot",
]

TrainingMode = Literal["full", "norm_only"]
CopyMode = Literal["wait", "overlap"]

MAGIC = b"TMSNAP\x00\x01"
_LENGTHS = struct.Struct("<QQQ")
_FIXED_BYTES = len(MAGIC) + _LENGTHS.size
HEAD_BYTES = 4096
"""Of a snapshot file before its data, or a multiple."""
_MAX_HEADER_BYTES = 1 << 20
# The stall is measured while the data is written; its digits may come out longer than those put down first.
_STALL_ROOM = 32


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """When and under which conditions a checkpoint was recorded."""

    checkpoint: int
    attempt: int
    """From 1; raised by every resume."""
    step: int
    fingerprint: str
    """Of the layout that the data follows."""
    previous: int | None = None
    """The checkpoint before this one on its path; None for checkpoint 0 alone."""
    time_unix_seconds: float = 0.0
    epoch: float | None = None
    learning_rate: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """May hold NaN and Inf."""
    stall_seconds: float = 0.0
    """How long the copy held the training process."""
    mode: TrainingMode = "full"
    """What is trained when the copy is taken."""
    copy: CopyMode = "wait"
    """`wait`: training stood still while it was taken; `overlap`: it went on beside it."""
    kept: bool = True
    """False once the data was given up, as was planned: the file is its header alone."""
    plan: PlanAhead | None = None
    """What training intends, as of this checkpoint; None where nothing is planned."""

    def to_json(self) -> bytes:
        """One JSON object; NaN and Inf in the notation of Python's json."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> SnapshotHeader:
        """Inverse of :meth:`to_json`. Raises SnapshotError."""
        try:
            value: dict[str, Any] = json.loads(data)
            return cls(
                checkpoint=int(value["checkpoint"]),
                attempt=int(value["attempt"]),
                step=int(value["step"]),
                fingerprint=str(value["fingerprint"]),
                previous=None if value["previous"] is None else int(value["previous"]),
                time_unix_seconds=float(value["time_unix_seconds"]),
                epoch=None if value["epoch"] is None else float(value["epoch"]),
                learning_rate=None if value["learning_rate"] is None else float(value["learning_rate"]),
                metrics={str(name): float(number) for name, number in value["metrics"].items()},
                stall_seconds=float(value["stall_seconds"]),
                mode="norm_only" if value.get("mode") == "norm_only" else "full",
                copy="overlap" if value.get("copy") == "overlap" else "wait",
                kept=bool(value.get("kept", True)),
                plan=None if value.get("plan") is None else PlanAhead.from_json(value["plan"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotError(f"snapshot header cannot be read: {error!r}") from error


def snapshot_bytes(header: SnapshotHeader, data_bytes: int) -> int:
    """Length of the file that a checkpoint takes."""
    return _data_start(len(header.to_json()) + _STALL_ROOM) + data_bytes


def write_snapshot(
    path: Path,
    header: SnapshotHeader | Callable[[], SnapshotHeader],
    data: memoryview,
    *,
    temporary: str,
    durable: bool,
) -> SnapshotHeader:
    """Write a snapshot under a temporary name, then rename it; returns the header as it was written.

    A callable `header` is asked twice: for the room it takes, and once the data is written. Nothing is left
    behind after an error. Uses write calls alone: a full disk is an OSError and never a signal.
    """
    first = header() if callable(header) else header
    room = len(first.to_json()) + _STALL_ROOM
    start = _data_start(room)
    fresh = path.with_name(temporary)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            write_all(descriptor, data)
            last = header() if callable(header) else header
            text = last.to_json()
            if len(text) > room:
                last, text = first, first.to_json()
            prefix = MAGIC + _LENGTHS.pack(len(text), start, data.nbytes) + text
            os.lseek(descriptor, 0, os.SEEK_SET)
            write_all(descriptor, prefix.ljust(start, b"\0"))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)
    return last


def read_header(path: Path) -> SnapshotHeader:
    """Header of a snapshot. Raises SnapshotError that names the file."""
    try:
        with path.open("rb") as file:
            header_bytes, _, _ = _lengths(file.read(_FIXED_BYTES))
            text = file.read(header_bytes)
        if len(text) != header_bytes:
            raise SnapshotError("it ends inside its header")
        return SnapshotHeader.from_json(text)
    except (OSError, SnapshotError) as error:
        raise SnapshotError(f"snapshot {path.name}: {error}") from error


def open_data(path: Path, fingerprint: str, data_bytes: int) -> NDArray[np.uint8]:
    """The data of a snapshot, [data_bytes], mapped read-only. Raises SnapshotError that names the file."""
    header = read_header(path)
    try:
        with path.open("rb") as file:
            _, start, announced = _lengths(file.read(_FIXED_BYTES))
            size = os.fstat(file.fileno()).st_size
            if header.fingerprint != fingerprint:
                raise SnapshotError(f"it is of a model {header.fingerprint}, the run is of {fingerprint}")
            if not header.kept:
                raise SnapshotNotKeptError("its data was not kept")
            if announced != data_bytes or size != start + announced:
                raise SnapshotError(f"it has {size} bytes, {start + data_bytes} are needed")
            if data_bytes == 0:
                return np.empty(0, dtype=np.uint8)
            return np.memmap(file, dtype=np.uint8, mode="r", offset=start, shape=(data_bytes,))
    except SnapshotNotKeptError:
        raise
    except (OSError, SnapshotError) as error:
        raise SnapshotError(f"snapshot {path.name}: {error}") from error


def _data_start(header_bytes: int) -> int:
    return -(-(_FIXED_BYTES + header_bytes) // HEAD_BYTES) * HEAD_BYTES


def _lengths(prefix: bytes) -> tuple[int, int, int]:
    if len(prefix) < _FIXED_BYTES:
        raise SnapshotError("it ends inside its first bytes")
    if prefix[:7] != MAGIC[:7]:
        raise SnapshotError("it is not a snapshot")
    if prefix[7] != MAGIC[7]:
        raise SnapshotError(f"its format version {prefix[7]} is not {MAGIC[7]}; update trajmon")
    header_bytes, start, data_bytes = _LENGTHS.unpack(prefix[len(MAGIC) :])
    if header_bytes > _MAX_HEADER_BYTES or start % HEAD_BYTES or start < _FIXED_BYTES + header_bytes:
        raise SnapshotError("its lengths contradict each other")
    return header_bytes, start, data_bytes
