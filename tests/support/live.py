"""A training, and a reader of its maps beside it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from support.server import ServerProcess
from support.training import TrainingProcess
from support.truth import Truth, assert_journal
from trajmon._files import lock_holder
from trajmon.rundir import RunDescription, RunDir

READER = Path(__file__).with_name("map_reader.py")
_END_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the reader saw, all of it right."""

    looks: int
    """How often it opened the store."""
    lengths: int
    """How many different numbers of checkpoints it saw."""
    checkpoints: int
    """In the end."""


def read_while_training(
    server: ServerProcess, folder: Path, steps: int, every: int, pause_seconds: float, kills: int = 0
) -> Seen:
    """Train, read all the while, then compare: every value ever read is that of the parameters.

    The server is killed so many times under the reader, and started again.
    """
    training = TrainingProcess.start(
        folder / "training",
        *("--run", "live", "--server", server.grpc_address, "--home", str(server.home), "--keep"),
        *("--steps", str(steps), "--every", str(every), "--pause", str(pause_seconds)),
    )
    run_dir = RunDir.of(server.home, "live")
    deadline = time.monotonic() + _END_SECONDS
    store = None
    while store is None:
        assert time.monotonic() < deadline, run_dir.agent_log.read_text()
        store = next((server.data_dir / "maps").glob("*.zarr/zarr.json"), None)
        time.sleep(0.01)
    end = folder / "end"
    command = [sys.executable, "-P", str(READER), str(store.parent), str(folder / "seen.npz"), str(end)]
    with (folder / "reader.log").open("wb") as log:
        reader = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(kills):
            time.sleep(steps * pause_seconds / (kills + 1))
            server.kill()
            server.start()
        training.wait()
        deadline = time.monotonic() + _END_SECONDS
        while lock_holder(run_dir.agent_lock) is not None:
            assert time.monotonic() < deadline, run_dir.agent_log.read_text()
            time.sleep(0.02)
        wait_for_length(store.parent, steps // every + 1)
        end.touch()
        status = reader.wait(timeout=_END_SECONDS)
    finally:
        reader.kill()
        training.process.kill()
    assert status == 0, (folder / "reader.log").read_text()
    return _compare(server, run_dir, folder)


def wait_for_length(store: Path, length: int) -> None:
    """Until the store shows so many checkpoints."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        with xr.open_zarr(store) as opened:
            if opened.sizes["checkpoint"] >= length:
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _compare(server: ServerProcess, run_dir: RunDir, folder: Path) -> Seen:
    truth = Truth.load(folder / "training" / "kept.npz")
    rows = assert_journal(server.data_dir, run_dir, truth)
    layout = RunDescription.read(run_dir).layout
    names = [layer.name for layer in layout.layers]
    with np.load(folder / "seen.npz") as seen:
        steps = seen["step"].tolist()
        assert steps == [row.header.info.step for row in rows] == list(truth.place)
        for index, name in enumerate(names):
            truth.assert_gram(_symmetric(seen["gram"][index]), steps, [name])
        for index, group in enumerate(layout.groups):
            truth.assert_gram(_symmetric(seen["group_gram"][index]), steps, [names[i] for i in group.layers])
        products = np.stack([row.products for row in rows], axis=1)
        for column, name in enumerate(
            ("update_squared", "update_dot", "displacement_squared", "displacement_dot")
        ):
            np.testing.assert_array_equal(seen[name], products[:, :, column])
        return Seen(int(seen["looks"]), int(seen["lengths"]), len(rows))


def _symmetric(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """The whole of a matrix of which the lower triangle is stored."""
    assert np.isnan(lower[np.triu_indices_from(lower, 1)]).all()
    return np.tril(lower) + np.tril(lower, -1).T
