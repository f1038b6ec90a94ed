"""Readers beside a publisher, and publishers killed at any moment."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_server.store.base import Journal
from trajmon_server.store.layout import RunShape
from trajmon_server.store.maps import MapStore, PublishRow

pytestmark = pytest.mark.long

PROGRAMS = Path(__file__).parent / "programs"
RowMaker = Callable[..., Row]
TrueGram = Callable[[int, int], NDArray[np.float64]]


def test_a_live_reader_never_sees_an_error_or_a_wrong_value(
    tmp_path: Path, shape: RunShape, make_row: RowMaker
) -> None:
    length = 220
    store = MapStore(tmp_path, shape)
    store.publish([PublishRow(make_row(0), 1)])
    reader = subprocess.Popen(
        [sys.executable, PROGRAMS / "map_reader.py", store.path, "3", str(length)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for checkpoint in range(1, length):
            previous = checkpoint - 3 if checkpoint % 10 == 9 else checkpoint - 1
            row = make_row(checkpoint, previous=previous)
            store.publish([PublishRow(row, 1)])
            # Slow enough for the reader to see many lengths, whatever the machine.
            time.sleep(0.02)
        output, complaint = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert reader.returncode == 0, complaint
    seen = json.loads(output)
    assert seen["wrong"] == []
    assert seen["lengths"] > 5
    assert seen["flags"] > 3


def test_maps_are_read_while_rows_are_published(tmp_path: Path, shape: RunShape, make_row: RowMaker) -> None:
    store = MapStore(tmp_path, shape, keep_tail_seconds=0.0)
    store.publish([PublishRow(make_row(0), 1)])

    def publish_all() -> None:
        for number in range(1, 140):
            store.publish([PublishRow(make_row(number), 1)])

    publisher = threading.Thread(target=publish_all)
    publisher.start()
    lengths: set[int] = set()
    while store.published() < 140:
        length = store.published()
        numbers = np.arange(length)
        truth = 2.0**31 + numbers[:, None] * 2.0**14 + numbers + 0.25
        seen = store.read_map("layer", 1, numbers)
        assert np.array_equal(np.tril(seen), np.tril(truth))
        assert np.array_equal(seen, seen.T)
        lengths.add(length)
    publisher.join()
    assert len(lengths) > 5
    assert store.findings == []


def test_a_publisher_killed_at_any_moment_can_be_continued(
    tmp_path: Path, shape: RunShape, filled_journal: Callable[..., Journal], true_gram: TrueGram
) -> None:
    length = 200
    journal = filled_journal(length)
    choice = random.Random(3)
    maps = tmp_path / "maps"
    published, kills = 0, 0
    while published < length:
        process = subprocess.Popen(
            [sys.executable, PROGRAMS / "map_publisher.py", maps, tmp_path / "journal", str(length)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "0 findings\n"
        # The last program may run to its end.
        for _ in range(choice.randrange(4, 16)):
            published = int(process.stdout.readline() or published)
        time.sleep(choice.random() * 0.02)
        process.kill()
        process.communicate(timeout=30)
        kills += 1
        with xr.open_zarr(maps / f"{shape.run_id}.zarr") as ds:
            seen = ds.sizes["checkpoint"]
            assert published <= seen
            gram = ds.gram.fillna(ds.gram_tail).values
            group = ds.group_gram.fillna(ds.group_gram_tail).values
            assert np.array_equal(ds.step, 10 * np.arange(seen))
        truth = true_gram(3, seen)
        assert np.array_equal(gram, truth, equal_nan=True)
        assert np.array_equal(group, np.stack([truth.sum(axis=0), truth[1]]), equal_nan=True)
    assert kills >= 10
    continued = MapStore(maps, shape, journal, keep_tail_seconds=0.0)
    fresh = MapStore(tmp_path / "fresh", shape, journal)
    fresh.publish(PublishRow(row, 1) for row in journal.read_rows(shape.run_id))
    assert continued.findings == []
    assert list((maps / ".tmp").iterdir()) == []
    with xr.open_zarr(continued.path) as left, xr.open_zarr(fresh.path) as right:
        for name in left.variables:
            if not str(name).endswith("_tail"):
                xr.testing.assert_identical(left[name].load(), right[name].load())


def test_a_full_disk_leaves_what_was_published(
    tmp_path: Path, shape: RunShape, make_row: RowMaker, true_gram: TrueGram, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MapStore(tmp_path, shape)
    store.publish(PublishRow(make_row(number), 1) for number in range(70))
    real = os.write
    allowed = 0

    def full_soon(fd: int, data: bytes) -> int:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    for budget in range(1, 60, 7):
        allowed = budget
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_soon)
            with pytest.raises(OSError, match="No space left on device"):
                store.publish(PublishRow(make_row(number), 1) for number in range(70, 130))
        assert store.published() == 70
        with xr.open_zarr(store.path) as ds:
            assert np.array_equal(ds.gram.fillna(ds.gram_tail), true_gram(3, 70), equal_nan=True)
    store.publish(PublishRow(make_row(number), 1) for number in range(70, 130))
    with xr.open_zarr(store.path) as ds:
        assert np.array_equal(ds.gram.fillna(ds.gram_tail), true_gram(3, 130), equal_nan=True)
    assert list((tmp_path / ".tmp").iterdir()) == []
