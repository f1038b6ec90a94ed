"""Views of sharded parameters: each piece holds what the same piece of the whole view holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trajmon.errors import ShardError
from trajmon.numerics.views import View, split
from trajmon.sharding.copying import _copy
from trajmon.sharding.cutting import cut

VIEWS = [
    (View("w", None, 0, ("q", "k", "v")), (12, 5)),
    (View("w", None, 1, ("q", "k", "v")), (5, 12)),
    (View("w", (4, 3, 2, 5), 1, ("q", "k", "v")), (24, 5)),
    (View("w", (4, 3, 2), 1, ("q", "k", "v")), (24,)),
    (View("w", (2, 6, 5), 0, ("a", "b")), (12, 5)),
]


@given(st.sampled_from(VIEWS), st.data())
def test_pieces_of_a_box_are_the_boxes_of_the_pieces(
    case: tuple[View, tuple[int, ...]], data: st.DataObject
) -> None:
    view, shape = case
    whole = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    parts = split(view, "w", shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis]))
    length = data.draw(st.integers(0, shape[axis] - start))
    offsets = tuple(start if a == axis else 0 for a in range(len(shape)))
    sizes = tuple(length if a == axis else extent for a, extent in enumerate(shape))
    local = whole.narrow(axis, start, length)
    check(whole, local, parts, (shape, offsets, sizes))


@given(st.sampled_from([VIEWS[0], VIEWS[2], VIEWS[3], VIEWS[4]]), st.data())
def test_pieces_of_a_run_of_elements(case: tuple[View, tuple[int, ...]], data: st.DataObject) -> None:
    view, shape = case
    whole = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    start = data.draw(st.integers(0, whole.numel()))
    length = data.draw(st.integers(0, whole.numel() - start))
    parts = split(view, "w", shape)
    local = whole.reshape(-1)[start : start + length]
    check(whole, local, parts, ((whole.numel(),), (start,), (length,)))


def check(
    whole: torch.Tensor, local: torch.Tensor, parts: tuple[object, ...], box: tuple[tuple[int, ...], ...]
) -> None:
    pieces = cut("w", tuple(whole.shape), range(len(parts)), parts, box)  # type: ignore[arg-type] # a triple
    assert sum(piece.chunk.num_elements for piece in pieces) == local.numel()
    for piece, part in zip(pieces, parts, strict=True):
        target = torch.full(piece.chunk.sizes, torch.nan, dtype=torch.float64)
        _copy(piece, local, target)
        layer = whole.reshape(part.whole).narrow(part.axis, part.start, part.shape[part.axis])  # type: ignore[attr-defined] # a Part
        expected = layer.reshape(piece.chunk.frame)[piece.chunk.slices]
        assert np.array_equal(target.numpy(), expected.numpy())


def test_a_view_that_mixes_axes_is_refused_by_name() -> None:
    parts = split(View("w", (6, 10), 1, ("a", "b")), "w", (12, 5))
    with pytest.raises(
        ShardError, match=r"layer 'w' of shape \(12, 5\) is sharded; the view's shape \(6, 10\) mixes"
    ):
        cut("w", (12, 5), (0, 1), parts, ((12, 5), (0, 0), (6, 5)))


def test_columns_of_a_run_of_elements_are_refused_by_name() -> None:
    parts = split(View("w", None, 1, ("a", "b")), "w", (5, 12))
    with pytest.raises(ShardError, match="layer 'w' lies here as a run of elements; a view along axis 1"):
        cut("w", (5, 12), (0, 1), parts, ((60,), (7,), (20,)))
