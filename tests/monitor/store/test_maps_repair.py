"""Damage to the maps: found, set aside, reported, and made again from the journal."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from trajmon_protos.record import Row, encode
from trajmon_server.store.errors import MapDamagedError
from trajmon_server.store.journal import LocalJournal
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore, PublishRow

LENGTH = 150
RowMaker = Callable[..., Row]
TrueGram = Callable[[int, int], NDArray[np.float64]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, make_row: RowMaker, shape: RunShape) -> Path:
    """A journal and the maps made from it, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    journal = LocalJournal(folder / "journal")
    for checkpoint in range(LENGTH):
        journal.append(shape.run_id, checkpoint, 0, encode(make_row(checkpoint)))
    store = MapStore(folder / "maps", shape, journal, keep_tail_seconds=0.0)
    store.publish(PublishRow(row, 1) for row in journal.read_rows(shape.run_id))
    return folder


@pytest.fixture
def journal(tmp_path: Path, template: Path) -> LocalJournal:
    shutil.copytree(template / "journal", tmp_path / "journal")
    return LocalJournal(tmp_path / "journal")


@pytest.fixture
def store(tmp_path: Path, template: Path, shape: RunShape, journal: LocalJournal) -> MapStore:
    shutil.copytree(template / "maps", tmp_path / "maps")
    return MapStore(tmp_path / "maps", shape, journal, keep_tail_seconds=0.0)


@pytest.fixture
def assert_right(true_gram: TrueGram) -> Callable[..., None]:
    """assert_right(store, lost=()): both Grams, through `read_map` and through xarray."""

    def check(store: MapStore, lost: tuple[int, ...] = (), length: int = LENGTH) -> None:
        layers = true_gram(3, length)
        layers[:, list(lost)] = np.nan
        truth = {"layer": layers, "group": np.stack([layers.sum(axis=0), layers[1]])}
        for kind, grams in truth.items():
            for index, gram in enumerate(grams):
                whole = np.where(np.tri(length, dtype=bool), gram, gram.T)
                seen = store.read_map("layer" if kind == "layer" else "group", index, np.arange(length))
                assert np.array_equal(seen, whole, equal_nan=True)
        with xr.open_zarr(store.path) as ds:
            assert np.array_equal(ds.gram.fillna(ds.gram_tail), truth["layer"], equal_nan=True)
            assert np.array_equal(ds.group_gram.fillna(ds.group_gram_tail), truth["group"], equal_nan=True)
            attempts = np.where(np.isin(np.arange(length), lost), -1, 1)
            assert np.array_equal(ds.attempt, attempts)

    return check


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


GRAM_CHUNKS = [
    f"{array}/c.0.{row}.0"
    for array, row in (
        ("gram", 0),
        ("gram", 1),
        ("gram_tail", 149),
        ("group_gram", 1),
        ("group_gram_tail", 130),
    )
]
HOWS = ["flipped", "cut", "empty", "deleted"]


@pytest.mark.parametrize(("chunk", "how"), list(itertools.product(GRAM_CHUNKS, HOWS)))
def test_a_damaged_gram_chunk_is_made_again(
    store: MapStore,
    shape: RunShape,
    journal: LocalJournal,
    assert_right: Callable[..., None],
    chunk: str,
    how: str,
) -> None:
    path = store.path / chunk
    intact = path.read_bytes()
    _spoil(path, how)
    spoilt = None if how == "deleted" else path.read_bytes()
    # Every layer and group, so that the spoilt bytes are among those read.
    for kind, count in (("layer", 3), ("group", 2)):
        for index in range(count):
            store.read_map("layer" if kind == "layer" else "group", index, np.arange(LENGTH))
    assert_right(store)
    if spoilt is None:
        # The kept tail may have done instead; then the strip is sealed again when the store is opened.
        MapStore(store.path.parent, shape, journal)
    else:
        (kept,) = (store.path.parent / f"{store.path.stem}.damaged").iterdir()
        assert kept.read_bytes() == spoilt
        assert kept.name == chunk.replace("/", ".") + ".1"
        empty = "it has 0 bytes, fewer than its index"
        reason = empty if how == "empty" else "checksum does not match"
        assert [(finding.kind, finding.text) for finding in store.findings] == [
            ("damaged_chunk", f"{path}: {reason}; kept: {kept}; made again from the journal")
        ]
    assert path.read_bytes() == intact


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "chunk", ["step/c.0", "superseded/c.0", "update_dot/c.0.2", "group_update_squared/c.0.2"]
)
def test_a_damaged_vector_has_the_store_made_again_when_it_is_opened(
    store: MapStore,
    shape: RunShape,
    journal: LocalJournal,
    assert_right: Callable[..., None],
    chunk: str,
    how: str,
) -> None:
    path = store.path / chunk
    intact = path.read_bytes()
    _spoil(path, how)
    opened = MapStore(store.path.parent, shape, journal)
    problem = "missing" if how == "deleted" else "damaged: checksum does not match"
    assert [finding.text for finding in opened.findings] == [
        f"{path} is {problem}; the store is made again from the journal"
    ]
    assert path.read_bytes() == intact
    assert_right(opened)


