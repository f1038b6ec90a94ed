"""Declared views: how a tensor is divided, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from trajmon.numerics.errors import ViewError
from trajmon.numerics.views import Part, View, match_views, split

QKV = ("q", "k", "v")


def test_thirds_of_the_tensor_itself() -> None:
    parts = split(View("c_attn", None, -1, QKV), "c_attn.weight", (4, 12))
    assert parts == (
        Part("c_attn.weight.q", (4, 4), (4, 12), 1, 0),
        Part("c_attn.weight.k", (4, 4), (4, 12), 1, 4),
        Part("c_attn.weight.v", (4, 4), (4, 12), 1, 8),
    )


def test_interleaved_by_heads_with_one_extent_left_open() -> None:
    parts = split(View("qkv", (2, 3, -1, 8), 1, QKV), "qkv.weight", (24, 8))
    assert [part.shape for part in parts] == [(2, 1, 4, 8)] * 3
    assert {part.whole for part in parts} == {(2, 3, 4, 8)}
    assert [part.start for part in parts] == [0, 1, 2]


def test_parts_of_given_sizes() -> None:
    parts = split(View("qkv", (2, 4, -1, 5), 1, QKV, (2, 1, 1)), "w", (24, 5))
    assert [part.shape for part in parts] == [(2, 2, 3, 5), (2, 1, 3, 5), (2, 1, 3, 5)]
    assert [part.start for part in parts] == [0, 2, 3]
    with pytest.raises(ViewError) as caught:
        split(View("w$", None, 0, QKV, (2, 1, 2)), "a.w", (4, 12))
    assert str(caught.value) == (
        "view 'w$' on 'a.w' with shape (4, 12): sizes (2, 1, 2) do not add up to axis 0 of (4, 12)"
    )


@pytest.mark.parametrize("sizes", [(2, 1), (2, 1, 0)])
def test_bad_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ViewError) as caught:
        View("w", None, 0, QKV, sizes)
    assert str(caught.value) == f"view 'w': sizes {sizes} must be one from 1 for each of ('q', 'k', 'v')"


def test_a_bias() -> None:
    assert [part.shape for part in split(View("b", (2, 3, -1), 1, QKV), "b", (24,))] == [(2, 1, 4)] * 3


def test_lists_are_taken() -> None:
    names: Any = ["a", "b"]
    reshape: Any = [2, -1]
    assert View("w", reshape, 0, names) == View("w", (2, -1), 0, ("a", "b"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("(", None, 0, QKV),
            "view '(': not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (("w", None, 0, ("q",)), "view 'w': names ('q',) must be two or more, distinct and not empty"),
        (
            ("w", None, 0, ("q", "q")),
            "view 'w': names ('q', 'q') must be two or more, distinct and not empty",
        ),
        (("w", None, 0, ("q", "")), "view 'w': names ('q', '') must be two or more, distinct and not empty"),
        (
            ("w", (-1, 3, -1), 0, QKV),
            "view 'w': reshape (-1, 3, -1) may hold one -1 and no other negative extent",
        ),
        (("w", (3, -2), 0, QKV), "view 'w': reshape (3, -2) may hold one -1 and no other negative extent"),
    ],
)
def test_a_bad_view(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ViewError) as caught:
        View(*arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("reshape", "axis", "text"),
    [
        (None, 0, "axis 0 of (4, 12) does not divide into 3 equal parts ('q', 'k', 'v')"),
        (None, 2, "axis 2 is out of range for 2 axes of (4, 12)"),
        (None, -3, "axis -3 is out of range for 2 axes of (4, 12)"),
        ((5, -1), 0, "48 elements do not reshape to (5, -1)"),
        ((3, 15), 0, "48 elements do not reshape to (3, 15)"),
        ((0, -1), 0, "48 elements do not reshape to (0, -1)"),
    ],
)
def test_a_view_that_does_not_fit(reshape: tuple[int, ...] | None, axis: int, text: str) -> None:
    with pytest.raises(ViewError) as caught:
        split(View("w$", reshape, axis, QKV), "a.w", (4, 12))
    assert str(caught.value) == f"view 'w$' on 'a.w' with shape (4, 12): {text}"


def test_which_view_takes_which_parameter() -> None:
    weight, bias = View(r"qkv\.weight$", None, 0, QKV), View(r"qkv\.bias$", None, 0, QKV)
    names = ["0.qkv.weight", "0.qkv.bias", "0.out.weight", "1.qkv.weight"]
    assert match_views([weight, bias], names) == {
        "0.qkv.weight": weight,
        "0.qkv.bias": bias,
        "1.qkv.weight": weight,
    }


def test_an_idle_view() -> None:
    with pytest.raises(ViewError) as caught:
        match_views([View("qvk", None, 0, QKV)], ["qkv.weight", "out.weight"])
    assert str(caught.value) == "view 'qvk' matches none of the 2 parameters"


def test_two_views_of_one_parameter() -> None:
    with pytest.raises(ViewError) as caught:
        match_views([View("qkv", None, 0, QKV), View("weight", None, 0, QKV)], ["qkv.weight"])
    assert str(caught.value) == "views 'qkv' and 'weight' both match 'qkv.weight'"
