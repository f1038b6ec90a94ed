"""Disk budgets of runs that keep few snapshots: never exceeded, and never used up by what is not kept."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trajmon
from client.agent.sketch_server import SketchServer, serving  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import wait_until  # noqa: TID251 # tests/client, on the path of the tests
from trajmon._files import lock_holder
from trajmon.errors import CheckpointSkippedError, RefusedError
from trajmon.rundir import RunDir
from trajmon.snapshots.format import HEAD_BYTES
from trajmon.snapshots.store import SnapshotStore

pytestmark = pytest.mark.long

SIDE = 64
FILE_BYTES = 4 * SIDE * SIDE + HEAD_BYTES


def make_model() -> nn.Linear:
    return nn.Linear(SIDE, SIDE, bias=False)


def change(model: nn.Linear) -> None:
    with torch.no_grad():
        model.weight.add_(0.01)


def watch(model: nn.Linear, home: Path, server: SketchServer, files: int, **options: Any) -> trajmon.Recorder:
    return trajmon.watch(
        model,
        run="run",
        home=home,
        server=server.address,
        strict=True,
        snapshot_budget_bytes=files * FILE_BYTES,
        **options,
    )


def kept_bytes(home: Path) -> int:
    return SnapshotStore(RunDir.of(home, "run").snapshots, "", 4 * SIDE * SIDE, writer="test").kept_bytes()


@pytest.mark.parametrize(("mode", "files"), [("anchored", 6), ("sketch", 3), ("exact", 6)])
def test_any_number_of_checkpoints_fits(home: Path, mode: Any, files: int) -> None:
    model = make_model()
    with serving(SketchServer()) as server, watch(model, home, server, files, mode=mode) as recorder:
        # Their headers alone would fill the budget.
        for step in range(1, 40):
            wait_until(lambda: recorder.status.pending == 0, "the agent")
            # Acknowledged comes before given up.
            wait_until(lambda: kept_bytes(home) < files * FILE_BYTES, "room")
            change(model)
            assert recorder.checkpoint(step=step) == step
            assert kept_bytes(home) <= files * FILE_BYTES
        recorder.close(60.0)
        assert recorder.status.skipped == 0
        assert len(server.run("run").rows) == 40
        assert not np.isnan(server.sketch(39).gram).any()


def test_a_frozen_agent_costs_checkpoints_and_no_more_disk(home: Path) -> None:
    model = make_model()
    with serving(SketchServer()) as server, watch(model, home, server, 8, mode="sketch") as recorder:
        run_dir = RunDir.of(home, "run")
        wait_until(lambda: recorder.status.pending == 0, "the agent")
        agent = lock_holder(run_dir.agent_lock)
        assert agent is not None
        os.kill(agent, signal.SIGSTOP)
        try:
            for step in range(1, 12):
                change(model)
                with contextlib.suppress(CheckpointSkippedError):
                    recorder.checkpoint(step=step)
        finally:
            os.kill(agent, signal.SIGCONT)
        # One is stored already, and one of the others waits in the slot.
        assert recorder.status.skipped == 11 - 7
        wait_until(lambda: recorder.status.pending == 0, "the agent")
        assert kept_bytes(home) <= 8 * FILE_BYTES
        recorder.close(60.0)
        assert len(server.run("run").rows) == recorder.status.recorded == 8


def test_a_resumed_run_makes_room_in_a_smaller_budget(home: Path) -> None:
    model = make_model()
    with serving(SketchServer()) as server:
        with watch(model, home, server, 40) as recorder:
            for step in range(1, 12):
                change(model)
                recorder.checkpoint(step=step)
            recorder.close(60.0)
        options: dict[str, Any] = {"resume": "must", "mode": "anchored"}
        with watch(model, home, server, 7, **options) as recorder:
            wait_until(lambda: kept_bytes(home) <= 5 * FILE_BYTES, "room")
            assert recorder.checkpoint(step=20) == 12
            recorder.close(60.0)
        # What it kept so far does not fit any more; nor does this, at all.
        with watch(model, home, server, 6, resume="must") as recorder:
            assert recorder.status.mode == "anchored"
            assert recorder._session is not None
            assert recorder._session.note.keep == 4
        with pytest.raises(
            RefusedError, match="keeps at least 4 snapshots of 16384 bytes and works on two more"
        ):
            watch(model, home, server, 5, resume="must")
        assert len(server.run("run").rows) == 13


def test_two_snapshots_and_one_more_have_to_fit(home: Path) -> None:
    server = SketchServer()
    with pytest.raises(
        RefusedError, match='mode="sketch" keeps 2 snapshots of 16384 bytes and works on one more'
    ):
        watch(make_model(), home, server, 2, mode="sketch")
