"""The row record: the same bytes in the agent's spool, on the wire and in the server's journal.

The frame is that of :mod:`trajmon_protos.framing`, with the magic ``TMROW\\x00\\x00\\x01`` and a ``RowHeader`` message
as its header.

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
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from trajmon_protos.errors import RecordError
from trajmon_protos.framing import open_frame, pack, read_digest
from trajmon_protos.v1 import types_pb2

__all__ = ["MAGIC", "PRODUCTS", "LayerStatus", "Row", "decode", "encode", "payload_bytes", "read_digest"]

MAGIC = b"TMROW\x00\x00\x01"

PRODUCTS = ("update_squared", "update_dot", "displacement_squared", "displacement_dot")
"""‖θ_t−θ_{t−1}‖², ⟨θ_t−θ_{t−1}, θ_{t−1}−θ_{t−2}⟩, ‖θ_t−θ_0‖², ⟨θ_t−θ_0, θ_1−θ_0⟩, of float64 differences."""


class LayerStatus(enum.IntEnum):
    """What may be believed of one layer's entries in a row."""

    EXACT = 0
    NON_FINITE = 1
    """The layer holds NaN or Inf here, or its products overflow float64; its entries are NaN."""
    SNAPSHOT_MISSING = 2
    """At least one older snapshot could not be read; the entries with it are NaN, the others exact."""
    NOT_KEPT = 3
    """Some older snapshots were not kept, as was planned, and others may be missing; the entries with them are NaN, the
    others exact."""


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
    payload = (
        np.ascontiguousarray(row.gram, dtype="<f8").tobytes(),
        np.ascontiguousarray(row.products, dtype="<f8").tobytes(),
        np.ascontiguousarray(row.status, dtype="|u1").tobytes(),
    )
    return pack(MAGIC, row.header.SerializeToString(deterministic=True), payload)


def decode(record: bytes | memoryview) -> Row:
    """Parse and verify a record. The arrays are read-only views of `record`.

    Raises :class:`RecordError` with a machine-readable kind if anything is off.
    """
    header_view, payload = open_frame(record, MAGIC)
    header = types_pb2.RowHeader()
    try:
        header.ParseFromString(bytes(header_view))
    except DecodeError as error:
        raise RecordError("bad_header", "record header is not a RowHeader message") from error
    num_layers, n = header.num_layers, header.checkpoint + 1
    if num_layers == 0:
        # An empty payload would fit any checkpoint number, however large.
        raise RecordError("bad_header", "record header announces no layers")
    if len(payload) != payload_bytes(num_layers, header.checkpoint):
        raise RecordError(
            "wrong_payload",
            f"payload has {len(payload)} bytes; {num_layers} layers at checkpoint {header.checkpoint} need "
            f"{payload_bytes(num_layers, header.checkpoint)}",
        )
    gram_end = 8 * num_layers * n
    products_end = gram_end + 8 * num_layers * len(PRODUCTS)
    return Row(
        header=header,
        gram=np.frombuffer(payload[:gram_end], dtype="<f8").reshape(num_layers, n),
        products=np.frombuffer(payload[gram_end:products_end], dtype="<f8").reshape(
            num_layers, len(PRODUCTS)
        ),
        status=np.frombuffer(payload[products_end:], dtype="|u1"),
    )
