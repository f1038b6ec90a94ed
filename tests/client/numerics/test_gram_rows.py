"""Rows that are computed together have the bits of rows that are computed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.gram import GramRow, PathIndices, gram_row, gram_rows, sum_layers
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon_protos.record import LayerStatus

DTYPES: list[Dtype] = ["float64", "float32", "bfloat16", "float16"]
SIZES = [0, 1, 3, 7, 8, 9, 64, 500, 1023, 1025, 8191, 8193, 20_000]


def layout_of(*layers: tuple[int, Dtype]) -> Layout:
    made = tuple(Layer(f"layer{index}", (size,), dtype) for index, (size, dtype) in enumerate(layers))
    return Layout(made, (Group("network", tuple(range(len(made)))),))


def noise(layout: Layout, random: np.random.Generator, strange: float = 0.0) -> NDArray[np.uint8]:
    """Normal parameters; a share `strange` of the layers holds a NaN or Inf. The gaps hold 0xff, NaN in each dtype."""
    data = np.full(layout.nbytes, 0xFF, np.uint8)
    for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True):
        values: NDArray[Any] = random.standard_normal(layer.num_parameters)
        if len(values) and random.random() < strange:
            values[random.integers(len(values))] = random.choice([np.nan, np.inf, -np.inf])
        if layer.dtype == "bfloat16":
            raw = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = values.astype(layer.dtype).tobytes()
        data[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)
    return data


def path_to(number: int, random: np.random.Generator) -> PathIndices:
    """Any path that ends in this number."""
    if number == 0:
        return PathIndices(None, None, None)
    previous = int(random.integers(number))
    if previous == 0:
        return PathIndices(0, None, None)
    before = int(random.integers(previous))
    return PathIndices(previous, before, previous if before == 0 else int(random.integers(1, before + 1)))


def assert_same_bits(together: list[GramRow], alone: list[GramRow]) -> None:
    assert len(together) == len(alone)
    for a, b in zip(together, alone, strict=True):
        assert a.gram.shape == b.gram.shape
        assert a.gram.tobytes() == b.gram.tobytes()
        assert a.products.tobytes() == b.products.tobytes()
        assert a.status.tobytes() == b.status.tobytes()


@settings(max_examples=80, deadline=None)
@given(
    layers=st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(DTYPES)), min_size=1, max_size=5),
    num_stored=st.integers(0, 9),
    num_new=st.integers(1, 9),
    missing=st.sets(st.integers(0, 8)),
    strange=st.sampled_from([0.0, 0.0, 0.3]),
    seed=st.integers(0, 2**32),
)
def test_rows_together_are_the_rows_one_by_one(
    layers: list[tuple[int, Dtype]],
    num_stored: int,
    num_new: int,
    missing: set[int],
    strange: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    layout = layout_of(*layers)
    snapshots = [noise(layout, random, strange) for _ in range(num_stored + num_new)]
    stored = [None if index in missing else data for index, data in enumerate(snapshots[:num_stored])]
    new = snapshots[num_stored:]
    paths = [path_to(num_stored + index, random) for index in range(num_new)]
    alone = [gram_row(layout, new[index], [*stored, *new[:index]], paths[index]) for index in range(num_new)]
    assert_same_bits(gram_rows(layout, new, stored, paths), alone)
    assert_same_bits(gram_rows(layout, new, stored, paths, threads=2), alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_of_several_tasks(dtype: Dtype) -> None:
    random = np.random.default_rng(5)
    layout = layout_of((5, dtype), (140_001, dtype), (77, "float32"), (131_072, dtype))
    snapshots = [noise(layout, random) for _ in range(13)]
    stored: list[NDArray[np.uint8] | None] = [*snapshots[:5]]
    stored[3] = None
    paths = [path_to(5 + index, random) for index in range(8)]
    alone = [gram_row(layout, snapshots[5 + i], [*stored, *snapshots[5 : 5 + i]], paths[i]) for i in range(8)]
    for threads in (1, 3):
        assert_same_bits(gram_rows(layout, snapshots[5:], stored, paths, threads=threads), alone)


def test_an_entry_does_not_depend_on_its_column() -> None:
    random = np.random.default_rng(6)
    layout = layout_of((30_011, "float32"), (1001, "float64"))
    old, new = noise(layout, random), noise(layout, random)
    for count in range(1, 10):
        row = gram_row(layout, new, [old] * count, PathIndices(0, None, None))
        assert (row.gram[:, :count] == row.gram[:, :1]).all()
        turned = gram_row(layout, old, [new], PathIndices(0, None, None))
        assert (row.gram[:, 0] == turned.gram[:, 0]).all()


def test_parts_add_up_and_the_worst_of_them_counts() -> None:
    nan, huge = np.nan, 1e308
    exact, non_finite, missing = LayerStatus.EXACT, LayerStatus.NON_FINITE, LayerStatus.SNAPSHOT_MISSING
    gram = [
        [1.0, 2.0],
        [3.0, 4.0],
        [nan, nan],
        [1.0, 1.0],
        [huge, 1.0],
        [huge, 1.0],
        [0.0, huge],
        [0.0, huge],
    ]
    products = np.ones((10, 4))
    products[9, 1] = products[8, 1] = huge
    products[4, 1] = nan
    status = [exact, exact, non_finite, missing, missing, exact, exact, exact, exact, exact]
    row = GramRow(np.array([*gram, [1.0, 1.0], [1.0, 1.0]]), products, np.array(status, np.uint8))
    total = sum_layers(row, [0, 0, 1, 1, 3, 3, 4, 4, 5, 5], 6)
    assert total.status.tolist() == [exact, non_finite, exact, missing, non_finite, non_finite]
    expected = [[4.0, 6.0], [nan, nan], [0.0, 0.0], [nan, 2.0], [nan, nan], [nan, nan]]
    np.testing.assert_array_equal(total.gram, expected)
    two, none = [2.0] * 4, [nan] * 4
    np.testing.assert_array_equal(total.products, [two, none, [0.0] * 4, [2.0, nan, 2.0, 2.0], none, none])


def test_no_new_snapshot_gives_no_row() -> None:
    layout = layout_of((3, "float32"))
    assert gram_rows(layout, [], [np.zeros(layout.nbytes, np.uint8)], []) == []


def test_what_is_refused() -> None:
    layout = layout_of((3, "float32"))
    good = np.zeros(layout.nbytes, np.uint8)
    first, second = PathIndices(None, None, None), PathIndices(0, None, None)
    with pytest.raises(ValueError, match="2 new snapshots came with 1 paths"):
        gram_rows(layout, [good, good], [], [first])
    with pytest.raises(ValueError, match="threads is 0, it must be at least 1"):
        gram_rows(layout, [good], [], [first], threads=0)
    with pytest.raises(SnapshotError, match="new snapshot 1 is uint8 \\(3,\\)"):
        gram_rows(layout, [good, good[:3]], [], [first, second])
    with pytest.raises(SnapshotError, match="names no path through 1 stored snapshots"):
        gram_rows(layout, [good, good], [], [first, first])
