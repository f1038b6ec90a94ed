"""What stands in the rows: the path, and snapshots that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    assert_rows_equal,
    record_run,
    run_agent,
)
from trajmon.rundir import RecorderNote
from trajmon_protos.record import PRODUCTS, LayerStatus


def test_update_products_follow_the_path(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=4)
    recorded.add(step=15, previous=1, attempt=2)
    recorded.add(step=25, previous=4, attempt=2)
    RecorderNote(attempt=2, state="finished", server=server.address).write(recorded.run_dir)
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert_rows_equal(stored, recorded)
    row = stored.rows[5]
    assert (row.header.attempt, row.header.previous) == (2, 4)
    a = [values["head.weight"].ravel() for values in recorded.parameters]
    expected = [
        (a[5] - a[4]) @ (a[5] - a[4]),
        (a[5] - a[4]) @ (a[4] - a[1]),
        (a[5] - a[0]) @ (a[5] - a[0]),
        (a[5] - a[0]) @ (a[1] - a[0]),
    ]
    assert row.products[2] == pytest.approx(expected, rel=1e-12)
    second = stored.rows[1].products[2]
    assert np.isnan(second[PRODUCTS.index("update_dot")])
    assert second[PRODUCTS.index("displacement_dot")] == second[PRODUCTS.index("displacement_squared")]


def test_a_truncated_snapshot_is_marked_missing_and_the_rest_stays_exact(
    home: Path, server: IngestServer
) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    assert run_agent(recorded.run_dir) == 0
    os.truncate(recorded.store.path(1), 5000)
    recorded.add(step=20, previous=1)
    assert run_agent(recorded.run_dir) == 0
    row = server.run("run").rows[2]
    gram = recorded.expected_gram(3)
    assert np.isnan(row.gram[:, 1]).all()
    assert row.gram[:, [0, 2]] == pytest.approx(gram[:, 2, [0, 2]], rel=1e-12)
    assert (row.status == LayerStatus.SNAPSHOT_MISSING).all()
    assert agent_note(recorded.run_dir)["unreadable"] == [1]


def test_a_lost_snapshot_gets_a_row_that_knows_nothing(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    recorded.store.path(1).unlink()
    assert run_agent(recorded.run_dir) == 0
    rows = server.run("run").rows
    assert len(rows) == 3
    assert np.isnan(rows[1].gram).all()
    assert (rows[1].status == LayerStatus.NON_FINITE).all()
    assert rows[1].header.previous == 0
    assert (rows[2].status == LayerStatus.SNAPSHOT_MISSING).all()
