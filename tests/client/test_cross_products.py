"""Exact maps across runs, against rational arithmetic; and what follows from a map."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon.cross import products
from trajmon.cross.products import Vectors, cross_products
from trajmon.cross.result import CrossResult, result_of
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon.numerics.reference import elements, pack

Floats = NDArray[np.float64]
SIZES = (700, 1, 33)


def layout_of(*dtypes: Dtype) -> Layout:
    layers = tuple(Layer(f"l{i}", (n,), d) for i, (n, d) in enumerate(zip(SIZES, dtypes, strict=True)))
    return Layout(layers, (Group("network", (0, 1, 2)),))


def snapshots(layout: Layout, points: Floats) -> list[NDArray[np.uint8]]:
    cuts = np.cumsum(SIZES)[:-1]
    return [pack(layout, np.split(point, cuts)) for point in points]


def exactly(layout: Layout, snapshot: NDArray[np.uint8], layers: tuple[int, ...]) -> list[Fraction]:
    return [
        Fraction(value)
        for layer in layers
        for value in elements(layout.layers[layer], layout.offsets_bytes[layer], snapshot)
    ]


def truth(a: Vectors, b: Vectors, layers: tuple[int, ...]) -> tuple[Floats, Floats]:
    sides = []
    for side in (a, b):
        rows = [exactly(side.layout, snapshot, layers) for snapshot in side.snapshots]
        if side.origin is not None:
            origin = exactly(side.layout, side.origin, layers)
            rows = [[x - o for x, o in zip(row, origin, strict=True)] for row in rows]
        sides.append(rows)

    def dot(x: list[Fraction], y: list[Fraction]) -> Fraction:
        return sum((p * q for p, q in zip(x, y, strict=True)), Fraction(0))

    cosines = np.full((len(sides[0]), len(sides[1])), np.nan)
    distances = np.empty(cosines.shape)
    for t, x in enumerate(sides[0]):
        for u, y in enumerate(sides[1]):
            lengths = float(dot(x, x)) ** 0.5 * float(dot(y, y)) ** 0.5
            if lengths:
                cosines[t, u] = float(dot(x, y)) / lengths
            gap = [p - q for p, q in zip(x, y, strict=True)]
            distances[t, u] = float(dot(gap, gap)) ** 0.5
    return cosines, distances


@pytest.mark.parametrize("about", [False, True])
@pytest.mark.parametrize("layers", [(0, 1, 2), (2,)])
@pytest.mark.parametrize(
    "dtypes",
    [
        (("float32", "float64", "bfloat16"), ("float32", "float64", "bfloat16")),
        (("float16", "bfloat16", "float32"), ("float32", "float64", "float64")),
    ],
)
def test_cosines_and_distances(
    dtypes: Any, layers: tuple[int, ...], about: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_LONGEST", 300)
    rng = np.random.default_rng(1)
    ours, theirs = (layout_of(*each) for each in dtypes)
    start = rng.standard_normal(sum(SIZES))
    # Far apart, and so near that inner products lose every digit of the distance.
    far = start + rng.standard_normal((4, start.size))
    near = start + 1e-7 * rng.standard_normal((2, start.size))
    points = np.concatenate([start[None], far, near, start[None]])
    stored = snapshots(ours, points), snapshots(theirs, points[::-1] + 0.0)
    a, b = (
        Vectors(layout, each, each[0] if about else None)
        for layout, each in zip((ours, theirs), stored, strict=True)
    )
    cosines, distances = truth(a, b, layers)
    known = cross_products(a, b, layers)
    np.testing.assert_allclose(known.cosines(), cosines, atol=1e-11)
    np.testing.assert_allclose(known.distances(), distances, rtol=1e-9, atol=0)
    assert (distances[distances > 0] < 1e-2).any() or layers == (2,) or dtypes[0] != dtypes[1]


def test_equal_vectors_are_at_no_distance() -> None:
    layout = layout_of("float32", "float32", "float32")
    stored = snapshots(layout, np.random.default_rng(2).standard_normal((3, sum(SIZES))))
    known = cross_products(Vectors(layout, stored), Vectors(layout, stored), (0, 1, 2))
    assert np.diagonal(known.distances()).tolist() == [0.0] * 3
    assert np.diagonal(known.cosines()).tolist() == [1.0] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_its_own_entries_undefined(bad: float) -> None:
    layout = layout_of("float64", "float64", "float64")
    points = np.random.default_rng(3).standard_normal((3, sum(SIZES)))
    points[1, 5] = bad
    points[2] = 0.0
    a = Vectors(layout, snapshots(layout, points))
    b = Vectors(layout, snapshots(layout, points[[0, 0]]))
    known = cross_products(a, b, (0, 1, 2))
    assert np.isnan(known.cosines()).tolist() == [[False, False], [True, True], [True, True]]
    assert np.isnan(known.distances()).tolist() == [[False, False], [True, True], [False, False]]
    assert not np.isnan(cross_products(a, b, (2,)).distances()).any()


def arrays(t: int = 2, u: int = 3) -> dict[str, NDArray[Any]]:
    square = np.ones((t, u))
    return {
        "map": square, "error": 0.1 * square, "distance": square, "distance_error": 0.1 * square,
        "checkpoint": np.arange(t), "step": np.arange(t), "other_checkpoint": np.arange(u), "other_step": np.arange(u),
    }  # fmt: skip


def result(**changed: Any) -> CrossResult:
    return result_of(arrays() | changed, "a", "b", "network", False)


def test_the_nearest_checkpoint_and_those_as_near_within_the_error() -> None:
    known = result(
        distance=np.array([[3.0, 1.0, 1.1], [np.nan] * 3]),
        distance_error=np.array([[0.1, 0.1, 0.1], [np.nan] * 3]),
        other_checkpoint=np.array([4, 7, 9]),
    ).nearest()
    assert (known.checkpoint.tolist(), known.first.tolist(), known.last.tolist()) == (
        [7, -1],
        [7, -1],
        [9, -1],
    )
    assert known.distance[0] == 1.0
    assert np.isnan(known.distance[1])
    alone = result(distance=np.array([[3.0, 1.0, 1.1]] * 2), distance_error=np.zeros((2, 3))).nearest()
    assert (alone.first.tolist(), alone.last.tolist()) == ([1, 1], [1, 1])


def test_checkpoints_of_the_same_number() -> None:
    rows, columns = result(checkpoint=np.array([2, 5]), other_checkpoint=np.array([0, 2, 4])).same_number()
    assert (rows.tolist(), columns.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"map": np.ones((3, 2))}, "the array map is float64"),
        ({"error": np.ones((2, 3), dtype=np.int64)}, "the array error is int64"),
        ({"step": np.arange(3)}, "the array step"),
        ({"other_checkpoint": np.array([0, 2, 2])}, "other_checkpoint does not ascend"),
    ],
)
def test_arrays_that_make_no_map(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        result(**changed)


@pytest.mark.parametrize("name", list(arrays()))
def test_an_array_that_is_missing(name: str) -> None:
    known = arrays()
    del known[name]
    with pytest.raises(ValueError, match=f"the array {name} is missing"):
        result_of(known, "a", "b", "network", False)
