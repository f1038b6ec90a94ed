"""Encodings, each against a reader that knows nothing of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from support.web import read_float32
from trajmon_server.web.map_answers import float32_pieces
from trajmon_server.web.pieces import PIECE_BYTES, finite, json_bytes, json_with_arrays

numbers = st.floats(width=64) | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1e308, -0.0])


@given(arrays(np.float64, array_shapes(min_dims=1, max_dims=2, max_side=6, min_side=0), elements=numbers))
def test_json_arrays_read_back_as_they_were(array: np.ndarray) -> None:
    text = b"".join(json_with_arrays({"a": 1}, {"x": array, "y": np.arange(3)}))
    told = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (told["a"], told["y"]) == (1, [0, 1, 2])
    back = np.array(told["x"], dtype=np.float64).reshape(array.shape)
    np.testing.assert_array_equal(back, np.where(np.isfinite(array), array, np.nan))


def test_large_json_comes_in_pieces() -> None:
    array = np.random.default_rng(0).random((300, 300))
    pieces = list(json_with_arrays({}, {"map": array}))
    assert len(pieces) > 10
    assert max(map(len, pieces)) <= PIECE_BYTES
    np.testing.assert_array_equal(json.loads(b"".join(pieces))["map"], array)


@given(
    st.integers(0, 5).flatmap(
        lambda n: arrays(np.float64, (n, n), elements=st.floats(-1, 1) | st.just(math.nan))
    ),
    st.booleans(),
    st.text(max_size=9),
)
def test_float32_reads_back(array: np.ndarray, has_error: bool, word: str) -> None:
    head = {"shape": list(array.shape), "has_error": has_error, "word": word}
    body = b"".join(float32_pieces(head, [array, 2 * array] if has_error else [array]))
    told, blocks = read_float32(body)
    assert told == head
    np.testing.assert_array_equal(blocks[0], array.astype(np.float32))
    if has_error:
        np.testing.assert_array_equal(blocks[1], (2 * array).astype(np.float32))


def test_undefined_numbers_are_null() -> None:
    assert [finite(value) for value in (1.5, math.nan, math.inf, -math.inf, None)] == [
        1.5,
        None,
        None,
        None,
        None,
    ]
    with pytest.raises(ValueError):
        json_bytes({"x": math.nan})
