"""The Zarr maps: what is published, read with xarray and with `read_map`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore, PublishRow

RowMaker = Callable[..., Row]
TrueGram = Callable[[int, int], NDArray[np.float64]]


def _publish_rows(make_row: RowMaker, start: int, stop: int, num_layers: int = 3) -> Iterator[PublishRow]:
    return (PublishRow(make_row(checkpoint, num_layers), 1) for checkpoint in range(start, stop))


def _joined(path: Path, prefix: str = "") -> NDArray[np.float64]:
    with xr.open_zarr(path, chunks=None) as ds:
        joined: NDArray[np.float64] = ds[f"{prefix}gram"].fillna(ds[f"{prefix}gram_tail"]).values
        return joined


def _symmetric(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.tri(len(lower), dtype=bool), lower, lower.T)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 200])
def test_what_xarray_reads(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, true_gram: TrueGram, length: int
) -> None:
    store = MapStore(tmp_path, shape)
    store.publish(_publish_rows(make_row, 0, length))
    assert store.published() == length
    truth = true_gram(3, length)
    assert np.array_equal(_joined(store.path), truth, equal_nan=True)
    assert np.array_equal(
        _joined(store.path, "group_"), np.stack([truth.sum(axis=0), truth[1]]), equal_nan=True
    )
    with xr.open_zarr(store.path) as ds:
        sealed = length // 64 * 64
        assert np.array_equal(ds.gram.values[:, :sealed], truth[:, :sealed], equal_nan=True)
        assert np.isnan(ds.gram.values[:, sealed:]).all()
        assert ds.layer.values.tolist() == list(shape.layer_names)
        assert ds.group.values.tolist() == ["network", "norm"]
        assert ds.attrs["groups"] == {"network": [0, 1, 2], "norm": [1]}
        assert (ds.attrs["run_id"], ds.attrs["run_name"], ds.attrs["trajmon_format"]) == (
            shape.run_id,
            "demo",
            1,
        )
        numbers = np.arange(length)
        assert set(ds.coords) == {
            "layer", "group", "checkpoint", "checkpoint_j", "step", "epoch", "learning_rate", "time", "attempt",
            "superseded",
        }  # fmt: skip
        assert np.array_equal(ds.step, 10 * numbers)
        assert np.array_equal(ds.epoch, np.where(numbers % 2, numbers / 4, np.nan), equal_nan=True)
        assert np.array_equal(ds.learning_rate, np.where(numbers % 2, 0.5**numbers, np.nan), equal_nan=True)
        products = np.stack([make_row(number).products for number in numbers], axis=2)
        for column, name in enumerate(
            ("update_squared", "update_dot", "displacement_squared", "displacement_dot")
        ):
            assert np.array_equal(ds[name], products[:, column])
            assert np.array_equal(ds[f"group_{name}"][0], products[:, column].sum(axis=0))


def test_an_empty_store_can_be_opened(tmp_path: Path, shape: RunShape) -> None:
    store = MapStore(tmp_path, shape)
    with xr.open_zarr(store.path) as ds:
        assert dict(ds.sizes) == {"layer": 3, "group": 2, "checkpoint": 0, "checkpoint_j": 0}
    assert store.read_map("group", 0, np.arange(0)).shape == (0, 0)


@pytest.mark.parametrize("num_layers", [1, 16, 17, 130])
def test_many_layers(tmp_path: Path, make_row: RowMaker, true_gram: TrueGram, num_layers: int) -> None:
    run = RunShape(
        "ab" * 16, "wide", tuple(f"l{i}" for i in range(num_layers)), (("network", tuple(range(num_layers))),)
    )
    store = MapStore(tmp_path, run)
    store.publish(_publish_rows(make_row, 0, 66, num_layers))
    truth = true_gram(num_layers, 66)
    assert np.array_equal(_joined(store.path), truth, equal_nan=True)
    for layer in {0, num_layers // 2, num_layers - 1}:
        assert np.array_equal(store.read_map("layer", layer, np.arange(66)), _symmetric(truth[layer]))


def test_more_columns_than_a_shard_holds(tmp_path: Path, make_row: RowMaker, true_gram: TrueGram) -> None:
    run = RunShape("ab" * 16, "long", ("w",), (("network", (0,)),))
    length = 2048 + 64 + 5
    store = MapStore(tmp_path, run, keep_tail_seconds=0.0)
    store.publish(_publish_rows(make_row, 0, length, 1))
    truth = _symmetric(true_gram(1, length)[0])
    assert np.array_equal(store.read_map("layer", 0, np.arange(length)), truth)
    assert np.array_equal(store.read_map("group", 0, np.arange(length)), truth)
    with xr.open_zarr(store.path) as ds:
        last = ds.gram.fillna(ds.gram_tail)[0, 2040:].values
    assert np.array_equal(np.nan_to_num(last), np.nan_to_num(true_gram(1, length)[0, 2040:]))
    # One strip of tail is kept beyond what is not sealed.
    rows = {int(path.name.split(".")[2]) for path in (store.path / "gram_tail").glob("c.*")}
    assert rows == set(range(2048, length))


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> MapStore:
    run = RunShape("ab" * 16, "long", ("w",), (("network", (0,)),))
    store = MapStore(tmp_path_factory.mktemp("long"), run)
    random = np.random.default_rng(0).standard_normal((150, 150))

    def rows() -> Iterator[PublishRow]:
        for number in range(150):
            header = types_pb2.RowHeader(checkpoint=number, previous=max(number - 1, 0), num_layers=1)
            yield PublishRow(
                Row(
                    header, random[number : number + 1, : number + 1], np.zeros((1, 4)), np.zeros(1, np.uint8)
                ),
                1,
            )

    store.publish(rows())
    return store


@given(numbers=st.lists(st.integers(0, 149), max_size=40))
def test_any_choice_of_checkpoints(long_store: MapStore, numbers: list[int]) -> None:
    random = np.random.default_rng(0).standard_normal((150, 150))
    whole = _symmetric(random)
    assert np.array_equal(
        long_store.read_map("layer", 0, np.array(numbers, dtype=int)), whole[np.ix_(numbers, numbers)]
    )


def test_a_group_is_undefined_where_one_of_its_layers_is(
    tmp_path: Path, shape: RunShape, make_row: RowMaker
) -> None:
    store = MapStore(tmp_path, shape)
    row = make_row(1)
    row.gram[0, 1] = np.nan
    row.products[2, 0] = np.nan
    store.publish([PublishRow(make_row(0), 1), PublishRow(row, 1)])
    network, norm = (store.read_map("group", index, np.arange(2)) for index in range(2))
    assert np.isnan(network).tolist() == [[False, False], [False, True]]
    assert np.isfinite(norm).all()
    with xr.open_zarr(store.path) as ds:
        assert np.isnan(ds.group_update_squared.values).tolist() == [[False, True], [False, False]]


def test_lost_rows_are_missing_and_not_zero(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, true_gram: TrueGram
) -> None:
    lost = [2, 3, 63, 64]
    store = MapStore(tmp_path, shape)
    store.publish(PublishRow(make_row(number), 1) for number in range(70) if number not in lost)
    truth = true_gram(3, 70)
    truth[:, lost] = np.nan
    for opened in (store, MapStore(tmp_path, shape)):
        assert np.array_equal(
            opened.read_map("layer", 1, np.arange(70)), _symmetric(truth[1]), equal_nan=True
        )
        assert opened.findings == []
    assert np.array_equal(_joined(store.path), truth, equal_nan=True)
    with xr.open_zarr(store.path) as ds:
        assert np.flatnonzero(ds.attempt.values == -1).tolist() == lost
        assert np.flatnonzero(np.isnan(ds.time.values)).tolist() == lost
        assert np.isnan(ds.update_dot.values[:, lost]).all()


def test_what_a_resumed_attempt_supersedes_is_marked(
    tmp_path: Path, shape: RunShape, make_row: RowMaker
) -> None:
    store = MapStore(tmp_path, shape)
    rows = [make_row(number) for number in range(5)]
    store.publish([PublishRow(row, 1) for row in rows] + [PublishRow(make_row(5, previous=2), 2)])
    with xr.open_zarr(store.path) as ds:
        assert ds.superseded.values.tolist() == [False, False, False, True, True, False]
        assert ds.attempt.values.tolist() == [1, 1, 1, 1, 1, 2]
    store.mark_superseded([1])
    with xr.open_zarr(store.path) as ds:
        assert ds.superseded.values.tolist() == [False, True, False, True, True, False]
    with pytest.raises(ValueError, match=r"^checkpoints \[6\] are not published; there are 6$"):
        store.mark_superseded([0, 6])


def test_opening_again_continues(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, true_gram: TrueGram
) -> None:
    for start in range(0, 150, 30):
        store = MapStore(tmp_path, shape)
        assert store.published() == start
        store.publish(_publish_rows(make_row, start, start + 30))
        assert store.findings == []
    assert np.array_equal(_joined(tmp_path / f"{shape.run_id}.zarr"), true_gram(3, 150), equal_nan=True)


def test_rows_out_of_place_are_refused(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, true_gram: TrueGram
) -> None:
    store = MapStore(tmp_path, shape)
    store.publish(_publish_rows(make_row, 0, 3))
    with pytest.raises(ValueError) as caught:
        store.publish([PublishRow(make_row(1), 1)])
    assert (
        str(caught.value)
        == "checkpoint 1 is published already, 3 is next; rebuild() takes in rows that came late"
    )
    with pytest.raises(ValueError, match=r"^Gram row of checkpoint 3 has shape \(2, 4\), not \(3, 4\)$"):
        store.publish([PublishRow(make_row(3, 2), 1)])
    assert store.published() == 3
    assert np.array_equal(_joined(store.path), true_gram(3, 3), equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "index", "numbers", "text"),
    [
        ("layer", 3, [0], "layer index 3 is not in 0..2"),
        ("group", -1, [0], "group index -1 is not in 0..1"),
        ("block", 0, [0], "scope kind 'block' is neither layer nor group"),
        ("layer", 0, [1, 3], "checkpoints 1..3 are not all published; there are 3"),
        ("layer", 0, [-1, 1], "checkpoints -1..1 are not all published; there are 3"),
    ],
)
def test_a_map_that_does_not_exist_is_refused(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, kind: str, index: int, numbers: list[int], text: str
) -> None:
    store = MapStore(tmp_path, shape)
    store.publish(_publish_rows(make_row, 0, 3))
    with pytest.raises(ValueError) as caught:
        store.read_map(kind, index, np.array(numbers))  # type: ignore[arg-type]  # what a caller must not do
    assert str(caught.value) == text


def test_a_run_without_layers_has_no_maps() -> None:
    with pytest.raises(ValueError, match=r"^run 'x' has no layers or no groups; a map needs both$"):
        RunShape("ab" * 16, "x", (), ())
