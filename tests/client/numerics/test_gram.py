"""The Gram row equals exact rational arithmetic, for every dtype, hard inputs included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon.numerics import reference
from trajmon.numerics.gram import GramRow, PathIndices, compile_kernels, gram_row
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon_protos.record import LayerStatus

DTYPES: list[Dtype] = ["float64", "float32", "bfloat16", "float16"]
KINDS = ["normal", "wide", "cancelling", "subnormal", "huge", "alternating", "zero"]
# Largest and smallest normal exponents; for float64 those whose squares are still in its valid range.
EXPONENTS = {"float64": (-480, 480), "float32": (-126, 126), "bfloat16": (-126, 126), "float16": (-14, 14)}
SUBNORMAL = {"float64": 2.0**-480, "float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}


def layout_of(*layers: tuple[int, Dtype]) -> Layout:
    made = tuple(Layer(f"layer{index}", (size,), dtype) for index, (size, dtype) in enumerate(layers))
    return Layout(made, (Group("network", tuple(range(len(made)))),))


def hard_numbers(kind: str, size: int, dtype: Dtype, random: np.random.Generator) -> NDArray[np.float64]:
    low, high = EXPONENTS[dtype]
    numbers: NDArray[Any] = random.standard_normal(size)
    signs = 1.0 - 2.0 * (np.arange(size) % 2)
    if kind == "wide":
        numbers = np.ldexp(random.uniform(1, 2, size), random.integers(low, high + 1, size)) * signs
    elif kind == "cancelling":
        numbers = np.repeat(random.standard_normal(size // 2 + 1), 2)[:size] * signs
    elif kind == "subnormal":
        numbers = random.integers(-3, 4, size) * SUBNORMAL[dtype]
    elif kind == "huge" and size:
        numbers[random.integers(size)] = 2.0**high
    elif kind == "alternating":
        numbers = 2.0 ** (high // 2) * signs
    elif kind == "zero":
        numbers = np.zeros(size)
    return numbers


def norms(layout: Layout, snapshot: NDArray[np.uint8]) -> list[float]:
    """‖θ‖ of each layer."""
    result = []
    for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True):
        values = reference.elements(layer, offset, snapshot)
        result.append(math.sqrt(sum((Fraction(value) ** 2 for value in values), Fraction(0))))
    return result


def assert_equal(fast: GramRow, exact: GramRow, bounds: NDArray[np.float64]) -> None:
    """Same status, NaN in the same places, entries within `bounds` [L, n]."""
    np.testing.assert_array_equal(fast.status, exact.status)
    np.testing.assert_array_equal(np.isnan(fast.gram), np.isnan(exact.gram))
    np.testing.assert_array_equal(np.isnan(fast.products), np.isnan(exact.products))
    assert (np.nan_to_num(np.abs(fast.gram - exact.gram)) <= bounds).all()


def assert_same_bits(a: GramRow, b: GramRow) -> None:
    assert a.gram.tobytes() == b.gram.tobytes()
    assert a.products.tobytes() == b.products.tobytes()
    assert a.status.tobytes() == b.status.tobytes()


@settings(max_examples=40)
@given(
    cases=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 7, 64, 500]),
            st.sampled_from(DTYPES),
            st.lists(st.sampled_from(KINDS), min_size=7, max_size=7),
        ),
        min_size=1,
        max_size=6,
    ),
    num_stored=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_rows_of_hard_numbers(cases: list[tuple[int, Dtype, list[str]]], num_stored: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    layout = layout_of(*((size, dtype) for size, dtype, _ in cases))
    snapshots = [
        reference.pack(
            layout, [hard_numbers(kinds[index], size, dtype, random) for size, dtype, kinds in cases]
        )
        for index in range(num_stored + 1)
    ]
    *stored, new = snapshots
    path = path_through(num_stored)
    fast = gram_row(layout, new, stored, path)
    exact = reference.gram_row(layout, new, stored, path)
    lengths = np.array([norms(layout, snapshot) for snapshot in snapshots])
    assert_equal(fast, exact, 1e-13 * lengths.T * lengths[-1][:, None])
    # Differences round once each: the bound is in lengths of what was subtracted.
    scale = (lengths.max(axis=0) * 2) ** 2
    assert (np.nan_to_num(np.abs(fast.products - exact.products)) <= 1e-13 * scale[:, None]).all()
    assert_same_bits(fast, gram_row(layout, new, stored, path, threads=2))


def path_through(num_stored: int) -> PathIndices:
    if num_stored == 0:
        return PathIndices(None, None, None)
    if num_stored == 1:
        return PathIndices(0, None, None)
    return PathIndices(num_stored - 1, num_stored - 2, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [4095, 4096, 4097, 8191, 8193])
@pytest.mark.parametrize("kind", ["wide", "cancelling", "huge"])
def test_sizes_about_a_block(size: int, dtype: Dtype, kind: str) -> None:
    random = np.random.default_rng(size)
    layout = layout_of((3, dtype), (size, dtype), (2, dtype))
    *stored, new = (
        reference.pack(layout, [hard_numbers(kind, count, dtype, random) for count in (3, size, 2)])
        for _ in range(3)
    )
    fast = gram_row(layout, new, stored, path_through(2))
    exact = reference.gram_row(layout, new, stored, path_through(2))
    lengths = np.array([norms(layout, snapshot) for snapshot in [*stored, new]])
    assert_equal(fast, exact, 1e-13 * lengths.T * lengths[-1][:, None])


def exact_sum(numbers: NDArray[np.float64]) -> float:
    return math.fsum(numbers.tolist())


@pytest.mark.parametrize("kind", ["normal", "cancelling", "huge"])
def test_a_layer_of_several_tasks_and_what_stands_beside_it(kind: str) -> None:
    random = np.random.default_rng(3)
    sizes = (5, (1 << 18) + 1, 0, 131_072, 77)
    layout = layout_of(*((size, "float32") for size in sizes))
    values = [[hard_numbers(kind, size, "float32", random) for size in sizes] for _ in range(6)]
    snapshots = [reference.pack(layout, numbers) for numbers in values]
    # float32 products are exact in float64, and fsum rounds once.
    rounded = [[numbers.astype(np.float32).astype(np.float64) for numbers in row] for row in values]
    row = gram_row(layout, snapshots[5], snapshots[:5], PathIndices(4, 2, 1))
    for index in range(len(sizes)):
        layers = [numbers[index] for numbers in rounded]
        for s in range(6):
            bound = 1e-13 * np.linalg.norm(layers[s]) * np.linalg.norm(layers[5])
            assert abs(row.gram[index, s] - exact_sum(layers[s] * layers[5])) <= bound
        update, before = layers[5] - layers[4], layers[4] - layers[2]
        displacement, first = layers[5] - layers[0], layers[1] - layers[0]
        pairs = ((update, update), (update, before), (displacement, displacement), (displacement, first))
        for column, (a, b) in enumerate(pairs):
            bound = 2e-13 * np.linalg.norm(a) * np.linalg.norm(b)
            assert abs(row.products[index, column] - exact_sum(a * b)) <= bound
    for threads in (2, 3):
        assert_same_bits(
            row, gram_row(layout, snapshots[5], snapshots[:5], PathIndices(4, 2, 1), threads=threads)
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_16_bit_number(dtype: Dtype) -> None:
    layout = layout_of(*[(1, dtype)] * 65536)
    new = np.zeros(layout.nbytes, np.uint8)
    new.view(np.uint16)[:: 64 // 2] = np.arange(65536)
    one = reference.pack(layout, [[1.0]] * 65536)
    row = gram_row(layout, new, [one], PathIndices(0, None, None))
    values = np.array(
        [
            reference.elements(layer, offset, new)[0]
            for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True)
        ]
    )
    finite = np.isfinite(values)
    assert finite.sum() == 65536 - 2 * (1 << (10 if dtype == "float16" else 7))
    np.testing.assert_array_equal(row.gram[finite, 0], values[finite])
    np.testing.assert_array_equal(row.gram[finite, 1], values[finite] ** 2)
    np.testing.assert_array_equal(row.products[finite, 0], (values[finite] - 1) ** 2)
    assert (row.status[finite] == LayerStatus.EXACT).all()
    assert (row.status[~finite] == LayerStatus.NON_FINITE).all()
    assert np.isnan(row.gram[~finite]).all()


@pytest.mark.parametrize("degrees", [1.0, 17.0, 90.0, 133.0, 179.0])
def test_update_angles_and_norms_of_tiny_float64_updates(degrees: float) -> None:
    random = np.random.default_rng(7)
    size = 3001
    layout = layout_of((size, "float64"))
    theta = random.standard_normal(size) * 3
    a, b = np.linalg.qr(random.standard_normal((size, 2)))[0].T
    length = 1e-7 * float(np.linalg.norm(theta))
    turn = math.radians(degrees)
    points = [theta, theta + length * a]
    points.append(points[1] + length * (math.cos(turn) * a + math.sin(turn) * b))
    snapshots = [reference.pack(layout, [point]) for point in points]

    def measured(row: Sequence[GramRow]) -> tuple[float, list[float]]:
        second, third = (made.products[0] for made in row)
        cosine = third[1] / math.sqrt(third[0] * second[0])
        return math.degrees(math.acos(cosine)), [math.sqrt(x) for x in (second[0], third[0], third[2])]

    fast = [gram_row(layout, snapshots[t], snapshots[:t], path_through(t)) for t in (1, 2)]
    exact = [reference.gram_row(layout, snapshots[t], snapshots[:t], path_through(t)) for t in (1, 2)]
    angle, lengths = measured(fast)
    exact_angle, exact_lengths = measured(exact)
    assert angle == pytest.approx(exact_angle, abs=1e-6)
    assert angle == pytest.approx(degrees, abs=1e-6)
    assert lengths == pytest.approx(exact_lengths, rel=1e-9)


def test_kernels_compile_for_every_dtype() -> None:
    compile_kernels()
    from trajmon.numerics import kernel

    assert len(kernel.run_tasks.signatures) == 1  # type: ignore[attr-defined]  # numba's dispatcher
