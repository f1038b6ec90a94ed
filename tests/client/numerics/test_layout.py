"""The layout: places in a snapshot, the fingerprint, JSON there and back, and what is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon.numerics.errors import LayoutError
from trajmon.numerics.layout import ITEM_BYTES, Dtype, Group, Layer, Layout

DTYPES: list[Dtype] = ["float64", "float32", "bfloat16", "float16"]


def layout_of(*layers: Layer) -> Layout:
    return Layout(layers, (Group("network", tuple(range(len(layers)))),))


layers_strategy = st.lists(
    st.builds(
        Layer,
        name=st.text(min_size=1, max_size=8),
        shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        dtype=st.sampled_from(DTYPES),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda layer: layer.name,
)


@given(layers_strategy)
def test_layers_lie_aligned_in_order_and_apart(layers: list[Layer]) -> None:
    layout = layout_of(*layers)
    end = 0
    for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True):
        assert offset % 64 == 0
        assert end <= offset < end + 64
        end = offset + layer.num_parameters * ITEM_BYTES[layer.dtype]
    assert layout.nbytes % 64 == 0
    assert end <= layout.nbytes < end + 64
    assert layout.num_parameters == sum(layer.num_parameters for layer in layers)


@given(layers_strategy)
def test_json_there_and_back(layers: list[Layer]) -> None:
    layout = layout_of(*layers)
    read = Layout.from_json(json.loads(json.dumps(layout.to_json())))
    assert read == layout
    assert read.fingerprint == layout.fingerprint


@given(layers_strategy, layers_strategy)
def test_the_fingerprint_tells_layers_apart(a: list[Layer], b: list[Layer]) -> None:
    assert (layout_of(*a).fingerprint == layout_of(*b).fingerprint) == (a == b)


def test_the_fingerprint_is_pinned() -> None:
    layout = layout_of(Layer("fc.weight", (10, 64), "float32"), Layer("fc.bias", (10,), "float32"))
    assert layout.fingerprint == "4aa4ffa8d2448484a1cb64f87c0d6f63"


def test_groups_do_not_enter_the_fingerprint() -> None:
    layers = (Layer("a", (1,), "float32"), Layer("b", (1,), "float32"))
    network = Group("network", (0, 1))
    assert Layout(layers, (network,)).fingerprint == Layout(layers, (network, Group("x", (1,)))).fingerprint


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "text"),
    [
        ("", (1,), "float32", "a layer has an empty name"),
        (
            "w",
            (1,),
            "int8",
            "layer 'w' has dtype 'int8', which is none of float64, float32, bfloat16, float16",
        ),
        ("w", (2, -1), "float32", "layer 'w' has shape (2, -1) with a negative extent"),
    ],
)
def test_a_bad_layer(name: str, shape: tuple[int, ...], dtype: Any, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Layer(name, shape, dtype)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "layers", "text"),
    [
        ("", (0,), "a group has an empty name"),
        ("g", (), "group 'g' holds no layers"),
        ("g", (1, 0), "layers of group 'g' are not ascending positions from 0"),
        ("g", (1, 1), "layers of group 'g' are not ascending positions from 0"),
        ("g", (-1,), "layers of group 'g' are not ascending positions from 0"),
    ],
)
def test_a_bad_group(name: str, layers: tuple[int, ...], text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Group(name, layers)
    assert str(caught.value) == text


W, B = Layer("w", (2,), "float32"), Layer("b", (2,), "float32")
NETWORK = Group("network", (0, 1))


@pytest.mark.parametrize(
    ("layers", "groups", "text"),
    [
        ((), (), "a layout needs at least one layer"),
        ((W, W), (NETWORK,), "two layers are named 'w'"),
        ((W, B), (NETWORK, NETWORK), "two groups are named 'network'"),
        ((W, B), (), "the first group must be 'network' with all 2 layers"),
        ((W, B), (Group("network", (0,)),), "the first group must be 'network' with all 2 layers"),
        ((W, B), (Group("g", (0,)), NETWORK), "the first group must be 'network' with all 2 layers"),
        ((W, B), (NETWORK, Group("g", (2,))), "group 'g' names layer 2; there are 2 layers"),
        (
            (W, B),
            (NETWORK, *(Group(f"g{index}", (0,)) for index in range(64))),
            "65 groups are more than 64; declare fewer",
        ),
    ],
)
def test_a_bad_layout(layers: tuple[Layer, ...], groups: tuple[Group, ...], text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout(layers, groups)
    assert str(caught.value) == text


GOOD = Layout((W, B), (NETWORK, Group("g", (1,)))).to_json()


def changed(*path: str | int, to: Any) -> Any:
    data: Any = copy.deepcopy(GOOD)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "layout is NoneType, not an object"),
        ([], "layout is list, not an object"),
        ({}, "layout has no list 'layers'"),
        (changed("groups", to={}), "layout has no list 'groups'"),
        (changed("layers", 1, to="b"), "layers[1] is str, not an object"),
        (changed("layers", 1, "name", to=7), "layers[1] has no text 'name'"),
        (changed("layers", 0, "shape", to=[2.0]), "layers[0] has no list of whole numbers 'shape'"),
        (changed("layers", 0, "shape", to=[True]), "layers[0] has no list of whole numbers 'shape'"),
        (changed("groups", 1, "layers", to="1"), "groups[1] has no list of whole numbers 'layers'"),
        (
            changed("layers", 0, "dtype", to="float8"),
            "dtype 'float8' is none of float64, float32, bfloat16, float16",
        ),
        (changed("fingerprint", to=None), "layout has no text 'fingerprint'"),
        (
            changed("layers", 0, "shape", to=[3]),
            f"layout states fingerprint {GOOD['fingerprint']!r}, its layers have "
            f"{layout_of(Layer('w', (3,), 'float32'), B).fingerprint!r}",
        ),
    ],
)
def test_bad_json(data: Any, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout.from_json(data)
    assert str(caught.value) == text
