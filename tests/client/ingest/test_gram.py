"""Sums over a whole series: exact, equal to the live agent's rows, each byte read once, the same for any threads."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.ingest.written import (  # noqa: TID251 # tests/client, on the path of the tests
    Memory,
    Shapes,
    Values,
    exact,
    in_memory,
    snapshots_of,
    walk,
)
from trajmon.errors import OtherModelError
from trajmon.ingest.deliver import path_indices
from trajmon.ingest.gram import gram_of_checkpoints
from trajmon.numerics import reference
from trajmon.numerics.gram import GramRow, gram_row, mark_layers
from trajmon.numerics.layout import Dtype
from trajmon.numerics.views import View
from trajmon_protos.record import LayerStatus

SMALL = 1 << 20
SHAPES: Shapes = {
    "conv.weight": ((7, 333), "float32"),
    "norm.weight": ((5,), "float32"),
    "norm.empty": ((0, 4), "float32"),
    "head.weight": ((3, 12, 90), "float64"),
    "scale": ((), "bfloat16"),
    "embed": ((1111,), "bfloat16"),
    "proj": ((1030,), "float16"),
}
VIEWS = [
    View(r"conv\.weight$", None, 1, ("a", "b", "c")),
    View(r"head\.weight$", (3, 2, 3, -1, 10), 2, ("q", "k", "v")),
]


def rows_of(readers: list[Memory], views: list[View], memory_bytes: int = SMALL) -> list[GramRow]:
    """Rows as they are handed in, from the sums of all checkpoints."""
    gram, products = gram_of_checkpoints(readers, views=views, threads=2, memory_bytes=memory_bytes)
    rows = []
    for t in range(len(readers)):
        row, its_products = gram[:, t, : t + 1].copy(), products[:, t].copy()
        status = mark_layers(row, its_products, [False] * t, path_indices(t))
        rows.append(GramRow(row, its_products, status))
    return rows


def assert_close(ours: NDArray[np.float64], true: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
    """NaN in the same places, else within 1e-13 of the scale, or of the value where the scale overflows."""
    scale = np.where(np.isnan(scale), np.abs(true), scale)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(true))
    known = ~np.isnan(true)
    assert (np.abs(ours - true)[known] <= 1e-13 * scale[known]).all()


def assert_same_rows(rows: list[GramRow], others: list[GramRow]) -> None:
    squares = np.stack([row.gram[:, -1] for row in others])
    lengths = np.sqrt(squares)
    updates = np.sqrt(np.stack([row.products[:, 0] for row in others]))
    displacements = np.sqrt(np.stack([row.products[:, 2] for row in others]))
    for t, (row, other) in enumerate(zip(rows, others, strict=True)):
        np.testing.assert_array_equal(row.status, other.status)
        assert_close(row.gram, other.gram, (lengths[: t + 1] * lengths[t]).T)
        scales = [
            updates[t] ** 2,
            updates[t] * updates[max(t - 1, 0)],
            displacements[t] ** 2,
            displacements[t] * displacements[min(t, 1)],
        ]
        assert_close(row.products, other.products, np.stack(scales, axis=1))


def live_rows(readers: list[Memory], views: list[View], exactly: bool = False) -> list[GramRow]:
    layout, snapshots = snapshots_of(readers, views)
    compute = reference.gram_row if exactly else gram_row
    return [compute(layout, snapshots[t], snapshots[:t], path_indices(t)) for t in range(len(snapshots))]


@pytest.mark.parametrize("views", [[], VIEWS], ids=["whole", "views"])
def test_rows_are_those_of_the_live_agent(views: list[View]) -> None:
    readers = in_memory(walk(SHAPES, 9), SHAPES)
    assert_same_rows(rows_of(readers, views), live_rows(readers, views))


@pytest.mark.parametrize("views", [[], VIEWS], ids=["whole", "views"])
def test_rows_are_those_of_rational_arithmetic(views: list[View]) -> None:
    readers = in_memory(walk(SHAPES, 4), SHAPES)
    assert_same_rows(rows_of(readers, views), live_rows(readers, views, exactly=True))


def test_products_of_tiny_updates_come_from_differences() -> None:
    """Updates of 1e-9 of the weights: from Gram entries, no digit of their products would be right."""
    random = np.random.default_rng(1)
    shapes: Shapes = {"w": ((3000,), "float64")}
    start = random.standard_normal(3000)
    points: list[Values] = [{"w": start + 1e-9 * t * random.standard_normal(3000)} for t in range(4)]
    readers = in_memory(points, shapes)
    _, products = gram_of_checkpoints(readers)
    exactly = [[Fraction(float(x)) for x in exact(reader, "w")] for reader in readers]
    for t in range(1, 4):
        update = [x - y for x, y in zip(exactly[t], exactly[t - 1], strict=True)]
        assert products[0, t, 0] == pytest.approx(float(sum(x * x for x in update)), rel=1e-13)


def test_each_byte_is_read_once() -> None:
    readers = in_memory(walk(SHAPES, 5), SHAPES)
    gram_of_checkpoints(readers, views=VIEWS, threads=3, memory_bytes=SMALL)
    for reader in readers:
        for name, reads in reader.reads.items():
            assert (reads == 1).all(), name


def test_the_same_bits_for_any_number_of_threads() -> None:
    readers = in_memory(walk({"w": ((40_000,), "float32")}, 6), {"w": ((40_000,), "float32")})
    one = gram_of_checkpoints(readers, threads=1, memory_bytes=SMALL)
    for threads in (2, 5):
        other = gram_of_checkpoints(readers, threads=threads, memory_bytes=SMALL)
        assert [a.tobytes() for a in other] == [a.tobytes() for a in one]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(dtype: Dtype, value: float) -> None:
    shapes: Shapes = {"bad": ((1300,), dtype), "good": ((20,), dtype)}
    points = walk(shapes, 6)
    points[2]["bad"][1200] = value
    readers = in_memory(points, shapes)
    rows = rows_of(readers, [])
    assert_same_rows(rows, live_rows(readers, []))
    assert [row.status[0] for row in rows] == [0, 0, LayerStatus.NON_FINITE, 0, 0, 0]
    assert np.isnan(rows[4].gram[0]).tolist() == [False, False, True, False, False]
    assert all(np.isfinite(row.gram[1]).all() for row in rows)


def test_overflow() -> None:
    """Squares beyond float64; and differences beyond it of points that are not."""
    shapes: Shapes = {"a": ((600,), "float64"), "b": ((2,), "float64")}
    points = walk(shapes, 4)
    points[1]["a"][:] = 1e160
    points[2]["b"][:] = 0.9e154
    points[3]["b"][:] = -0.9e154
    readers = in_memory(points, shapes)
    rows = rows_of(readers, [])
    assert_same_rows(rows, live_rows(readers, [], exactly=True))
    assert [row.status.tolist() for row in rows] == [[0, 0], [1, 0], [1, 0], [0, 1]]


def test_half_precision_to_its_last_bit() -> None:
    """Every finite float16, subnormals and signed zeros included."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    decoded = np.array([float(value) for value in bits.view(np.float16)])
    values = decoded[np.isfinite(decoded)]
    shapes: Shapes = {"w": (values.shape, "float16")}
    weights = np.array([float(index % 7) for index in range(len(values))])
    readers = in_memory([{"w": values}, {"w": weights}], shapes)
    gram, _ = gram_of_checkpoints(readers)
    assert gram[0, 1, 0] == pytest.approx(
        float(sum(Fraction(a) * Fraction(b) for a, b in zip(values, weights, strict=True))), rel=1e-13
    )
    assert gram[0, 0, 0] == pytest.approx(float(sum(Fraction(a) ** 2 for a in values)), rel=1e-13)


