"""The kinds of record that the journal keeps: where their files lie, and how a piece of one is found.

    <run_id>/rows/<checkpoint:08d>.<part:04d>.row           row records
    <run_id>/sketches/<checkpoint:08d>.<part:04d>.sketch    sketch records

Part 0 is the record of the row as a whole, p + 1 that of its part p.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos import record, sketch_record
from trajmon_protos.errors import RecordError
from trajmon_protos.framing import DIGEST_BYTES, PREFIX_BYTES
from trajmon_protos.names import RUN_ID
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.base import RecordKind, RowKey

__all__ = [
    "FORMATS",
    "ROWS",
    "SKETCHES",
    "OpenRecord",
    "Piece",
    "Place",
    "RecordFormat",
    "check_run_id",
    "open_piece",
    "row_layers",
    "sketch_gram_start",
]

T_co = TypeVar("T_co", covariant=True)

_NAME = re.compile(r"(\d{8})\.(\d{4})\.(row|sketch)", re.ASCII)


@dataclass(frozen=True, slots=True)
class RecordFormat(Generic[T_co]):
    """One kind of record."""

    kind: RecordKind
    folder: str
    """Of the run's folder."""
    magic: bytes
    decode: Callable[[bytes], T_co]
    """Raises RecordError unless the record is intact."""
    prefix: str
    """Stands before the key where a record is named to a reader."""

    def place(self, run_id: str, checkpoint: int, part: int) -> Place[T_co]:
        """Of a record; ValueError for a key out of range."""
        if not 0 <= checkpoint < 10**8 or not 0 <= part < 10**4:
            raise ValueError(f"checkpoint {checkpoint} part {part} is out of range: 0..99999999 and 0..9999")
        check_run_id(run_id)
        return Place(self, run_id, checkpoint, part)

    def key(self, file_name: str, size_bytes: int = 0) -> RowKey | None:
        """Of the record that the file holds; None if it is of no such record."""
        match = _NAME.fullmatch(file_name)
        if match is None or match[3] != self.kind:
            return None
        return RowKey(int(match[1]), int(match[2]), size_bytes)

    def problem(self, stored: bytes) -> str:
        """What is wrong with a record that was set aside."""
        try:
            self.decode(stored)
        except RecordError as error:
            return f"{error.kind}: {error}"
        return "intact now: it may be put back"


@dataclass(frozen=True, slots=True)
class Place(Generic[T_co]):
    """Where a record belongs."""

    form: RecordFormat[T_co]
    run_id: str
    checkpoint: int
    part: int

    @property
    def file_name(self) -> str:
        """The last part of :attr:`path`."""
        return f"{self.checkpoint:08d}.{self.part:04d}.{self.form.kind}"

    @property
    def path(self) -> str:
        """Below the journal's root."""
        return f"{self.run_id}/{self.form.folder}/{self.file_name}"

    @property
    def words(self) -> str:
        """What an error text calls the record."""
        return f"{self.form.prefix}checkpoint {self.checkpoint} part {self.part} of run {self.run_id}"


def check_run_id(run_id: str) -> None:
    """ValueError unless it is one: it becomes part of a path."""
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"run id {run_id[:64]!r} is not 32 hex digits")


ROWS: Final = RecordFormat("row", "rows", record.MAGIC, record.decode, "")
SKETCHES: Final = RecordFormat(
    "sketch", "sketches", sketch_record.MAGIC, sketch_record.decode_sketch, "sketch of "
)
FORMATS: Final[dict[RecordKind, RecordFormat[Any]]] = {"row": ROWS, "sketch": SKETCHES}


class OpenRecord(Protocol):
    """The bytes of one stored record, which stay the same while it is open."""

    @property
    def size_bytes(self) -> int:
        """Of the whole record."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer at the end of the record only."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """An open record whose lengths agree with its size."""

    stored: OpenRecord
    header: bytes
    start: int
    """Offset of the payload."""
    payload_bytes: int

    def read(self, offset: int, count: int) -> NDArray[np.float64]:
        """`count` float64 from `offset` bytes into the payload."""
        return np.frombuffer(self.stored.read(self.start + offset, 8 * count), dtype="<f8", count=count)


def open_piece(stored: OpenRecord, magic: bytes) -> Piece | None:
    """The header of an open record; None if its magic or its size is not right. The content is not checked."""
    prefix = stored.read(0, PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES or prefix[: len(magic)] != magic:
        return None
    header_bytes = int.from_bytes(prefix[8:12], "little")
    payload_bytes = int.from_bytes(prefix[12:20], "little")
    if stored.size_bytes != PREFIX_BYTES + header_bytes + payload_bytes + DIGEST_BYTES:
        return None
    header = stored.read(PREFIX_BYTES, header_bytes)
    return Piece(stored, header, PREFIX_BYTES + header_bytes, payload_bytes)


def row_layers(piece: Piece, checkpoint: int) -> int | None:
    """How many layers a row of this checkpoint has in a payload of this size; None if that is no whole number."""
    layers, rest = divmod(piece.payload_bytes, record.payload_bytes(1, checkpoint))
    return None if rest else layers


def sketch_gram_start(piece: Piece, checkpoint: int) -> tuple[int, int] | None:
    """Layers of a sketch record, and where in its payload their Gram rows start; None if header and size disagree."""
    header = types_pb2.SketchHeader()
    try:
        header.ParseFromString(piece.header)
    except DecodeError:
        return None
    layers = header.row.num_layers
    levels = header.num_levels if header.dtype == sketch_record.DIGITS else 1
    start = layers * (8 + 8 * len(record.PRODUCTS) + 1)
    values = piece.payload_bytes - start - 8 * layers * (checkpoint + 1)
    itemsize = {"<f4": 4, "<f8": 8, sketch_record.DIGITS: 8}.get(header.dtype, -1)
    if values != itemsize * levels * header.num_columns:
        return None
    return layers, start