def test_a_vector_damaged_while_running_is_found_by_the_next_row(
    store: MapStore, journal: LocalJournal, make_row: RowMaker, assert_right: Callable[..., None]
) -> None:
    _spoil(store.path / "time" / "c.0", "flipped")
    store.publish([PublishRow(make_row(LENGTH), 1)])
    assert store.published() == LENGTH + 1
    assert [finding.kind for finding in store.findings] == ["damaged_chunk"]
    assert_right(store, length=LENGTH + 1)
    with xr.open_zarr(store.path) as ds:
        assert np.array_equal(ds.time, 1e9 + np.arange(LENGTH + 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its zarr.json cannot be read (Expecting value: line 1 column 1 (char 0))"),
        (b"{}", "its zarr.json cannot be read ('consolidated_metadata')"),
        (None, "its zarr.json is missing"),
    ],
)
def test_a_store_that_cannot_be_read_is_set_aside_and_begun_again(
    store: MapStore,
    shape: RunShape,
    journal: LocalJournal,
    assert_right: Callable[..., None],
    content: bytes | None,
    reason: str,
) -> None:
    document = store.path / "zarr.json"
    if content is None:
        document.unlink()
    else:
        document.write_bytes(content)
    opened = MapStore(store.path.parent, shape, journal)
    kept = store.path.parent / f"{shape.run_id}.damaged" / "store.1"
    assert [finding.text for finding in opened.findings] == [
        f"{store.path.name} cannot be continued: {reason}; it was set aside as {kept}"
    ]
    assert (kept / "gram").is_dir()
    assert opened.published() == 0
    opened.publish(PublishRow(row, 1) for row in journal.read_rows(shape.run_id))
    assert_right(opened)


def test_a_store_of_other_layers_is_set_aside(store: MapStore, shape: RunShape) -> None:
    other = RunShape(shape.run_id, shape.name, ("w",), (("network", (0,)),))
    opened = MapStore(store.path.parent, other)
    assert opened.published() == 0
    assert [finding.kind for finding in opened.findings] == ["damaged_store"]
    assert "it is of another format, or of another run" in opened.findings[0].text


def test_without_a_journal_damage_is_an_error(store: MapStore, shape: RunShape) -> None:
    opened = MapStore(store.path.parent, shape)
    path = store.path / "gram" / "c.0.1.0"
    _spoil(path, "empty")
    with pytest.raises(MapDamagedError) as caught:
        opened.read_map("layer", 0, np.arange(LENGTH))
    assert str(caught.value) == (
        f"{path} is damaged: it has 0 bytes, fewer than its index; delete the folder {store.path} to have it made again"
    )
    assert path.read_bytes() == b""
    _spoil(store.path / "step" / "c.0", "flipped")
    with pytest.raises(MapDamagedError, match="cannot be made again: there is no journal to make it from"):
        MapStore(store.path.parent, shape)


def test_what_the_journal_has_lost_too_is_missing(
    store: MapStore, shape: RunShape, journal: LocalJournal, assert_right: Callable[..., None]
) -> None:
    for number in (70, 149):
        journal.set_aside(shape.run_id, number, "for the test")
    _spoil(store.path / "gram" / "c.0.1.0", "flipped")
    _spoil(store.path / "gram_tail" / "c.0.149.0", "cut")
    for _ in range(2):
        store.read_map("layer", 0, np.arange(LENGTH))
    assert [finding.kind for finding in store.findings].count("lost_row") == 2
    assert any(finding.text.startswith("checkpoint 70 is shown as missing: ") for finding in store.findings)
    with xr.open_zarr(store.path) as ds:
        assert np.flatnonzero(ds.attempt.values == -1).tolist() == [70, 149]
    store.rebuild()
    assert_right(store, lost=(70, 149))


def test_rebuild_takes_in_rows_that_came_late(
    tmp_path: Path, shape: RunShape, journal: LocalJournal, assert_right: Callable[..., None]
) -> None:
    store = MapStore(tmp_path / "maps", shape, journal)
    store.publish(
        PublishRow(row, 1) for row in journal.read_rows(shape.run_id) if row.header.checkpoint not in (3, 99)
    )
    assert_right(store, lost=(3, 99))
    store.rebuild()
    assert_right(store)
    store.rebuild(stop=60)
    assert store.published() == 60
    store.publish(PublishRow(row, 1) for row in journal.read_rows(shape.run_id, 60))
    assert_right(store)


def test_a_rebuild_equals_the_store_byte_for_byte(
    tmp_path: Path, shape: RunShape, journal: LocalJournal
) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    one_by_one = MapStore(tmp_path / "slow", shape, journal, keep_tail_seconds=0.0)
    for row in journal.read_rows(shape.run_id):
        one_by_one.publish([PublishRow(row, 1)])
    before = content(one_by_one.path)
    one_by_one.rebuild()
    assert content(one_by_one.path) == before
    assert len(before) > 100