def test_a_long_block_of_equal_elements() -> None:
    """Every plain addition of such a sum rounds the same way."""
    value, count = float(np.float32(1 / 3)), (1 << 20) - 5
    shapes: Shapes = {"w": ((count,), "float32")}
    readers = in_memory([{"w": np.full(count, value)}, {"w": np.full(count, -value)}], shapes)
    gram, products = gram_of_checkpoints(readers)
    square = Fraction(value) ** 2 * count
    for ours, true in ((gram[0, 0, 0], square), (gram[0, 1, 0], -square), (products[0, 1, 0], 4 * square)):
        assert abs(Fraction(float(ours)) - true) <= Fraction(2e-14) * abs(true)


def test_checkpoints_of_several_dtypes() -> None:
    """A revision that was stored in bfloat16 among float32 ones: each is read as it is."""
    dtypes: list[Dtype] = ["float32", "bfloat16", "float16"]
    points = walk({"w": ((900,), "float32")}, 3)
    readers = [Memory(values, {"w": dtype}) for values, dtype in zip(points, dtypes, strict=True)]
    gram, products = gram_of_checkpoints(readers)
    exactly = np.stack([exact(reader, "w") for reader in readers])
    np.testing.assert_allclose(gram[0], exactly @ exactly.T, rtol=1e-12)
    np.testing.assert_allclose(products[0, 2, 0], ((exactly[2] - exactly[1]) ** 2).sum(), rtol=1e-12)


def test_refused_before_anything_is_read() -> None:
    shapes: Shapes = {"w": ((4, 5), "float32")}
    first, second = in_memory(walk(shapes, 2), shapes)
    other = in_memory(walk({"w": ((5, 4), "float32")}, 1), {"w": ((5, 4), "float32")})[0]
    with pytest.raises(OtherModelError, match=r"^checkpoint 2 has 'w' with shape \(5, 4\), not \(4, 5\)$"):
        gram_of_checkpoints([first, second, other])
    lacking = in_memory(walk({"v": ((4, 5), "float32")}, 1), {"v": ((4, 5), "float32")})[0]
    with pytest.raises(OtherModelError, match=r"^checkpoint 1 has no tensor 'w'$"):
        gram_of_checkpoints([first, lacking])
    assert not first.reads["w"].any()
    with pytest.raises(ValueError, match=r"^there are no checkpoints$"):
        gram_of_checkpoints([])
    with pytest.raises(ValueError, match=r"^threads is 0, it must be at least 1$"):
        gram_of_checkpoints([first], threads=0)


@settings(max_examples=30)
@given(
    count=st.integers(1, 11),
    sizes=st.lists(st.integers(0, 1800), min_size=1, max_size=3),
    dtype=st.sampled_from(["float64", "float32", "bfloat16", "float16"]),
    seed=st.integers(0, 1000),
)
def test_any_series_gives_the_live_rows(count: int, sizes: list[int], dtype: Dtype, seed: int) -> None:
    shapes: Shapes = {f"w{index}": ((size,), dtype) for index, size in enumerate(sizes)}
    readers = in_memory(walk(shapes, count, seed), shapes)
    assert_same_rows(rows_of(readers, []), live_rows(readers, []))
