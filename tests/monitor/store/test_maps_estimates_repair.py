"""Damage to sketches and estimates in the maps: made again from what the journal knows, or shown as missing."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from support.estimated_rows import NAMES, SHAPE, estimates, is_sketched, item, truth
from trajmon_protos.record import Row
from trajmon_server.store.errors import MapDamagedError, RowDamagedError, RowMissingError
from trajmon_server.store.estimates import RowEstimates
from trajmon_server.store.maps import MapStore

LENGTH, FIRST = 150, 20


class Source:
    """Rows and estimates, less those that have been lost."""

    def __init__(self) -> None:
        self.lost_rows: set[int] = set()
        self.lost_sketches: set[int] = set()
        self.damaged_sketches: set[int] = set()

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        if checkpoint in self.lost_rows:
            raise RowMissingError(f"row {checkpoint} of run {run_id} is gone")
        return item(checkpoint, FIRST).row

    def read_estimates(self, run_id: str, checkpoint: int) -> RowEstimates | None:
        if checkpoint in self.damaged_sketches:
            raise RowDamagedError(f"sketch {checkpoint} of run {run_id} is damaged")
        return None if checkpoint in self.lost_sketches else estimates(checkpoint, FIRST)


class RowsAlone:
    """A source that knows nothing of estimates."""

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        return item(checkpoint, FIRST).row


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps with estimates, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    store = MapStore(folder, SHAPE, Source(), keep_tail_seconds=0.0)
    store.publish(item(number, FIRST) for number in range(LENGTH))
    return folder


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def open_store(tmp_path: Path, template: Path, source: Source) -> Callable[[], MapStore]:
    shutil.copytree(template, tmp_path / "maps")
    return lambda: MapStore(tmp_path / "maps", SHAPE, source, keep_tail_seconds=0.0)


def _assert_right(store: MapStore, without: tuple[int, ...] = (), length: int = LENGTH) -> None:
    """All matrices, through the store and through xarray; no estimates in the rows `without`."""
    expected = truth(length, FIRST)
    for name, values in expected.items():
        if name not in ("gram", "group_gram"):
            values[:, list(without)] = np.nan
    lower = np.tri(length, dtype=bool)
    for scope, prefix, count in (("layer", "", 3), ("group", "group_", 2)):
        for index in range(count):
            found = store.read_estimates(scope, index, np.arange(length))  # type: ignore[arg-type]  # one of two
            assert found is not None
            parts = {
                "gram_estimate": found.estimate,
                "gram_error": found.error,
                "sketch_gram": found.sketch_gram,
            }
            for name, seen in parts.items():
                half = expected[f"{prefix}{name}"][index]
                assert np.array_equal(seen, np.where(lower, half, half.T), equal_nan=True), name
    with xr.open_zarr(store.path, chunks=None) as ds:
        for name, values in expected.items():
            assert np.array_equal(ds[name].fillna(ds[f"{name}_tail"]), values, equal_nan=True), name
        sketched = [n for n in range(length) if is_sketched(n, FIRST) and n not in without]
        assert np.flatnonzero(ds.estimated.values >= 0).tolist() == sketched


def _spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[1000 if len(data) > 2000 else 5] ^= 4
        path.write_bytes(data)


CHUNKS = [
    "gram_estimate/c.0.0.0",
    "gram_error/c.0.1.0",
    "group_gram_error/c.0.1.0",
    "sketch_gram/c.0.1.0",
    "gram_estimate_tail/c.0.148.0",
    "group_sketch_gram_tail/c.0.130.0",
]
HOWS = ["flipped", "cut", "empty", "deleted"]


@pytest.mark.parametrize(("chunk", "how"), list(itertools.product(CHUNKS, HOWS)))
def test_a_damaged_chunk_is_made_again(open_store: Callable[[], MapStore], chunk: str, how: str) -> None:
    store = open_store()
    path = store.path / chunk
    intact = path.read_bytes()
    _spoil(path, how)
    spoilt = None if how == "deleted" else path.read_bytes()
    for scope, count in (("layer", 3), ("group", 2)):
        for index in range(count):
            store.read_estimates(scope, index, np.arange(LENGTH))  # type: ignore[arg-type]  # one of two
    _assert_right(store)
    if spoilt is None:
        # The kept tail may have done instead; then the strip is sealed again when the store is opened.
        open_store()
    else:
        (kept,) = (store.path.parent / f"{store.path.stem}.damaged").iterdir()
        assert kept.read_bytes() == spoilt
        reason = "it has 0 bytes, fewer than its index" if how == "empty" else "checksum does not match"
        assert [finding.text for finding in store.findings] == [
            f"{path}: {reason}; kept: {kept}; made again from the journal"
        ]
    assert path.read_bytes() == intact


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_vector_has_the_store_made_again(open_store: Callable[[], MapStore], how: str) -> None:
    path = open_store().path / "estimated" / "c.0"
    intact = path.read_bytes()
    _spoil(path, how)
    opened = open_store()
    problem = "missing" if how == "deleted" else "damaged: checksum does not match"
    assert [finding.text for finding in opened.findings] == [
        f"{path} is {problem}; the store is made again from the journal"
    ]
    assert path.read_bytes() == intact
    _assert_right(opened)


def test_a_vector_damaged_while_running_is_found_by_the_next_row(open_store: Callable[[], MapStore]) -> None:
    store = open_store()
    _spoil(store.path / "estimated" / "c.0", "flipped")
    store.publish([item(LENGTH, FIRST)])
    assert [finding.kind for finding in store.findings] == ["damaged_chunk"]
    _assert_right(store, length=LENGTH + 1)


def test_a_vector_damaged_before_the_first_row_with_estimates(tmp_path: Path, source: Source) -> None:
    store = MapStore(tmp_path, SHAPE, source)
    store.publish(item(number, FIRST) for number in range(FIRST))
    _spoil(store.path / "time" / "c.0", "flipped")
    # The store is made again while the rows wait to be published.
    store.publish(item(number, FIRST) for number in range(FIRST, FIRST + 10))
    assert [finding.kind for finding in store.findings] == ["damaged_chunk"]
    _assert_right(store, length=FIRST + 10)


@pytest.mark.parametrize(
    "chunk", ["gram_error/c.0.1.0", "group_sketch_gram/c.0.1.0", "gram_estimate_tail/c.0.148.0"]
)
@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_what_cannot_be_estimated_any_more_goes_with_its_standard_error(
    open_store: Callable[[], MapStore], source: Source, chunk: str, how: str
) -> None:
    store = open_store()
    gone = (70, 148)
    if how == "lost":
        source.lost_sketches.update(gone)
        why = "its sketch is not there any more"
    else:
        source.damaged_sketches.update(gone)
        why = f"sketch {{}} of run {SHAPE.run_id} is damaged"
    _assert_right(store)
    _spoil(store.path / chunk, "flipped")
    for scope, count in (("layer", 3), ("group", 2)):
        for index in range(count):
            store.read_estimates(scope, index, np.arange(LENGTH))  # type: ignore[arg-type]  # one of two
    # Nothing of these rows is left, not in the sheets that were intact either.
    _assert_right(store, without=gone)
    texts = {finding.text for finding in store.findings if finding.kind == "lost_estimates"}
    assert texts == {
        f"checkpoint {number} is shown without estimates: {why.format(number)}" for number in gone
    }
    opened = open_store()
    assert opened.findings == []
    _assert_right(opened, without=gone)


def test_a_lost_row_leaves_nothing_when_the_store_is_made_again(
    open_store: Callable[[], MapStore], source: Source
) -> None:
    store = open_store()
    source.lost_rows.add(71)
    store.rebuild()
    with xr.open_zarr(store.path, chunks=None) as ds:
        for name in (f"{prefix}{name}" for prefix in ("", "group_") for name in NAMES):
            assert np.isnan(ds[name].values[:, 71]).all()
            assert not np.isnan(ds[name].values[:, 75]).all()
        assert (int(ds.estimated[71]), int(ds.attempt[71])) == (-1, -1)


def test_rebuild_takes_in_estimates_that_came_late(tmp_path: Path, source: Source) -> None:
    store = MapStore(tmp_path, SHAPE, source)
    store.publish(replace(item(number, FIRST), estimates=None) for number in range(100))
    assert store.read_estimates("layer", 0, np.arange(100)) is None
    store.rebuild()
    _assert_right(store, length=100)
    store.rebuild(stop=40)
    store.publish(item(number, FIRST) for number in range(40, LENGTH))
    _assert_right(store)
    assert store.findings == []


def test_a_source_without_estimates_is_said_to_have_lost_them(
    open_store: Callable[[], MapStore], source: Source
) -> None:
    store = open_store()
    store.rebuild(RowsAlone())
    assert store.read_estimates("layer", 0, np.arange(LENGTH)) is None
    sketched = [number for number in range(LENGTH) if is_sketched(number, FIRST)]
    assert [finding.text for finding in store.findings] == [
        f"checkpoint {number} is shown without estimates: its sketch is not there any more"
        for number in sketched
    ]
    assert [finding.kind for finding in open_store().findings] == []
    # They come back with a source that has them.
    store.rebuild(source)
    _assert_right(store)


def test_without_a_source_damage_is_an_error(open_store: Callable[[], MapStore]) -> None:
    store = open_store()
    opened = MapStore(store.path.parent, SHAPE)
    path = store.path / "gram_error" / "c.0.1.0"
    _spoil(path, "empty")
    with pytest.raises(MapDamagedError) as caught:
        opened.read_estimates("layer", 0, np.arange(LENGTH))
    assert str(caught.value) == (
        f"{path} is damaged: it has 0 bytes, fewer than its index; delete the folder {store.path} to have it made again"
    )
    # What is exact is read as before.
    exact = opened.read_map("layer", 0, np.arange(LENGTH))
    assert np.array_equal(np.diag(exact), np.diag(truth(LENGTH, FIRST)["gram"][0]))


def test_a_rebuild_equals_the_store_byte_for_byte(tmp_path: Path, source: Source) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    one_by_one = MapStore(tmp_path, SHAPE, source, keep_tail_seconds=0.0)
    for number in range(LENGTH):
        one_by_one.publish([item(number, FIRST)])
    before = content(one_by_one.path)
    one_by_one.rebuild()
    assert content(one_by_one.path) == before
    assert len(before) > 300
