"""The sketch record: the sketches of one checkpoint, and what is known of it from the last two snapshots alone.

The same bytes in the agent's spool, on the wire and in the server's journal. It is handed in before the checkpoint's
row: until that comes, and for the inner products that it lacks, estimates are made from sketches.

The frame is that of :mod:`trajmon_protos.framing`, with the magic ``TMSKT\\x00\\x00\\x01`` and a ``SketchHeader``
message as its header. Payload, for L = ``row.num_layers``, n = ``row.checkpoint`` + 1 and W = ``num_columns``:

* squared norms, L float64, exact;
* update products, L x 4 float64, columns as in a row; those that need snapshots beyond the last two may be NaN;
* layer status, L bytes, values of :class:`trajmon_protos.record.LayerStatus`;
* sketch Gram row, L x n float64: ``[l, s]`` is the inner product of the sketches of this checkpoint and checkpoint s
  in layer l; NaN where one of them is missing or undefined. In a part of a row, of what this part has of the layer;
* the sketches, layer after layer, W float32 or float64; in a part, ``num_levels`` x W int64: their canonical digits,
  level by level from ``first_level`` up (see :mod:`trajmon_protos.sketch`). Undefined sketches are NaN, their digits 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.framing import open_frame, pack
from trajmon_protos.record import PRODUCTS
from trajmon_protos.sketch import LEVELS, SketchSpec
from trajmon_protos.v1 import types_pb2

__all__ = [
    "DIGITS",
    "MAGIC",
    "SketchRow",
    "decode_sketch",
    "encode_sketch",
    "is_sketch",
    "spec_message",
    "spec_of",
]

MAGIC: Final = b"TMSKT\x00\x00\x01"
DIGITS: Final = "<i8"
_DTYPES: Final = ("<f4", "<f8", DIGITS)


@dataclass(frozen=True, slots=True)
class SketchRow:
    """One checkpoint's sketches."""

    header: types_pb2.SketchHeader
    norms: NDArray[np.float64]
    """[L], squared norms."""
    products: NDArray[np.float64]
    """[L, 4], as in a row."""
    status: NDArray[np.uint8]
    """[L]"""
    gram: NDArray[np.float64]
    """[L, n], inner products of sketches."""
    values: NDArray[Any]
    """[W] float32 or float64, or [num_levels, W] int64."""

    @property
    def checkpoint(self) -> int:
        """Number of the checkpoint."""
        return self.header.row.checkpoint


def spec_message(spec: SketchSpec) -> types_pb2.SketchSpec:
    """A specification for the wire."""
    return types_pb2.SketchSpec(version=spec.version, seed=spec.seed, bins=spec.bins)


def spec_of(message: types_pb2.SketchSpec) -> SketchSpec:
    """A specification off the wire. Raises :class:`trajmon_protos.errors.SketchError`."""
    return SketchSpec(bins=message.bins, seed=message.seed, version=message.version)


def is_sketch(record: bytes | memoryview) -> bool:
    """Whether the bytes claim to be a sketch record, of any version."""
    return bytes(memoryview(record)[:7]) == MAGIC[:7]


def encode_sketch(row: SketchRow) -> bytes:
    """Serialise; raises ValueError if the arrays do not have the shapes that the header implies."""
    head = row.header.row
    num_layers, n, columns = head.num_layers, head.checkpoint + 1, row.header.num_columns
    is_digits = row.header.dtype == DIGITS
    values_shape = (row.header.num_levels, columns) if is_digits else (columns,)
    shapes = tuple(a.shape for a in (row.norms, row.products, row.status, row.gram, row.values))
    expected = ((num_layers,), (num_layers, len(PRODUCTS)), (num_layers,), (num_layers, n), values_shape)
    if num_layers == 0 or shapes != expected:
        raise ValueError(f"sketch arrays have shapes {shapes}, the header implies {expected}")
    if row.header.dtype not in _DTYPES:
        raise ValueError(f"sketch dtype {row.header.dtype!r} is none of {_DTYPES}")
    payload = (
        np.ascontiguousarray(row.norms, dtype="<f8").tobytes(),
        np.ascontiguousarray(row.products, dtype="<f8").tobytes(),
        np.ascontiguousarray(row.status, dtype="|u1").tobytes(),
        np.ascontiguousarray(row.gram, dtype="<f8").tobytes(),
        np.ascontiguousarray(row.values, dtype=row.header.dtype).tobytes(),
    )
    return pack(MAGIC, row.header.SerializeToString(deterministic=True), payload)


def decode_sketch(record: bytes | memoryview) -> SketchRow:
    """Parse and verify a record. The arrays are read-only views of `record`.

    Raises :class:`RecordError` with a machine-readable kind if anything is off.
    """
    header_view, payload = open_frame(record, MAGIC)
    header = types_pb2.SketchHeader()
    try:
        header.ParseFromString(bytes(header_view))
    except DecodeError as error:
        raise RecordError("bad_header", "record header is not a SketchHeader message") from error
    num_layers, n, columns = header.row.num_layers, header.row.checkpoint + 1, header.num_columns
    if num_layers == 0:
        raise RecordError("bad_header", "record header announces no layers")
    if header.dtype not in _DTYPES:
        raise RecordError("bad_header", f"sketch dtype {header.dtype[:20]!r} is none of {', '.join(_DTYPES)}")
    is_digits = header.dtype == DIGITS
    levels = header.num_levels if is_digits else 1
    if is_digits and not (
        levels and LEVELS[0] <= header.first_level <= header.first_level + levels - 1 <= LEVELS[-1]
    ):
        raise RecordError(
            "bad_header",
            f"sketch digits of {levels} levels from {header.first_level} up; there are {LEVELS[0]} to {LEVELS[-1]}",
        )
    sizes = [8 * num_layers, 8 * num_layers * len(PRODUCTS), num_layers, 8 * num_layers * n]
    sizes.append(np.dtype(header.dtype).itemsize * levels * columns)
    if len(payload) != sum(sizes):
        raise RecordError(
            "wrong_payload",
            f"payload has {len(payload)} bytes; {num_layers} layers at checkpoint {header.row.checkpoint} with "
            f"{columns} columns of {header.dtype} need {sum(sizes)}",
        )
    pieces, at = [], 0
    for size in sizes:
        pieces.append(payload[at : at + size])
        at += size
    values = np.frombuffer(pieces[4], dtype=header.dtype)
    return SketchRow(
        header=header,
        norms=np.frombuffer(pieces[0], dtype="<f8"),
        products=np.frombuffer(pieces[1], dtype="<f8").reshape(num_layers, len(PRODUCTS)),
        status=np.frombuffer(pieces[2], dtype="|u1"),
        gram=np.frombuffer(pieces[3], dtype="<f8").reshape(num_layers, n),
        values=values.reshape(levels, columns) if is_digits else values,
    )
