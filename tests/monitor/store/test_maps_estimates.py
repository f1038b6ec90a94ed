"""Sketches and estimates in the Zarr maps: what is published, read with xarray and with `read_estimates`."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from support.estimated_rows import NAMES, SHAPE, estimates, is_sketched, item, num_holes, truth
from trajmon_server.store import layout
from trajmon_server.store.estimates import RowEstimates
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore

MATRICES = [f"{prefix}{name}" for prefix in ("", "group_") for name in NAMES]


def _seen(path: Path) -> dict[str, NDArray[np.float64]]:
    with xr.open_zarr(path, chunks=None) as ds:
        return {name: ds[name].fillna(ds[f"{name}_tail"]).values for name in MATRICES}


def _assert_shown(store: MapStore, expected: dict[str, NDArray[np.float64]]) -> None:
    """Through xarray, and through `read_map` and `read_estimates`."""
    seen = _seen(store.path)
    for name in MATRICES:
        assert np.array_equal(seen[name], expected[name], equal_nan=True), name
    length = store.published()
    numbers = np.arange(length)
    lower = np.tri(length, dtype=bool)
    for prefix, scope in (("", "layer"), ("group_", "group")):
        for index in range(len(expected[f"{prefix}gram"])):
            whole = {
                name: np.where(
                    lower, expected[f"{prefix}{name}"][index], expected[f"{prefix}{name}"][index].T
                )
                for name in NAMES
            }
            found = store.read_estimates(scope, index, numbers)  # type: ignore[arg-type]  # one of two
            assert found is not None
            assert np.array_equal(found.estimate, whole["gram_estimate"], equal_nan=True)
            assert np.array_equal(found.error, whole["gram_error"], equal_nan=True)
            assert np.array_equal(found.sketch_gram, whole["sketch_gram"], equal_nan=True)
            exact = store.read_map(scope, index, numbers)  # type: ignore[arg-type]  # one of two
            assert np.array_equal(exact, whole["gram"], equal_nan=True)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 70])
@pytest.mark.parametrize("length", [72, 128, 200])
def test_what_is_published_is_read(tmp_path: Path, length: int, first: int) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number, first) for number in range(length))
    _assert_shown(store, truth(length, first))
    with xr.open_zarr(store.path, chunks=None) as ds:
        counts = [num_holes(n, first) if is_sketched(n, first) else -1 for n in range(length)]
        assert ds.estimated.values.tolist() == counts
        assert "estimated" in ds.coords
        assert ds.attrs["trajmon_format"] == 2
        for name in ("gram_error", "group_gram_error"):
            note = "standard error of the estimate, of each entry of gram_estimate; entries of gram are exact"
            assert ds[name].attrs["long_name"].startswith(note)


def test_one_row_at_a_time(tmp_path: Path) -> None:
    store = MapStore(tmp_path, SHAPE)
    for number in range(130):
        store.publish([item(number, 20)])
        if number in (19, 20, 63, 64, 129):
            expected = truth(number + 1, 20)
            if number > 19:
                _assert_shown(store, expected)
            assert np.array_equal(
                np.tril(store.read_map("layer", 0, np.arange(number + 1))),
                np.tril(expected["gram"][0]),
                equal_nan=True,
            )


@pytest.mark.parametrize("numbers", [[3], [120, 5, 64, 5, 63, 90], list(range(149, -1, -8)), []])
def test_any_choice_of_checkpoints(tmp_path: Path, numbers: list[int]) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number) for number in range(150))
    found = store.read_estimates("group", 1, np.array(numbers, dtype=int))
    if not numbers:
        assert found is None
        return
    assert found is not None
    expected = truth(150)
    for name, seen in (
        ("gram_estimate", found.estimate), ("gram_error", found.error), ("sketch_gram", found.sketch_gram),
    ):  # fmt: skip
        lower = expected[f"group_{name}"][1]
        whole = np.where(np.tri(150, dtype=bool), lower, lower.T)
        assert np.array_equal(seen, whole[np.ix_(numbers, numbers)], equal_nan=True)


def test_checkpoints_without_sketches_have_no_estimates(tmp_path: Path) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number, 70) for number in range(80))
    assert store.read_estimates("layer", 0, np.arange(70)) is None
    assert store.read_estimates("layer", 0, np.arange(71)) is not None
    assert store.read_estimates("layer", 0, np.array([2, 72])) is None


def test_a_run_without_sketches_has_nothing_of_them(tmp_path: Path) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(replace(item(number), estimates=None) for number in range(130))
    assert store.read_estimates("layer", 0, np.arange(130)) is None
    assert {path.name for path in store.path.iterdir()} == {*layout.arrays(SHAPE), "zarr.json"}
    with xr.open_zarr(store.path, chunks=None) as ds:
        assert not {"estimated", *MATRICES[1:4]} & {*ds.variables}
        assert ds.attrs["trajmon_format"] == 1


def test_rows_of_nan_are_rows(tmp_path: Path) -> None:
    store = MapStore(tmp_path, SHAPE)

    def nothing(number: int) -> RowEstimates:
        layers, groups = np.full((3, number + 1), np.nan), np.full((2, number + 1), np.nan)
        return RowEstimates(layers, layers, layers, groups, groups)

    store.publish(replace(item(number, 1000), estimates=nothing(number)) for number in range(70))
    _assert_shown(store, truth(70, 1000))
    with xr.open_zarr(store.path, chunks=None) as ds:
        assert ds.estimated.values.tolist() == [0] * 70
    # Where nothing is estimated, no chunks say so.
    for name in ("gram_estimate", "gram_estimate_tail", "group_gram_error", "gram_error_tail"):
        assert [path.name for path in (store.path / name).iterdir()] == ["zarr.json"]


def test_many_layers_and_more_columns_than_a_shard_holds(tmp_path: Path) -> None:
    wide = RunShape(SHAPE.run_id, "wide", tuple(f"l{i}" for i in range(130)), (("network", (0, 129)),))
    store = MapStore(tmp_path / "wide", wide)
    store.publish(item(number, 0, wide) for number in range(70))
    _assert_shown(store, truth(70, 0, wide))
    long = RunShape(SHAPE.run_id, "long", ("w",), (("network", (0,)),))
    length = 2048 + 64 + 5
    store = MapStore(tmp_path / "long", long, keep_tail_seconds=0.0)
    store.publish(item(number, 2000, long) for number in range(length))
    _assert_shown(store, truth(length, 2000, long))
    # Of what is sealed, only the last strip is still in the tail.
    rows = {int(path.name.split(".")[2]) for path in (store.path / "sketch_gram_tail").glob("c.*")}
    assert rows == {number for number in range(2048, length) if is_sketched(number, 2000)}


@pytest.mark.parametrize("first", [0, 70])
def test_opening_again_continues(tmp_path: Path, first: int) -> None:
    for start in range(0, 150, 30):
        store = MapStore(tmp_path, SHAPE)
        assert store.published() == start
        store.publish(item(number, first) for number in range(start, start + 30))
        assert store.findings == []
    _assert_shown(MapStore(tmp_path, SHAPE), truth(150, first))


def test_lost_rows_have_no_estimates(tmp_path: Path) -> None:
    store = MapStore(tmp_path, SHAPE)
    lost = [0, *range(64, 128), 140]
    store.publish(item(number) for number in range(150) if number not in lost)
    expected = truth(150)
    for values in expected.values():
        values[:, lost] = np.nan
    for opened in (store, MapStore(tmp_path, SHAPE)):
        _assert_shown(opened, expected)
        assert opened.findings == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"estimate": np.zeros((3, 3))}, "estimate of checkpoint 3 has shape (3, 3), not (3, 4)"),
        ({"error": np.zeros((2, 4))}, "error of checkpoint 3 has shape (2, 4), not (3, 4)"),
        ({"sketch_gram": np.zeros(4)}, "sketch_gram of checkpoint 3 has shape (4,), not (3, 4)"),
        ({"group_estimate": np.zeros((3, 4))}, "group_estimate of checkpoint 3 has shape (3, 4), not (2, 4)"),
        ({"group_error": np.zeros((2, 5))}, "group_error of checkpoint 3 has shape (2, 5), not (2, 4)"),
    ],
)
def test_estimates_of_another_shape_are_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number) for number in range(3))
    known = estimates(3, 0)
    if known is None:
        known = RowEstimates(*(np.zeros((count, 4)) for count in (3, 3, 3, 2, 2)))
    with pytest.raises(ValueError) as caught:
        store.publish([replace(item(3), estimates=replace(known, **change))])
    assert str(caught.value) == text
    assert store.published() == 3
    store.publish([item(3)])
    _assert_shown(store, truth(4))


@pytest.mark.parametrize(
    ("scope", "index", "numbers", "text"),
    [
        ("layer", 3, [0], "layer index 3 is not in 0..2"),
        ("group", -1, [0], "group index -1 is not in 0..1"),
        ("block", 0, [0], "scope kind 'block' is neither layer nor group"),
        ("layer", 0, [1, 3], "checkpoints 1..3 are not all published; there are 3"),
    ],
)
def test_estimates_that_do_not_exist_are_refused(
    tmp_path: Path, scope: Any, index: int, numbers: list[int], text: str
) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number) for number in range(3))
    with pytest.raises(ValueError) as caught:
        store.read_estimates(scope, index, np.array(numbers))
    assert str(caught.value) == text


@pytest.mark.parametrize("first", [0, 70])
@pytest.mark.parametrize("opened_again", [True, False])
def test_what_was_written_but_not_published_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, opened_again: bool
) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number, first) for number in range(70))
    real = os.replace

    def no_metadata(source: Path, target: Path) -> None:
        if Path(target).name == "zarr.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_metadata)
        with pytest.raises(OSError, match="No space left on device"):
            store.publish(item(number, first) for number in range(70, 80))
    assert (store.path / "gram_estimate_tail" / "c.0.78.0").exists()
    if opened_again:
        store = MapStore(tmp_path, SHAPE)
    # The same rows, of which nothing is estimated any more; one of them is lost.
    rest = [replace(item(number, first), estimates=None) for number in range(70, 130) if number != 75]
    store.publish([*rest, item(130, first)])
    expected = truth(131, first)
    for name, values in expected.items():
        values[:, 75 if name.endswith("gram") and "sketch" not in name else range(70, 130)] = np.nan
    _assert_shown(store, expected)


@pytest.mark.parametrize("version", [0, 3])
def test_a_store_of_another_format_is_set_aside(tmp_path: Path, version: int) -> None:
    store = MapStore(tmp_path, SHAPE)
    store.publish(item(number) for number in range(5))
    document = json.loads((store.path / "zarr.json").read_bytes())
    document["attributes"]["trajmon_format"] = version
    (store.path / "zarr.json").write_text(json.dumps(document))
    opened = MapStore(tmp_path, SHAPE)
    kept = tmp_path / f"{SHAPE.run_id}.damaged" / "store.1"
    assert [finding.text for finding in opened.findings] == [
        f"{store.path.name} cannot be continued: it is of another format, or of another run; it was set aside as {kept}"
    ]
    assert opened.published() == 0
    opened.publish(item(number) for number in range(5))
    _assert_shown(opened, truth(5))


def test_a_store_from_before_there_were_estimates_is_continued(tmp_path: Path) -> None:
    """Its documents, as written at the time, are those of a store without estimates."""
    store = MapStore(tmp_path, SHAPE)
    store.publish(replace(item(number, 1000), estimates=None) for number in range(66))
    document = json.loads((store.path / "zarr.json").read_bytes())
    assert document["attributes"]["trajmon_format"] == 1
    assert len(document["consolidated_metadata"]["metadata"]) == 22
    opened = MapStore(tmp_path, SHAPE)
    assert opened.published() == 66
    assert opened.findings == []
    opened.publish(item(number, 66) for number in range(66, 140))
    _assert_shown(opened, truth(140, 66))
