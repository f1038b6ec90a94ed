"""Readers of estimates beside a publisher, rebuilds beside readers, and publishers killed at any moment."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from support.estimated_rows import NAMES, SHAPE, estimates, is_sketched, item, num_holes, truth
from trajmon_protos.record import Row
from trajmon_server.store.estimates import RowEstimates
from trajmon_server.store.maps import MapStore

pytestmark = pytest.mark.long

PROGRAMS = Path(__file__).parent / "programs"
TESTS = Path(__file__).parents[2]


@pytest.fixture
def environment() -> dict[str, str]:
    """Programs find the helpers of the tests."""
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def test_a_live_reader_never_sees_an_error_or_a_wrong_value(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    first, length = 50, 150
    store = MapStore(tmp_path, SHAPE)
    store.publish([item(0, first)])
    reader = subprocess.Popen(
        [sys.executable, PROGRAMS / "estimate_reader.py", store.path, str(first), str(length)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for checkpoint in range(1, length):
            store.publish([item(checkpoint, first)])
            # Slow enough for the reader to see many lengths, whatever the machine.
            time.sleep(0.04)
        output, complaint = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert reader.returncode == 0, complaint
    seen = json.loads(output)
    assert seen["wrong"] == []
    assert seen["with"] > 5


class _Alternating:
    """Estimates that differ, with their standard errors, from one making to the next."""

    def __init__(self) -> None:
        self.factor = 1.0

    def read_row(self, run_id: str, checkpoint: int, part: int = 0) -> Row:
        return item(checkpoint).row

    def read_estimates(self, run_id: str, checkpoint: int) -> RowEstimates | None:
        known, f = estimates(checkpoint), self.factor
        if known is None:
            return None
        return RowEstimates(
            f * known.estimate,
            f * known.error,
            known.sketch_gram,
            f * known.group_estimate,
            f * known.group_error,
        )


def test_an_estimate_is_never_read_with_the_error_of_another(tmp_path: Path) -> None:
    length, source = 70, _Alternating()
    store = MapStore(tmp_path, SHAPE, source, keep_tail_seconds=0.0)
    store.publish(item(number) for number in range(length))
    ended = threading.Event()

    def rebuild() -> None:
        for _ in range(12):
            source.factor = 3.0 - source.factor
            store.rebuild()
        ended.set()

    thread = threading.Thread(target=rebuild)
    thread.start()
    factors: set[float] = set()
    lower = truth(length)
    tri = np.tri(length, dtype=bool)
    estimate, error = (
        np.where(tri, lower[name][1], lower[name][1].T) for name in ("gram_estimate", "gram_error")
    )
    while not ended.is_set():
        found = store.read_estimates("layer", 1, np.arange(length))
        assert found is not None
        factor = 1.0 if np.array_equal(found.estimate, estimate, equal_nan=True) else 2.0
        assert np.array_equal(found.estimate, factor * estimate, equal_nan=True)
        assert np.array_equal(found.error, factor * error, equal_nan=True)
        factors.add(factor)
    thread.join()
    assert factors == {1.0, 2.0}
    assert store.findings == []


def test_a_publisher_killed_at_any_moment_can_be_continued(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    first, length = 40, 150
    choice = random.Random(3)
    expected = truth(length, first)
    counts = [num_holes(n, first) if is_sketched(n, first) else -1 for n in range(length)]
    published, kills = 0, 0
    while published < length:
        process = subprocess.Popen(
            [sys.executable, PROGRAMS / "estimate_publisher.py", tmp_path, str(first), str(length)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "0 findings\n"
        # The last program may run to its end.
        for _ in range(choice.randrange(4, 24)):
            published = int(process.stdout.readline() or published)
        time.sleep(choice.random() * 0.02)
        process.kill()
        process.communicate(timeout=30)
        kills += 1
        with xr.open_zarr(tmp_path / f"{SHAPE.run_id}.zarr", chunks=None) as ds:
            seen = ds.sizes["checkpoint"]
            assert published <= seen
            begun = seen > first
            assert ("estimated" in ds) == begun
            for name in (
                f"{prefix}{name}" for prefix in ("", "group_") for name in (NAMES if begun else NAMES[:1])
            ):
                values = ds[name].fillna(ds[f"{name}_tail"]).values
                assert np.array_equal(values, expected[name][:, :seen, :seen], equal_nan=True), name
            if begun:
                assert ds.estimated.values.tolist() == counts[:seen]
    assert kills >= 6
    opened = MapStore(tmp_path, SHAPE)
    assert opened.findings == []
    assert list((tmp_path / ".tmp").iterdir()) == []
