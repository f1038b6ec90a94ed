"""Blocks: every element of a tensor in exactly one, and every piece in its layer's place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon.ingest.cut import Tensor, block_elements, block_of, num_blocks
from trajmon.ingest.tree import Tree, push, total
from trajmon.numerics.views import View, split


@given(
    outer=st.integers(1, 5),
    extent=st.integers(1, 6),
    inner=st.integers(1, 60),
    parts=st.integers(1, 4),
    elements=st.sampled_from([1, 2, 16, 64, 512]),
)
def test_pieces_are_the_parts(outer: int, extent: int, inner: int, parts: int, elements: int) -> None:
    shape = (outer, extent * parts, inner)
    cut = split(View("w", None, 1, tuple("abcd"[:parts])), "w", shape) if parts > 1 else ()
    tensor = Tensor("w", shape, 0, cut)
    flat = np.arange(tensor.num_elements)
    seen: list[list[int]] = [[] for _ in range(parts)]
    read: list[int] = []
    for index in range(num_blocks(tensor, elements)):
        block = block_of(tensor, index, elements)
        assert block.count <= elements
        data = flat[block.start : block.start + block.count]
        read += data.tolist()
        for piece in block.pieces:
            for place in range(piece.count):
                whole, inside = divmod(place, piece.stretch)
                seen[piece.part].append(int(data[piece.first + whole * piece.period + inside]))
    assert read == flat.tolist()
    expected = np.split(flat.reshape(shape), parts, axis=1)
    for mine, part in zip(seen, expected, strict=True):
        assert sorted(mine) == sorted(part.ravel().tolist())


@pytest.mark.parametrize("checkpoints", [1, 2, 10, 39, 40, 154, 1000, 10_000])
@pytest.mark.parametrize("memory", [64 << 20, 1 << 30, 8 << 30])
def test_blocks_are_powers_of_two_within_the_memory(checkpoints: int, memory: int) -> None:
    elements = block_elements(checkpoints, memory)
    assert elements.bit_count() == 1
    assert elements == 512 or elements * checkpoints * 8 <= memory // 16


@given(leaves=st.integers(1, 70), length=st.sampled_from([1, 2, 4, 8, 16]))
def test_spans_summed_elsewhere_give_the_same_tree(leaves: int, length: int) -> None:
    """With additions written out, the order can be seen."""

    class Written(str):
        __slots__ = ()

        def __add__(self, other: str) -> Written:
            return Written(f"({str.__add__(str.__add__(self, '+'), other)})")

    def summed(parts: list[Written]) -> Written:
        tree: Tree[Written] = Tree()
        for part in parts:
            tree = push(tree, part)
        result = total(tree)
        assert result is not None
        return result

    written = [Written(number) for number in range(leaves)]
    spans = [summed(written[first : first + length]) for first in range(0, leaves, length)]
    assert summed(spans) == summed(written)


def test_no_leaves_have_no_sum() -> None:
    empty: Tree[str] = Tree()
    assert total(empty) is None
