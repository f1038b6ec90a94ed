"""The kinds of record that the journal keeps: where their files lie, and how a piece of one is found.

    rows/<checkpoint:08d>.<part:04d>.row            row records
    sketches/<checkpoint:08d>.<part:04d>.sketch     sketch records

Part 0 is the record of the row as a whole, p + 1 that of its part p.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos import record, sketch_record
from trajmon_protos.errors import RecordError
from trajmon_protos.framing import DIGEST_BYTES, PREFIX_BYTES
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.base import RecordKind, RowKey

__all__ = [
    "FORMATS",
    "ROWS",
    "SKETCHES",
    "Piece",
    "RecordFormat",
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

    def file_name(self, checkpoint: int, part: int) -> str:
        """Of a record; ValueError for a key out of range."""
        if not 0 <= checkpoint < 10**8 or not 0 <= part < 10**4:
            raise ValueError(f"checkpoint {checkpoint} part {part} is out of range: 0..99999999 and 0..9999")
        return f"{checkpoint:08d}.{part:04d}.{self.kind}"

    def in_words(self, run_id: str, checkpoint: int, part: int) -> str:
        """What an error text calls a record."""
        return f"{self.prefix}checkpoint {checkpoint} part {part} of run {run_id}"

    def key(self, file_name: str, size_bytes: int = 0) -> RowKey | None:
        """Of the record that the file holds; None if it is of no such record."""
        match = _NAME.fullmatch(file_name)
        if match is None or match[3] != self.kind:
            return None
        return RowKey(int(match[1]), int(match[2]), size_bytes)

    def problem(self, path: Path) -> str:
        """What is wrong with a record that was set aside."""
        try:
            self.decode(path.read_bytes())
        except RecordError as error:
            return f"{error.kind}: {error}"
        return "intact now: it may be put back"


ROWS: Final = RecordFormat("row", "rows", record.MAGIC, record.decode, "")
SKETCHES: Final = RecordFormat(
    "sketch", "sketches", sketch_record.MAGIC, sketch_record.decode_sketch, "sketch of "
)
FORMATS: Final[dict[RecordKind, RecordFormat[Any]]] = {"row": ROWS, "sketch": SKETCHES}


@dataclass(frozen=True, slots=True)
class Piece:
    """An open record whose lengths agree with its size."""

    fd: int
    header: bytes
    start: int
    """Offset of the payload."""
    payload_bytes: int

    def read(self, offset: int, count: int) -> NDArray[np.float64]:
        """`count` float64 from `offset` bytes into the payload."""
        return np.frombuffer(os.pread(self.fd, 8 * count, self.start + offset), dtype="<f8")


def open_piece(fd: int, magic: bytes) -> Piece | None:
    """The header of an open record file; None if its magic or its size is not right. The content is not checked."""
    prefix = os.pread(fd, PREFIX_BYTES, 0)
    if len(prefix) < PREFIX_BYTES or prefix[: len(magic)] != magic:
        return None
    header_bytes = int.from_bytes(prefix[8:12], "little")
    payload_bytes = int.from_bytes(prefix[12:20], "little")
    if os.fstat(fd).st_size != PREFIX_BYTES + header_bytes + payload_bytes + DIGEST_BYTES:
        return None
    header = os.pread(fd, header_bytes, PREFIX_BYTES)
    return Piece(fd, header, PREFIX_BYTES + header_bytes, payload_bytes)


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
