"""Which checkpoints of a long run a plot is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajmon_server.query.curves import chosen


@given(st.integers(0, 5000), st.integers(2, 300))
def test_at_most_so_many_with_both_ends(total: int, most: int) -> None:
    picked = chosen(total, most)
    positions = picked.positions.tolist()
    assert len(positions) <= most
    assert positions[:1] == ([0] if total else [])
    assert positions[-1:] == ([total - 1] if total else [])
    assert set(np.diff(positions[:-1]).tolist()) <= {picked.every}
    assert (picked.every == 1) == (total <= most)
    # No more are left out than need be.
    assert picked.every == 1 or len(range(0, total - 1, picked.every - 1)) + 1 > most


@pytest.mark.parametrize(
    ("total", "most", "every", "count"), [(10_000, 1024, 10, 1001), (1025, 1024, 2, 513)]
)
def test_long_runs(total: int, most: int, every: int, count: int) -> None:
    picked = chosen(total, most)
    assert (picked.every, len(picked.positions)) == (every, count)


def test_all_of_them() -> None:
    assert chosen(7, None).positions.tolist() == list(range(7))
