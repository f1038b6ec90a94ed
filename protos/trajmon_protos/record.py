"""The row record: the same bytes in the agent's spool, on the wire and in the server's journal.

Layout of a record, all integers little-endian, without padding:

====================  =======  =====================================================================
bytes                 type     meaning
====================  =======  =====================================================================
0..8                  8 bytes  magic ``TMROW\\x00\\x00\\x01``; the last byte is the format version
8..12                 uint32   H, length of the header
12..20                uint64   P, length of the payload
20..20+H              bytes    header, a serialised ``RowHeader`` message
20+H..20+H+P          bytes    payload, see below
last 16               bytes    BLAKE2b digest (16 bytes) of everything before it
====================  =======  =====================================================================

Payload, for L = ``num_layers`` and n = ``checkpoint`` + 1:

* Gram row, L x n float64: ``[l, s]`` is the inner product of this checkpoint with checkpoint s in layer l;
* update products, L x 4 float64, columns as in :data:`PRODUCTS`;
* layer status, L bytes, values of :class:`LayerStatus`.

The Gram row runs over *all* checkpoints recorded before, superseded ones included. The update products are
taken along the path: "previous" is ``RowHeader.previous``, the one before that is previous's previous, the
origin is checkpoint 0 and "first" is the path's second checkpoint. Products that do not exist yet are NaN.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.v1 import types_pb2

__all__ = ["MAGIC", "PRODUCTS", "LayerStatus", "Row", "decode", "encode", "payload_bytes", "read_digest"]

MAGIC = b"TMROW\x00\x00\x01"
_LENGTHS = struct.Struct("<IQ")
_PREFIX_BYTES = len(MAGIC) + _LENGTHS.size
_DIGEST_BYTES = 16

PRODUCTS = ("update_squared", "update_dot", "displacement_squared", "displacement_dot")
"""‖θ_t−θ_{t−1}‖², ⟨θ_t−θ_{t−1}, θ_{t−1}−θ_{t−2}⟩, ‖θ_t−θ_0‖², ⟨θ_t−θ_0, θ_1−θ_0⟩, of float64 differences."""


class LayerStatus(enum.IntEnum):
    """What may be believed of one layer's entries in a row."""

    EXACT = 0
    NON_FINITE = 1
    """The layer holds NaN or Inf here, or its products overflow float64; its entries are NaN."""
    SNAPSHOT_MISSING = 2
    """At least one older snapshot could not be read; the entries with it are NaN, the others exact."""


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint's inner products with all earlier ones, per layer."""

    header: types_pb2.RowHeader
    gram: NDArray[np.float64]
    """[L, n], n = checkpoint + 1."""
    products: NDArray[np.float64]
    """[L, 4], columns as in :data:`PRODUCTS`."""
    status: NDArray[np.uint8]
    """[L], values of :class:`LayerStatus`."""


def payload_bytes(num_layers: int, checkpoint: int) -> int:
    """Length of the payload of a row in bytes.

    >>> payload_bytes(num_layers=3, checkpoint=1)
    147
    """
    return num_layers * (8 * (checkpoint + 1) + 8 * len(PRODUCTS) + 1)


def encode(row: Row) -> bytes:
    """Serialise a row; arrays are converted to their wire dtypes.

    Raises ValueError if there is no layer, or if the arrays do not have the shapes that the header implies.
    """
    num_layers, n = row.header.num_layers, row.header.checkpoint + 1
    shapes = (row.gram.shape, row.products.shape, row.status.shape)
    expected = ((num_layers, n), (num_layers, len(PRODUCTS)), (num_layers,))
    if num_layers == 0:
        raise ValueError("row header announces no layers")
    if shapes != expected:
        raise ValueError(f"row arrays have shapes {shapes}, the header implies {expected}")
    header = row.header.SerializeToString(deterministic=True)
    payload = b"".join(
        (
            np.ascontiguousarray(row.gram, dtype="<f8").tobytes(),
            np.ascontiguousarray(row.products, dtype="<f8").tobytes(),
            np.ascontiguousarray(row.status, dtype="|u1").tobytes(),
        )
    )
    body = b"".join((MAGIC, _LENGTHS.pack(len(header), len(payload)), header, payload))
    return body + _digest(body)


def decode(record: bytes | memoryview) -> Row:
    """Parse and verify a record. The arrays are read-only views of `record`.

    Raises :class:`RecordError` with a machine-readable kind if anything is off.
    """
    view = memoryview(record)
    header_bytes, payload_size = _lengths(view)
    total = _PREFIX_BYTES + header_bytes + payload_size + _DIGEST_BYTES
    if len(view) != total:
        raise RecordError("wrong_length", f"record has {len(view)} bytes, its prefix announces {total}")
    if bytes(view[-_DIGEST_BYTES:]) != _digest(view[:-_DIGEST_BYTES]):
        raise RecordError("damaged", "record does not match its checksum")
    header = types_pb2.RowHeader()
    try:
        header.ParseFromString(bytes(view[_PREFIX_BYTES : _PREFIX_BYTES + header_bytes]))
    except DecodeError as error:
        raise RecordError("bad_header", "record header is not a RowHeader message") from error
    num_layers, n = header.num_layers, header.checkpoint + 1
    if num_layers == 0:
        # An empty payload would fit any checkpoint number, however large.
        raise RecordError("bad_header", "record header announces no layers")
    if payload_size != payload_bytes(num_layers, header.checkpoint):
        raise RecordError(
            "wrong_payload",
            f"payload has {payload_size} bytes; {num_layers} layers at checkpoint {header.checkpoint} need "
            f"{payload_bytes(num_layers, header.checkpoint)}",
        )
    start = _PREFIX_BYTES + header_bytes
    gram_end = start + 8 * num_layers * n
    products_end = gram_end + 8 * num_layers * len(PRODUCTS)
    return Row(
        header=header,
        gram=np.frombuffer(view[start:gram_end], dtype="<f8").reshape(num_layers, n),
        products=np.frombuffer(view[gram_end:products_end], dtype="<f8").reshape(num_layers, len(PRODUCTS)),
        status=np.frombuffer(view[products_end : start + payload_size], dtype="|u1"),
    )


def read_digest(record: bytes | memoryview) -> bytes:
    """The 16 digest bytes that a record carries, unverified."""
    return bytes(memoryview(record)[-_DIGEST_BYTES:])


def _lengths(view: memoryview) -> tuple[int, int]:
    if len(view) < _PREFIX_BYTES + _DIGEST_BYTES:
        raise RecordError("truncated", f"record has {len(view)} bytes, fewer than its fixed parts")
    if bytes(view[:7]) != MAGIC[:7]:
        raise RecordError("not_a_record", "bytes do not start with the record magic")
    if view[7] != MAGIC[7]:
        raise RecordError(
            "unknown_version", f"record format version {view[7]} is not {MAGIC[7]}; update the reader"
        )
    header_bytes, payload = _LENGTHS.unpack(view[len(MAGIC) : _PREFIX_BYTES])
    return header_bytes, payload


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
