"""Rows at their edges: the first ones, superseded checkpoints, NaN and Inf, missing snapshots, bad buffers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon.numerics import compiling, reference
from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.gram import PathIndices, gram_row
from trajmon.numerics.layout import Group, Layer, Layout
from trajmon_protos.record import LayerStatus

LAYOUT = Layout(
    (Layer("a", (3,), "float64"), Layer("b", (2, 2), "float32"), Layer("none", (0,), "float16")),
    (Group("network", (0, 1, 2)),),
)
EXACT, NON_FINITE, MISSING = LayerStatus.EXACT, LayerStatus.NON_FINITE, LayerStatus.SNAPSHOT_MISSING


def snapshot(number: int, **changes: tuple[int, float]) -> NDArray[np.uint8]:
    random = np.random.default_rng(number)
    values = [random.standard_normal(3), random.standard_normal(4), np.zeros(0)]
    for name, (index, value) in changes.items():
        values["ab".index(name)][index] = value
    return reference.pack(LAYOUT, values)


def both(new: Any, stored: list[Any], path: PathIndices) -> Any:
    """The fast row, after a comparison with the exact one."""
    fast = gram_row(LAYOUT, new, stored, path)
    exact = reference.gram_row(LAYOUT, new, stored, path)
    np.testing.assert_array_equal(fast.status, exact.status)
    np.testing.assert_allclose(fast.gram, exact.gram, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(fast.products, exact.products, rtol=1e-13, atol=1e-15)
    return fast


def test_the_first_row() -> None:
    row = both(snapshot(0), [], PathIndices(None, None, None))
    assert row.gram.shape == (3, 1)
    np.testing.assert_array_equal(row.products, [[np.nan, np.nan, 0.0, 0.0]] * 3)
    assert row.status.tolist() == [EXACT] * 3
    assert row.gram[2, 0] == 0.0


def test_the_second_row() -> None:
    row = both(snapshot(1), [snapshot(0)], PathIndices(0, None, None))
    assert np.isnan(row.products[:, 1]).all()
    np.testing.assert_array_equal(row.products[:, 3], row.products[:, 2])
    np.testing.assert_array_equal(row.products[:, 0], row.products[:, 2])
    assert row.products[2].tolist()[::2] == [0.0, 0.0]


def test_a_path_past_superseded_checkpoints() -> None:
    stored = [snapshot(number) for number in range(6)]
    row = both(snapshot(6), stored, PathIndices(previous=4, before_previous=2, first=2))
    a = [reference.elements(LAYOUT.layers[0], 0, s) for s in (*stored, snapshot(6))]
    theta = np.array(a)
    expected = (theta[6] - theta[4]) @ (theta[4] - theta[2])
    assert row.products[0, 1] == pytest.approx(expected, rel=1e-12)
    assert row.products[0, 3] == pytest.approx((theta[6] - theta[0]) @ (theta[2] - theta[0]), rel=1e-12)


def test_a_path_that_starts_anew_from_the_origin() -> None:
    row = both(snapshot(3), [snapshot(0), snapshot(1), snapshot(2)], PathIndices(0, None, None))
    assert row.gram.shape == (3, 4)
    np.testing.assert_array_equal(row.products[:, 3], row.products[:, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_layer_that_is_not_finite_leaves_the_others_exact(bad: float) -> None:
    stored = [snapshot(number) for number in range(3)]
    path = PathIndices(2, 1, 1)
    clean = both(snapshot(3), stored, path)
    row = both(snapshot(3, a=(1, bad)), stored, path)
    assert row.status.tolist() == [NON_FINITE, EXACT, EXACT]
    assert np.isnan(row.gram[0]).all()
    assert np.isnan(row.products[0]).all()
    np.testing.assert_array_equal(row.gram[1:], clean.gram[1:])
    np.testing.assert_array_equal(row.products[1:], clean.products[1:])


def test_an_older_layer_that_was_not_finite() -> None:
    stored = [snapshot(0), snapshot(1, b=(3, np.nan)), snapshot(2, a=(0, np.inf)), snapshot(3)]
    row = both(snapshot(4), stored, PathIndices(3, 2, 1))
    assert row.status.tolist() == [EXACT] * 3
    np.testing.assert_array_equal(np.isnan(row.gram), [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(np.isnan(row.products), [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])


@settings(max_examples=150)
@given(
    damage=st.lists(
        st.tuples(
            st.sampled_from([None, np.nan, np.inf, 1e200, 0.0]), st.sampled_from([None, np.nan, -np.inf, 0.0])
        )
    ),
    missing=st.sets(st.integers(0, 5)),
    data=st.data(),
)
def test_any_damage_is_marked_as_the_definition_says(
    damage: list[tuple[float | None, float | None]], missing: set[int], data: st.DataObject
) -> None:
    changes = [
        {name: (1, value) for name, value in zip("ab", row, strict=True) if value is not None}
        for row in damage
    ]
    *stored, new = [snapshot(number, **change) for number, change in enumerate([*changes, {}])]
    if data.draw(st.booleans()) and stored:
        stored[0], new = new, stored[0]
    seen: list[Any] = [None if index in missing else s for index, s in enumerate(stored)]
    paths = [PathIndices(None, None, None)] if not seen else [PathIndices(0, None, None)]
    if len(seen) > 1:
        positions = st.integers(1, len(seen) - 1)
        paths.append(PathIndices(data.draw(positions), data.draw(positions), data.draw(positions)))
    for path in paths:
        both(new, seen, path)


def test_inf_times_zero_is_not_taken_for_a_number() -> None:
    row = both(snapshot(1, a=(2, 0.0)), [snapshot(0, a=(2, np.inf))], PathIndices(0, None, None))
    assert row.status[0] == EXACT
    assert np.isnan(row.gram[0, 0])
    assert np.isfinite(row.gram[0, 1])
    assert np.isnan(row.products[0]).all()


def test_differences_that_overflow() -> None:
    row = both(snapshot(1, a=(0, 1.2e154)), [snapshot(0, a=(0, -1.2e154))], PathIndices(0, None, None))
    assert row.status.tolist() == [NON_FINITE, EXACT, EXACT]
    assert np.isnan(row.gram[0]).all()


def test_an_older_layer_so_large_that_the_product_overflows() -> None:
    row = both(snapshot(2, a=(0, 1e150)), [snapshot(0), snapshot(1, a=(0, 1e200))], PathIndices(1, 0, 1))
    assert row.status[0] == EXACT
    np.testing.assert_array_equal(np.isnan(row.gram[0]), [False, True, False])
    np.testing.assert_array_equal(np.isnan(row.products[0]), [True, True, False, True])


@pytest.mark.parametrize(
    ("missing", "products"), [(0, [0, 0, 1, 1]), (1, [0, 0, 0, 1]), (2, [0, 1, 0, 0]), (3, [1, 1, 0, 0])]
)
def test_a_missing_snapshot(missing: int, products: list[int]) -> None:
    stored: list[Any] = [snapshot(number) for number in range(5)]
    path = PathIndices(previous=3, before_previous=2, first=1)
    whole = both(snapshot(5), stored, path)
    stored[missing] = None
    row = both(snapshot(5, b=(0, 0.5)), stored, path)
    assert row.status.tolist() == [MISSING] * 3
    np.testing.assert_array_equal(np.isnan(row.gram), [[s == missing for s in range(6)]] * 3)
    np.testing.assert_array_equal(np.isnan(row.products), [products] * 3)
    # Which snapshots are read in one go depends on how many there are: the last digit may differ.
    known = [s for s in range(6) if s != missing]
    np.testing.assert_allclose(row.gram[0, known], whole.gram[0, known], rtol=1e-14)


def test_not_finite_outranks_missing() -> None:
    row = both(snapshot(2, b=(0, np.nan)), [snapshot(0), None], PathIndices(1, 0, 1))
    assert row.status.tolist() == [MISSING, NON_FINITE, MISSING]


def test_read_only_memory_maps(tmp_path: Path) -> None:
    snapshots = [snapshot(number) for number in range(3)]
    mapped = []
    for number, data in enumerate(snapshots):
        path = tmp_path / f"{number}.snap"
        path.write_bytes(b"head" * 1024 + data.tobytes())
        mapped.append(np.memmap(path, np.uint8, "r", offset=4096))
    row = gram_row(LAYOUT, mapped[2], mapped[:2], PathIndices(1, 0, 1), threads=2)
    same = gram_row(LAYOUT, snapshots[2], snapshots[:2], PathIndices(1, 0, 1))
    assert row.gram.tobytes() == same.gram.tobytes()
    assert row.products.tobytes() == same.products.tobytes()


def test_a_layout_without_elements() -> None:
    layout = Layout((Layer("none", (0, 4), "float32"),), (Group("network", (0,)),))
    empty = np.zeros(0, np.uint8)
    row = gram_row(layout, empty, [empty], PathIndices(0, None, None), threads=2)
    assert row.gram.tolist() == [[0.0, 0.0]]
    assert row.status.tolist() == [EXACT]


def test_inputs_are_left_alone() -> None:
    stored = [snapshot(0), snapshot(1)]
    new = snapshot(2)
    before = [s.tobytes() for s in (*stored, new)]
    gram_row(LAYOUT, new, stored, PathIndices(1, 0, 1), threads=2)
    assert [s.tobytes() for s in (*stored, new)] == before


def aligned(offset: int) -> NDArray[np.uint8]:
    whole = np.zeros(LAYOUT.nbytes + 128, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start + offset : start + offset + LAYOUT.nbytes]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros(127, np.uint8), "is uint8 (127,); the layout needs contiguous uint8 (128,)"),
        (np.zeros(128, np.int8), "is int8 (128,); the layout needs contiguous uint8 (128,)"),
        (np.zeros((2, 64), np.uint8), "is uint8 (2, 64); the layout needs contiguous uint8 (128,)"),
        (np.zeros(256, np.uint8)[::2], "is uint8 (128,); the layout needs contiguous uint8 (128,)"),
        (aligned(1), "starts at an address that is not a multiple of 8 bytes"),
    ],
)
def test_bytes_that_are_no_snapshot(bad: Any, text: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        gram_row(LAYOUT, bad, [snapshot(0)], PathIndices(0, None, None))
    assert str(caught.value) == f"the new snapshot {text}"
    with pytest.raises(SnapshotError) as caught:
        gram_row(LAYOUT, snapshot(2), [snapshot(0), bad], PathIndices(1, 0, 1))
    assert str(caught.value) == f"stored snapshot 1 {text}"


@pytest.mark.parametrize(
    ("num_stored", "path"),
    [
        (0, PathIndices(0, None, None)),
        (1, PathIndices(None, None, None)),
        (1, PathIndices(0, 0, None)),
        (2, PathIndices(1, None, None)),
        (2, PathIndices(1, 0, None)),
        (2, PathIndices(2, 0, 1)),
        (2, PathIndices(1, -1, 1)),
    ],
)
def test_indices_that_name_no_path(num_stored: int, path: PathIndices) -> None:
    stored = [snapshot(number) for number in range(num_stored)]
    with pytest.raises(SnapshotError) as caught:
        gram_row(LAYOUT, snapshot(9), stored, path)
    assert str(caught.value) == f"{path} names no path through {num_stored} stored snapshots"


def test_no_threads() -> None:
    with pytest.raises(ValueError) as caught:
        gram_row(LAYOUT, snapshot(0), [], PathIndices(None, None, None), threads=0)
    assert str(caught.value) == "threads is 0, it must be at least 1"


def test_code_that_cannot_be_kept_is_compiled_all_the_same() -> None:
    # A function without a source file has no place for its compiled code, as in a read-only installation.
    made: dict[str, Any] = {}
    exec(compile("def twice(x): return x * 2.0", "<nowhere>", "exec"), made)
    compiled = compiling.compiled(fastmath=True)(made["twice"])
    assert compiled(21.0) == 42.0


def test_the_agents_part_needs_no_torch() -> None:
    program = (
        "import sys\nfrom trajmon.numerics import gram, layout, reference, views\n"
        "gram.compile_kernels()\nprint('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (answer.stdout, answer.stderr) == ("False\n", "")


def test_the_training_part_needs_no_numba() -> None:
    program = (
        "import sys\nfrom trajmon.numerics import model\n"
        "print([name for name in ('numba', 'google', 'grpc', 'torch._dynamo') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_the_kernel_may_reorder_sums_but_not_assume_finite_numbers() -> None:
    # No input shows the difference with every compiler: the flags themselves are what must not change.
    from trajmon.numerics import compiling

    assert {"reassoc", "contract", "nsz"} == compiling.SUMS
