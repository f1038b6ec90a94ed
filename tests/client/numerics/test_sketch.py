"""Sketches have the digits of whole-number arithmetic, for every dtype, cut, order and number of threads."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import sketch_by_hand
from trajmon.numerics import reference
from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.gram import GramRow, PathIndices, gram_rows
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon.numerics.sketch import Sketch, SketchPlan, gram_rows_with_sketches, sketch_digits
from trajmon.sharding.chunks import Chunk
from trajmon_protos.errors import SketchError
from trajmon_protos.record import LayerStatus
from trajmon_protos.sketch import SketchSpec, canonical

DTYPES: list[Dtype] = ["float64", "float32", "bfloat16", "float16"]
PRIMES = [2, 3, 5, 61, 67, 251, 1021, 4093, 16381]
SIZES = [0, 1, 2, 63, 64, 65, 250, 251, 252, 700, 8191, 8193, 9000]
KINDS = ["normal", "wide", "tiny", "cancelling", "large", "zero", "one_tiny"]
LOWEST = {"float64": -1074, "float32": -149, "bfloat16": -133, "float16": -24}
HIGHEST = {"float64": 126, "float32": 126, "bfloat16": 126, "float16": 15}


def layout_of(*layers: Layer) -> Layout:
    return Layout(layers, (Group("network", tuple(range(len(layers)))),))


def numbers(kind: str, size: int, dtype: Dtype, random: np.random.Generator) -> NDArray[np.float64]:
    low, high = LOWEST[dtype], HIGHEST[dtype]
    signs = random.choice([-1.0, 1.0], size)
    made: NDArray[np.float64] = random.standard_normal(size) * 0.02
    if kind == "wide":
        made = np.ldexp(random.uniform(1, 2 - 2**-11, size), random.integers(low, high + 1, size)) * signs
    elif kind == "tiny":
        made = random.integers(0, 9, size) * 2.0**low * signs
    elif kind == "cancelling":
        made = np.tile(made[: size // 2 + 1], 2)[:size] * signs
    elif kind == "large":
        made = np.full(size, (2 - 2.0**-7) * 2.0**high) * signs
    elif kind == "zero":
        made = 0.0 * signs
    elif kind == "one_tiny" and size:
        made[random.integers(size)] = 2.0**low
    return made


def packed(layout: Layout, values: Sequence[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """A snapshot whose gaps are NaN in every dtype."""
    data = np.full(layout.nbytes, 0xFF, np.uint8)
    inner = reference.pack(layout, values)
    for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True):
        data[offset : offset + layer.nbytes] = inner[offset : offset + layer.nbytes]
    return data


def raw_bytes(layout: Layout, index: int, data: NDArray[np.uint8]) -> bytes:
    layer, offset = layout.layers[index], layout.offsets_bytes[index]
    return data[offset : offset + layer.nbytes].tobytes()


def assert_is_by_hand(sketch: Sketch, layout: Layout, data: NDArray[np.uint8], spec: SketchSpec) -> None:
    """Digits, flags and values of whole layers are those of whole-number arithmetic."""
    plan = sketch.plan
    assert sketch.digits.shape == (9, plan.num_columns)
    assert sketch.digits.dtype == np.int64
    values = sketch.values()
    assert values.dtype == plan.dtype
    for index, layer in enumerate(layout.layers):
        elements = sketch_by_hand.decode(layer.dtype, raw_bytes(layout, index, data))
        sums = sketch_by_hand.sums(layer.name, spec.seed, spec.bins, len(elements), enumerate(elements))
        start, width = plan.starts[index], plan.widths[index]
        found = sketch.digits[:, start : start + width].T.tolist()
        read = values[start : start + width]
        assert width == min(len(elements), spec.bins)
        assert sketch.finite[index] == (sums is not None)
        if sums is None:
            assert not np.any(found)
            assert np.isnan(read).all()
        else:
            expected = [sketch_by_hand.digits(total) for total in sums]
            assert found == expected
            columns = [sketch_by_hand.column(form) for form in expected]
            if plan.dtype == "<f4":
                columns = [sketch_by_hand.single(value) for value in columns]
            assert read.tolist() == columns


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(
        st.tuples(st.sampled_from(SIZES), st.sampled_from(DTYPES), st.sampled_from(KINDS)),
        min_size=1,
        max_size=4,
    ),
    bins=st.sampled_from(PRIMES),
    seed=st.integers(0, 2**64 - 1),
)
def test_whole_layers(cases: list[tuple[int, Dtype, str]], bins: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    layout = layout_of(*(Layer(f"gewicht.ß{i}", (n,), dtype) for i, (n, dtype, _) in enumerate(cases)))
    data = packed(layout, [numbers(kind, n, dtype, random) for n, dtype, kind in cases])
    spec = SketchSpec(bins=bins, seed=seed)
    sketch = sketch_digits(SketchPlan.of(layout, spec), data)
    assert_is_by_hand(sketch, layout, data, spec)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_of_several_pieces_beside_short_ones(dtype: Dtype) -> None:
    random = np.random.default_rng(2)
    sizes = (5, 3 * 131_072 + 77, 0, 131_072, 1)
    layout = layout_of(*(Layer(f"layer{i}", (size,), dtype) for i, size in enumerate(sizes)))
    data = packed(layout, [numbers("normal", size, dtype, random) for size in sizes])
    spec = SketchSpec(bins=251, seed=9)
    plan = SketchPlan.of(layout, spec)
    sketch = sketch_digits(plan, data)
    assert_is_by_hand(sketch, layout, data, spec)
    for threads in (2, 3, 40):
        assert_same(sketch_digits(plan, data, threads=threads), sketch)


def assert_same(a: Sketch, b: Sketch) -> None:
    assert a.digits.tobytes() == b.digits.tobytes()
    assert a.finite.tobytes() == b.finite.tobytes()
    assert a.values().tobytes() == b.values().tobytes()


@pytest.mark.parametrize("exponents", [(-149, 126), (-149, -100), (60, 126), (-126, -60), (-3, 5)])
def test_magnitudes_far_apart_in_one_column(exponents: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    size = 20_000
    values = np.ldexp(
        random.choice([-1.0, 1.0], size) * random.uniform(1, 2, size), random.integers(*exponents, size)
    )
    layout = layout_of(Layer("w", (size,), "float32"))
    data, spec = packed(layout, [values]), SketchSpec(bins=3)
    assert_is_by_hand(sketch_digits(SketchPlan.of(layout, spec), data), layout, data, spec)


def test_what_cancels_leaves_the_smallest_number_there_is() -> None:
    spec, layout = SketchSpec(bins=2), layout_of(Layer("w", (40,), "float32"))
    seed = spec.layer_seed("w")
    values = np.zeros(40)
    values[[0, 2, 4]] = [2.0**126, 2.0**126, 2.0**-149]
    values *= [sketch_by_hand.sign(seed, i) for i in range(40)]
    values[2] *= -1
    sketch = sketch_digits(SketchPlan.of(layout, spec), packed(layout, [values]))
    assert sketch.values().tolist() == [2.0**-149, 0.0]


@pytest.mark.parametrize("multiple", [0.5, 1.5, 2.5, 0.5000001, 0.4999999, 1e-100, 3.0])
def test_float64_is_rounded_to_2_to_the_minus_160_ties_to_even(multiple: float) -> None:
    layout = layout_of(Layer("w", (2,), "float64"))
    for other in (0.0, 1.0, 2.0**-128, -(2.0**-129), 2.0**126):
        data = packed(layout, [np.array([multiple * 2.0**-160, other + math.copysign(2.0**-160, other)])])
        assert_is_by_hand(
            sketch_digits(SketchPlan.of(layout, SketchSpec(2)), data), layout, data, SketchSpec(2)
        )
    expected = {0.5: 0, 1.5: 2, 2.5: 2, 0.5000001: 1, 0.4999999: 0, 1e-100: 0, 3.0: 3}[multiple]
    data = packed(layout, [np.array([multiple * 2.0**-160, 0.0])])
    sketch = sketch_digits(SketchPlan.of(layout, SketchSpec(2)), data)
    assert abs(sketch.values()[0]) == expected * 2.0**-160


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf, 2.0**127, -(2.0**127), 3.4e38])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_number_that_a_sketch_cannot_hold_undefines_its_layer_alone(bad: float, threads: int) -> None:
    random = np.random.default_rng(4)
    sizes = (300_000, 400_000, 100)
    layout = layout_of(*(Layer(f"layer{i}", (size,), "float32") for i, size in enumerate(sizes)))
    values = [numbers("normal", size, "float32", random) for size in sizes]
    spec = SketchSpec(bins=251)
    plan = SketchPlan.of(layout, spec)
    good = sketch_digits(plan, packed(layout, values))
    for position in (0, 200_000, 399_999):
        values[1][position], kept = bad, values[1][position]
        sketch = sketch_digits(plan, packed(layout, values), threads=threads)
        values[1][position] = kept
        assert sketch.finite.tolist() == [True, False, True]
        assert not sketch.digits[:, 251:502].any()
        assert np.isnan(sketch.values()[251:502]).all()
        for part in (slice(0, 251), slice(502, 602)):
            assert (sketch.digits[:, part] == good.digits[:, part]).all()
            assert (sketch.values()[part] == good.values()[part]).all()


def test_the_largest_numbers_that_a_sketch_holds() -> None:
    largest = float(np.nextafter(np.float32(2.0**127), np.float32(0)))
    for dtype, value in (("float32", largest), ("float64", math.nextafter(2.0**127, 0.0))):
        layout = layout_of(Layer("w", (9001,), dtype))  # type: ignore[arg-type]  # two of four
        data = packed(layout, [np.full(9001, value)])
        assert_is_by_hand(
            sketch_digits(SketchPlan.of(layout, SketchSpec(2)), data), layout, data, SketchSpec(2)
        )


def test_a_sum_beyond_float32_is_infinite_in_float32_and_its_digits_are_right() -> None:
    spec, layout = SketchSpec(bins=2), layout_of(Layer("w", (64,), "float32"))
    seed = spec.layer_seed("w")
    values = np.array([sketch_by_hand.sign(seed, i) * 2.0**126 for i in range(64)])
    sketch = sketch_digits(SketchPlan.of(layout, spec), packed(layout, [values]))
    assert sketch.finite.tolist() == [True]
    assert sketch.digits[8].tolist() == [32 << 30] * 2
    assert sketch.values().tolist() == [math.inf] * 2


def test_sums_beyond_what_float64_holds_of_a_level() -> None:
    """All signs alike, large numbers and a level's units in one column: no bit may be lost on the way."""
    size, spec = 800_000, SketchSpec(bins=2)
    layout = layout_of(Layer("w", (size,), "float32"))
    seed = spec.layer_seed("w")
    words = np.array([sketch_by_hand.word(seed, number) for number in range(-(-size // 64))], np.uint64)
    minus = ((words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).ravel()[:size]
    large, unit = np.float32(15.999999), 3 * 2.0**-32
    magnitudes = np.where(np.arange(size) // 2 % 2, float(large), unit)
    data = packed(layout, [np.where(minus, -magnitudes, magnitudes)])
    total = sketch_by_hand.units(float(large)), sketch_by_hand.units(unit)
    assert total[0] is not None
    assert total[1] is not None
    expected = size // 4 * (total[0] + total[1])
    assert expected > 2**53 * 2**128
    for threads in (1, 2):
        sketch = sketch_digits(SketchPlan.of(layout, spec), data, threads=threads)
        assert sketch.digits.T.tolist() == [sketch_by_hand.digits(expected)] * 2


@pytest.mark.parametrize("bins", [2, 251, 16381])
def test_sums_of_numbers_alike_beyond_one_accumulator(bins: int) -> None:
    """All signs alike, so that sums grow as fast as they can: each accumulator is emptied in time."""
    size, spec, value = 40_000 * 20, SketchSpec(bins=bins), float(np.float32(1 - 2.0**-24))
    layout = layout_of(Layer("w", (size,), "float32"))
    seed = spec.layer_seed("w")
    words = np.array([sketch_by_hand.word(seed, number) for number in range(-(-size // 64))], np.uint64)
    minus = ((words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).ravel()[:size]
    data = packed(layout, [np.where(minus, -value, value)])
    units = sketch_by_hand.units(value)
    assert units is not None
    expected = [sketch_by_hand.digits(len(range(column, size, bins)) * units) for column in range(bins)]
    for threads in (1, 2):
        sketch = sketch_digits(SketchPlan.of(layout, spec), data, threads=threads)
        assert sketch.digits.T.tolist() == expected


@pytest.mark.parametrize(
    "scales", [(1.0, 1e6, 1e-6), (1e-9, 3.0, 8.0), (1e20, 1.0, 1e-20), (1e-38, 1e38, 1.0)]
)
@pytest.mark.parametrize("bins", [5, 1021])
def test_stretches_of_one_layer_of_sizes_far_apart(scales: tuple[float, ...], bins: int) -> None:
    """The accumulators' unit suits the first stretch; others are long enough for another to be chosen."""
    random = np.random.default_rng(10)
    stretches = [random.uniform(0.01, 1.0, 9_000) * scale for scale in (*scales, scales[0], scales[1])]
    values = np.concatenate(stretches) * random.choice([-1.0, 1.0], 45_000)
    layout = layout_of(Layer("w", (45_000,), "float32"))
    data, spec = packed(layout, [values]), SketchSpec(bins=bins, seed=3)
    assert_is_by_hand(sketch_digits(SketchPlan.of(layout, spec), data), layout, data, spec)


def test_minus_zero_is_zero() -> None:
    layout = layout_of(Layer("w", (500,), "float32"))
    plan = SketchPlan.of(layout, SketchSpec(bins=251))
    minus = sketch_digits(plan, packed(layout, [np.full(500, -0.0)]))
    assert_same(minus, sketch_digits(plan, packed(layout, [np.zeros(500)])))
    assert not minus.digits.any()
    assert not np.signbit(minus.values()).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wider_dtype_has_the_same_digits(dtype: Dtype, kind: str) -> None:
    random = np.random.default_rng(5)
    narrow = layout_of(Layer("w", (9000,), dtype))
    data = packed(narrow, [numbers(kind, 9000, dtype, random)])
    elements = np.array(sketch_by_hand.decode(dtype, raw_bytes(narrow, 0, data)))
    sketch = sketch_digits(SketchPlan.of(narrow, SketchSpec(bins=1021)), data)
    for wide in ("float32", "float64"):
        layout = layout_of(Layer("w", (9000,), wide))
        other = sketch_digits(SketchPlan.of(layout, SketchSpec(bins=1021)), packed(layout, [elements]))
        assert (other.digits == sketch.digits).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_16_bit_number(dtype: Dtype) -> None:
    data = np.arange(65536, dtype=np.uint16)
    values = sketch_by_hand.decode(dtype, data.tobytes())
    keep = np.array([math.isfinite(value) and abs(value) < 2.0**127 for value in values])
    layout = layout_of(Layer("w", (int(keep.sum()),), dtype))
    snapshot = np.zeros(layout.nbytes, np.uint8)
    snapshot[: layout.layers[0].nbytes] = data[keep].view(np.uint8)
    spec = SketchSpec(bins=65521)
    assert_is_by_hand(sketch_digits(SketchPlan.of(layout, spec), snapshot), layout, snapshot, spec)
    # Shuffled, so that large and small numbers meet in one block.
    snapshot[: layout.layers[0].nbytes] = np.random.default_rng(6).permutation(data[keep]).view(np.uint8)
    assert_is_by_hand(sketch_digits(SketchPlan.of(layout, spec), snapshot), layout, snapshot, spec)


def test_sketches_are_linear_in_their_digits() -> None:
    random = np.random.default_rng(7)
    layout = layout_of(Layer("w", (20_000,), "float64"), Layer("v", (100,), "float64"))
    plan = SketchPlan.of(layout, SketchSpec(bins=251))
    # Multiples of 2^-30 below 2^20: their sums are exact in float64 too.
    x, y = ([np.round(random.standard_normal(n) * 2**40) * 2.0**-30 for n in (20_000, 100)] for _ in range(2))
    total = sketch_digits(plan, packed(layout, [a + 5 * b for a, b in zip(x, y, strict=True)]))
    parts = (sketch_digits(plan, packed(layout, x)), sketch_digits(plan, packed(layout, y)))
    assert (canonical(parts[0].digits + 5 * parts[1].digits) == total.digits).all()


def assert_same_rows(a: list[GramRow], b: list[GramRow]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.gram.tobytes() == y.gram.tobytes()
        assert x.products.tobytes() == y.products.tobytes()
        assert x.status.tobytes() == y.status.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    cases=st.lists(
        st.tuples(st.sampled_from([*SIZES, 140_001]), st.sampled_from(DTYPES)), min_size=1, max_size=4
    ),
    bins=st.sampled_from(PRIMES),
    num_stored=st.integers(0, 5),
    num_new=st.integers(0, 6),
    threads=st.integers(1, 3),
    strange=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_fused_pass_has_the_bits_of_both(
    cases: list[tuple[int, Dtype]],
    bins: int,
    num_stored: int,
    num_new: int,
    threads: int,
    strange: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    layout = layout_of(*(Layer(f"layer{i}", (n,), dtype) for i, (n, dtype) in enumerate(cases)))
    snapshots: list[NDArray[np.uint8] | None] = []
    for _ in range(num_stored + num_new):
        values = [numbers("normal", n, dtype, random) for n, dtype in cases]
        if strange and len(values[0]):
            values[0][random.integers(len(values[0]))] = random.choice([np.nan, np.inf])
        snapshots.append(packed(layout, values))
    if strange and num_stored:
        snapshots[0] = None
    stored, new = snapshots[:num_stored], [data for data in snapshots[num_stored:] if data is not None]
    paths = [path_to(num_stored + index) for index in range(num_new)]
    plan = SketchPlan.of(layout, SketchSpec(bins=bins, seed=seed))
    rows, sketches = gram_rows_with_sketches(layout, new, stored, paths, plan, threads=threads)
    assert_same_rows(rows, gram_rows(layout, new, stored, paths))
    for sketch, data in zip(sketches, new, strict=True):
        assert_same(sketch, sketch_digits(plan, data))


def path_to(number: int) -> PathIndices:
    if number < 2:
        return PathIndices(*((0, None, None) if number else (None, None, None)))
    return PathIndices(number - 1, number - 2, 1)


def test_sketch_bytes_are_a_snapshot_of_the_sketch_layout() -> None:
    random = np.random.default_rng(8)
    layers = (Layer("w", (40, 50), "float32"), Layer("e", (0,), "float32"), Layer("b", (), "bfloat16"))
    layout = layout_of(*layers, Layer("n", (9,), "float32"))
    plan = SketchPlan.of(layout, SketchSpec(bins=251))
    names, shapes, dtypes = zip(
        *((layer.name, layer.shape, layer.dtype) for layer in plan.sketch_layout.layers), strict=True
    )
    assert (names, shapes) == (("w", "e", "b", "n"), ((251,), (0,), (1,), (9,)))
    assert (set(dtypes), plan.dtype) == ({"float32"}, "<f4")
    points = [
        [numbers("normal", n, "float32", random) for n in (2000, 0, 1, 9)],
        [numbers("normal", n, "float32", random) for n in (2000, 0, 1, 9)],
    ]
    points[1][3][2] = np.nan
    sketches = [sketch_digits(plan, packed(layout, point)) for point in points]
    data = [sketch.sketch_bytes() for sketch in sketches]
    offset = plan.sketch_layout.offsets_bytes[2]
    assert data[0][offset : offset + 4].view("<f4")[0] == sketches[0].values()[251]
    (row,) = gram_rows(plan.sketch_layout, [data[1]], [data[0]], [PathIndices(0, None, None)])
    values = [sketch.values().astype(np.float64) for sketch in sketches]
    assert row.gram[0, 0] == pytest.approx(math.fsum(values[0][:251] * values[1][:251]), rel=1e-12)
    assert row.status.tolist() == [
        LayerStatus.EXACT,
        LayerStatus.EXACT,
        LayerStatus.EXACT,
        LayerStatus.NON_FINITE,
    ]


def test_a_float64_layer_makes_all_columns_float64() -> None:
    layout = layout_of(Layer("w", (4,), "float32"), Layer("v", (4,), "float64"))
    plan = SketchPlan.of(layout, SketchSpec(bins=3))
    assert (plan.dtype, plan.sketch_layout.layers[0].dtype) == ("<f8", "float64")
    # A shard without that layer, too: its sketches are compared with those of the whole run.
    assert SketchPlan.of_chunks(layout, [Chunk(0, (4,), (0,), (2,))], SketchSpec(bins=3)).dtype == "<f8"
    data = packed(layout, [np.full(4, 1 / 3), np.full(4, 1 / 3)])
    assert_is_by_hand(sketch_digits(plan, data), layout, data, plan.spec)


def test_layers_that_a_sketch_keeps_whole() -> None:
    spec, layout = SketchSpec(bins=251), layout_of(Layer("w", (251,), "float32"))
    values = np.random.default_rng(9).standard_normal(251).astype(np.float32)
    sketch = sketch_digits(SketchPlan.of(layout, spec), packed(layout, [values.astype(np.float64)]))
    assert (np.abs(sketch.values()) == np.abs(values)).all()
    assert 80 < (np.sign(sketch.values()) == np.sign(values)).sum() < 170


def test_how_many_elements_are_safe() -> None:
    """2^31 elements below 2^127 in one column: the highest digit stays within what canonical digits allow."""
    top = np.zeros((9, 1), np.int64)
    top[8] = (1 << 31) * (1 << 31)
    assert canonical(top)[8, 0] == 1 << 62
    top[8] += 1
    with pytest.raises(SketchError, match="the sums of a sketch overflow"):
        canonical(top)
    whole = Layer("big", (1 << 31, 3), "bfloat16")
    assert SketchPlan.of(layout_of(whole), SketchSpec(bins=3)).widths == (3,)
    with pytest.raises(SketchError) as caught:
        SketchPlan.of(layout_of(Layer("big", ((1 << 32) + 1,), "bfloat16")), SketchSpec(bins=2))
    assert (
        str(caught.value) == "layer 'big' has 4294967297 elements; 2 bins hold at most 4294967296 for certain"
    )


def test_what_is_refused() -> None:
    layout = layout_of(Layer("w", (3,), "float32"))
    plan = SketchPlan.of(layout, SketchSpec(bins=3))
    good = np.zeros(layout.nbytes, np.uint8)
    first = PathIndices(None, None, None)
    with pytest.raises(ValueError, match="threads is 0, it must be at least 1"):
        sketch_digits(plan, good, threads=0)
    with pytest.raises(SnapshotError, match=r"the snapshot is uint8 \(3,\)"):
        sketch_digits(plan, good[:3])
    with pytest.raises(SnapshotError, match=r"the new snapshot is uint8 \(3,\)"):
        gram_rows_with_sketches(layout, [good[:3]], [], [first], plan)
    for other in (Layer("w", (4,), "float32"), Layer("w", (3,), "float64")):
        with pytest.raises(SnapshotError, match="the sketch plan is for snapshots of another layout"):
            gram_rows_with_sketches(layout_of(other), [good], [], [first], plan)


def test_elements_by_hand_are_what_struct_says() -> None:
    assert sketch_by_hand.decode("bfloat16", struct.pack("<H", 0x3FC0)) == [1.5]
    assert sketch_by_hand.units(1.5 * 2.0**-160) == 2
    assert sketch_by_hand.digits(-1) == [-1, *[0] * 8]
    assert sketch_by_hand.digits(1 << 31) == [-(1 << 31), 1, *[0] * 7]
