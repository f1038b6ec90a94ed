"""Which snapshots are kept: few, spread over the run, and each set what is left of the one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon.errors import SnapshotError, SnapshotNotKeptError
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.keeping import (
    FEWEST_ANCHORED,
    is_kept,
    is_nearly_used,
    most_anchored,
    stride,
    waiting_room,
)
from trajmon.snapshots.store import SnapshotStore


def kept(newest: int, keep: int) -> set[int]:
    return {number for number in range(newest + 1) if is_kept(number, newest, "anchored", keep)}


@given(st.integers(0, 3000), st.integers(FEWEST_ANCHORED, 70))
def test_anchors(newest: int, keep: int) -> None:
    now = kept(newest, keep)
    assert len(now) <= keep
    assert {0, newest, max(0, newest - 1)} <= now
    # Nothing comes back that was given up.
    assert kept(newest + 1, keep) <= now | {newest + 1}
    # No checkpoint lies further from an anchor before it than a stride, and that is the least that fits.
    gaps = np.diff(sorted(now))
    assert gaps.size == 0 or gaps.max() <= stride(newest, keep)
    if stride(newest, keep) > 1:
        assert len(range(0, newest - 1, stride(newest, keep) // 2)) + 2 > keep


@given(st.integers(0, 500))
def test_modes_without_anchors(newest: int) -> None:
    everything = set(range(newest + 1))
    assert {n for n in everything if is_kept(n, newest, "exact", 0)} == everything
    assert {n for n in everything if is_kept(n, newest, "sketch", 2)} == everything & {newest, newest - 1}


def test_too_few_to_be_anchored() -> None:
    with pytest.raises(ValueError, match="3 snapshots cannot be anchored; at least 4 are needed"):
        stride(10, keep=3)


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_a_budget_holds_the_anchors_and_those_that_wait(budget: int, nbytes: int) -> None:
    keep = most_anchored(budget, nbytes)
    if keep >= FEWEST_ANCHORED:
        assert (keep + waiting_room(keep + 2)) * (nbytes + 4096) <= budget + nbytes + 4096
        assert not is_nearly_used(0, budget, nbytes)
        assert is_nearly_used(keep * (nbytes + 4096), budget, nbytes)


def test_a_snapshot_that_is_given_up_keeps_its_header(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "f", 64, writer="agent")
    header = SnapshotHeader(3, 2, 30, "f", previous=1, metrics={"loss": 0.5})
    store.write(3, header, memoryview(bytes(range(64))), durable=True)
    assert store.usage()[1] == 1
    store.give_up(3)
    assert store.usage() == (4096, 0)
    left = store.header(3)
    assert (left.previous, left.step, left.metrics, left.kept) == (1, 30, {"loss": 0.5}, False)
    with pytest.raises(SnapshotNotKeptError, match="its data was not kept"):
        store.data(3)
    with pytest.raises(SnapshotError):
        store.give_up(4)
    store.give_up(3)
    assert list(tmp_path.iterdir()) == [store.path(3)]
