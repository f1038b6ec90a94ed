"""Row records: whatever is encoded comes back bit for bit; what does not fit its header is not encoded."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from trajmon_protos import record
from trajmon_protos.v1 import types_pb2


def floats_of_any_bits(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[np.float64]]:
    """Every float64 there is: NaN with any payload, infinities, subnormals, signed zeros."""
    return npst.arrays(np.uint64, shape).map(lambda bits: bits.view(np.float64))


@st.composite
def rows(draw: st.DrawFn) -> record.Row:
    num_layers, checkpoint = draw(st.integers(1, 5)), draw(st.integers(0, 9))
    optional_number = st.none() | st.floats()
    header = types_pb2.RowHeader(
        run_id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        attempt=draw(st.integers(1, 2**32 - 1)),
        checkpoint=checkpoint,
        part=draw(st.integers(0, 3)),
        num_parts=4,
        previous=draw(st.integers(0, checkpoint - 1)) if checkpoint else None,
        fingerprint=draw(st.text(max_size=40)),
        num_layers=num_layers,
        info=types_pb2.CheckpointInfo(
            step=draw(st.integers(-(2**63), 2**63 - 1)),
            epoch=draw(optional_number),
            time_unix_seconds=draw(st.floats()),
            learning_rate=draw(optional_number),
            metrics=draw(st.dictionaries(st.text(max_size=8), st.floats(), max_size=4)),
            stall_seconds=draw(st.floats()),
        ),
    )
    return record.Row(
        header=header,
        gram=draw(floats_of_any_bits((num_layers, checkpoint + 1))),
        products=draw(floats_of_any_bits((num_layers, len(record.PRODUCTS)))),
        status=draw(npst.arrays(np.uint8, (num_layers,))),
    )


@given(rows())
def test_round_trip_is_bit_for_bit(row: record.Row) -> None:
    encoded = record.encode(row)
    back = record.decode(encoded)
    assert back.header.SerializeToString(deterministic=True) == row.header.SerializeToString(
        deterministic=True
    )
    assert back.gram.tobytes() == row.gram.tobytes()
    assert back.products.tobytes() == row.products.tobytes()
    assert back.status.tobytes() == row.status.tobytes()
    assert (back.gram.shape, back.products.shape, back.status.shape) == (
        row.gram.shape,
        row.products.shape,
        row.status.shape,
    )
    assert record.encode(back) == encoded
    assert record.read_digest(encoded) == encoded[-16:]


@given(rows())
def test_payload_bytes_is_what_the_arrays_take(row: record.Row) -> None:
    taken = row.gram.nbytes + row.products.nbytes + row.status.nbytes
    assert record.payload_bytes(row.header.num_layers, row.header.checkpoint) == taken


@given(rows(), st.booleans())
def test_array_order_in_memory_does_not_show(row: record.Row, big_endian: bool) -> None:
    dtype = ">f8" if big_endian else "<f8"
    other = record.Row(
        header=row.header,
        gram=np.asfortranarray(row.gram.astype(dtype)),
        products=np.asfortranarray(row.products.astype(dtype)),
        status=row.status,
    )
    assert record.decode(record.encode(other)).gram.tobytes() == row.gram.tobytes()
    assert record.encode(other) == record.encode(row)


def small_row(num_layers: int = 2) -> record.Row:
    return record.Row(
        header=types_pb2.RowHeader(checkpoint=1, num_layers=num_layers),
        gram=np.ones((num_layers, 2)),
        products=np.ones((num_layers, 4)),
        status=np.zeros(num_layers, np.uint8),
    )


def test_decoded_arrays_are_views_that_nobody_can_write() -> None:
    encoded = record.encode(small_row())
    row = record.decode(encoded)
    assert not row.gram.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        row.gram[0, 0] = 2.0


def test_a_memoryview_decodes_like_its_bytes() -> None:
    encoded = record.encode(small_row())
    assert record.decode(memoryview(encoded)).gram.tobytes() == record.decode(encoded).gram.tobytes()


@pytest.mark.parametrize(
    ("gram", "products", "status", "shapes"),
    [
        ((2, 3), (2, 4), (2,), "((2, 3), (2, 4), (2,))"),
        ((2, 2), (2, 5), (2,), "((2, 2), (2, 5), (2,))"),
        ((2, 2), (2, 4), (3,), "((2, 2), (2, 4), (3,))"),
        ((4,), (2, 4), (2,), "((4,), (2, 4), (2,))"),
    ],
)
def test_arrays_that_do_not_fit_the_header(
    gram: tuple[int, ...], products: tuple[int, ...], status: tuple[int, ...], shapes: str
) -> None:
    row = record.Row(small_row().header, np.zeros(gram), np.zeros(products), np.zeros(status, np.uint8))
    text = f"row arrays have shapes {shapes}, the header implies ((2, 2), (2, 4), (2,))"
    with pytest.raises(ValueError, match=re.escape(text)):
        record.encode(row)


def test_a_row_without_layers() -> None:
    with pytest.raises(ValueError, match="row header announces no layers"):
        record.encode(small_row(num_layers=0))
