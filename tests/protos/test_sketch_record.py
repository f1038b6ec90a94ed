"""Sketch records: what goes in comes out, and bytes that are none are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon_protos.errors import RecordError, SketchError
from trajmon_protos.framing import pack
from trajmon_protos.record import decode
from trajmon_protos.sketch import LEVELS, SketchSpec, canonical, collapse, default_bins, pair_rate
from trajmon_protos.sketch_record import (
    DIGITS,
    MAGIC,
    SketchRow,
    decode_sketch,
    encode_sketch,
    is_sketch,
    spec_message,
    spec_of,
)
from trajmon_protos.v1 import types_pb2


def make(
    dtype: str = "<f4", layers: int = 2, checkpoint: int = 3, columns: int = 7, levels: int = 1
) -> SketchRow:
    random = np.random.default_rng(0)
    header = types_pb2.SketchHeader(
        row=types_pb2.RowHeader(run_id="a" * 32, checkpoint=checkpoint, num_layers=layers),
        spec=types_pb2.SketchSpec(version=1, seed=0, bins=5),
        num_columns=columns,
        dtype=dtype,
    )
    values: Any = random.normal(size=columns).astype(dtype if dtype != DIGITS else "<f8")
    if dtype == DIGITS:
        header.first_level, header.num_levels = -2, levels
        values = random.integers(-(2**31), 2**31, size=(levels, columns))
    return SketchRow(
        header,
        random.random(layers),
        random.normal(size=(layers, 4)),
        np.zeros(layers, np.uint8),
        random.normal(size=(layers, checkpoint + 1)),
        values,
    )


@pytest.mark.parametrize(("dtype", "levels"), [("<f4", 1), ("<f8", 1), (DIGITS, 1), (DIGITS, 3)])
def test_what_goes_in_comes_out(dtype: str, levels: int) -> None:
    row = make(dtype, levels=levels)
    record = encode_sketch(row)
    assert is_sketch(record)
    back = decode_sketch(record)
    assert back.header == row.header
    assert back.checkpoint == 3
    for name in ("norms", "products", "status", "gram", "values"):
        np.testing.assert_array_equal(getattr(back, name), getattr(row, name))
    assert encode_sketch(back) == record


def reheaded(change: Callable[[types_pb2.SketchHeader], object]) -> bytes:
    """A record whose frame is intact and whose header says something else of the same payload."""
    row = make(DIGITS, levels=2)
    header = types_pb2.SketchHeader()
    header.CopyFrom(row.header)
    change(header)
    payload = [a.tobytes() for a in (row.norms, row.products, row.status, row.gram, row.values)]
    return pack(MAGIC, header.SerializeToString(), payload)


@pytest.mark.parametrize(
    ("record", "kind", "text"),
    [
        (b"", "truncated", "0 bytes"),
        (encode_sketch(make())[:-1], "wrong_length", "its prefix announces"),
        (encode_sketch(make())[:-1] + b"\0", "damaged", "checksum"),
        (b"x" * 100, "not_a_record", "magic"),
        (pack(MAGIC[:7] + b"\x09", b"", [b""]), "unknown_version", "version 9 is not 1"),
        (pack(MAGIC, b"\xff\xff", [b""]), "bad_header", "not a SketchHeader"),
        (reheaded(lambda h: h.row.ClearField("num_layers")), "bad_header", "no layers"),
        (reheaded(lambda h: setattr(h, "dtype", "<f2")), "bad_header", "'<f2' is none of <f4, <f8, <i8"),
        (
            reheaded(lambda h: setattr(h, "first_level", 3)),
            "bad_header",
            "2 levels from 3 up; there are -5 to 3",
        ),
        (reheaded(lambda h: setattr(h, "num_levels", 0)), "bad_header", "0 levels"),
        (reheaded(lambda h: setattr(h, "num_levels", 3)), "wrong_payload", "with 7 columns of <i8 need"),
        (reheaded(lambda h: setattr(h, "num_columns", 2**62)), "wrong_payload", "columns"),
        (
            reheaded(lambda h: setattr(h.row, "checkpoint", 2**60)),
            "wrong_payload",
            "at checkpoint 1152921504606846976",
        ),
    ],
)
def test_bytes_that_are_no_record(record: bytes, kind: str, text: str) -> None:
    with pytest.raises(RecordError, match=text.replace("<", "<")) as refused:
        decode_sketch(record)
    assert refused.value.kind == kind


@given(st.data())
def test_a_flipped_bit_never_goes_unseen(data: st.DataObject) -> None:
    record = bytearray(encode_sketch(make()))
    place = data.draw(st.integers(0, 8 * len(record) - 1))
    record[place // 8] ^= 1 << place % 8
    with pytest.raises(RecordError):
        decode_sketch(bytes(record))


def test_rows_and_sketches_are_not_taken_for_each_other() -> None:
    with pytest.raises(RecordError, match="magic"):
        decode(encode_sketch(make()))


def test_arrays_that_do_not_fit_are_not_written() -> None:
    row = make()
    with pytest.raises(ValueError, match="the header implies"):
        encode_sketch(SketchRow(row.header, row.norms[:1], row.products, row.status, row.gram, row.values))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bins": 4096}, "a sketch of 4096 bins: it must be a prime number"),
        ({"bins": 1}, "1 bins"),
        ({"bins": 1_048_583}, "from 2 to 1048576"),
        ({"bins": 5, "seed": -1}, "seed -1 is not within"),
        ({"bins": 5, "seed": 1 << 64}, "not within"),
        ({"bins": 5, "version": 2}, "version 2 is not 1"),
    ],
)
def test_specifications_that_cannot_be(options: dict[str, int], text: str) -> None:
    with pytest.raises(SketchError, match=text):
        SketchSpec(**options)


def test_specifications_go_over_the_wire() -> None:
    spec = SketchSpec(bins=4093, seed=(1 << 64) - 1)
    assert spec_of(spec_message(spec)) == spec
    assert str(spec) == "version 1, 4093 bins, seed 18446744073709551615"


@given(st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=9, max_size=9), min_size=1, max_size=4))
def test_canonical_digits_stand_for_the_same_number_and_there_is_one_form(columns: list[list[int]]) -> None:
    digits = np.array(columns, dtype=np.int64).T
    form = canonical(digits)
    for before, after in zip(columns, form.T.tolist(), strict=True):
        assert sum(d << 32 * i for i, d in enumerate(before)) == sum(d << 32 * i for i, d in enumerate(after))
        assert all(-(2**31) <= d < 2**31 for d in after[:-1])
    np.testing.assert_array_equal(canonical(form), form)
    low = LEVELS[0]
    exact = [sum(d * 2 ** (32 * (i + low + 5)) for i, d in enumerate(column)) for column in columns]
    np.testing.assert_allclose(collapse(form), [float(value) * 2.0**-160 for value in exact], rtol=1e-15)


def test_overflow_of_digits_is_an_error() -> None:
    digits = np.zeros((9, 1), np.int64)
    digits[-1] = (1 << 62) + 1
    with pytest.raises(SketchError, match="overflow"):
        canonical(digits)
    with pytest.raises(SketchError, match="not \\(9, columns\\)"):
        canonical(digits[:3])


@given(st.integers(1, 5000), st.sampled_from([2, 3, 251, 1021]))
def test_pairs_that_meet_in_a_bin(numel: int, bins: int) -> None:
    sizes = np.bincount(np.arange(numel) % bins)
    assert pair_rate(numel, bins) == pytest.approx(float((sizes * (sizes - 1)).sum()) / numel**2, abs=1e-15)


def test_default_bins_stay_below_a_twentieth() -> None:
    for numels in ([10] * 5, [40_000] * 20, [10**6] * 8, [10**9]):
        bins = default_bins(numels)
        columns = sum(min(numel, bins) for numel in numels)
        assert columns * 20 <= sum(numels) or bins == 251
