"""Agent and server killed during trainings that keep few snapshots: nothing acknowledged is lost, maps are right."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import trajmon
from support.calls import get_map
from support.server import Client, ServerProcess
from support.sharded import wait_for
from support.training import one_thread
from trajmon._files import lock_holder
from trajmon._settings import Limits
from trajmon.rundir import RunDescription, RunDir
from trajmon_protos.record import decode
from trajmon_protos.sketch_record import decode_sketch

CHECKPOINTS = 40
KILLS = 10
FEATURES, WIDTH, CLASSES = 64, 128, 10


def kill_agent(run_dir: RunDir) -> None:
    """kill -9, if there is one; returns once it is gone, or the next checkpoint would not start another.

    Gone is a process that can be waited for: the kernel gives its locks back somewhat earlier.
    """
    agent = lock_holder(run_dir.agent_lock)
    if agent is not None and agent != os.getpid():
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: is_over(agent), "the agent's end")


def is_over(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return after_name.split()[0] in "ZX"


def in_journal(server: ServerProcess, run_dir: RunDir) -> tuple[set[int], set[int]]:
    """Checkpoints whose rows are there, and those whose sketches are; every one is whole."""
    folder = server.data_dir / "journal" / RunDescription.read(run_dir).run_id
    rows = {decode(file.read_bytes()).header.checkpoint for file in folder.glob("rows/*.row")}
    return rows, {decode_sketch(file.read_bytes()).checkpoint for file in folder.glob("sketches/*.sketch")}


def train(
    server: ServerProcess, run: str, meanwhile: Callable[[int, RunDir], None], **options: Any
) -> NDArray[np.float64]:
    """Parameters at the checkpoints, [T, parameters]; `meanwhile` is called after each."""
    run_dir = RunDir.of(server.home, run)
    kept = []
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        settings: dict[str, Any] = {"server": server.grpc_address, "home": server.home, "strict": True}
        with trajmon.watch(
            model, run=run, optimizer=optimizer, initial=False, **settings, **options
        ) as recorder:
            for step in range(CHECKPOINTS):
                points, labels = torch.randn(32, FEATURES), torch.randint(CLASSES, (32,))
                for _ in range(5):
                    optimizer.zero_grad()
                    torch.autograd.backward(nn.functional.cross_entropy(model(points), labels))
                    optimizer.step()
                assert recorder.checkpoint(step=step) == step
                kept.append(torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy())
                meanwhile(step, run_dir)
            recorder.close(10.0)
            assert recorder.status.skipped == 0
    return np.stack(kept)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["anchored", "sketch"])
def test_kills_of_agent_and_server(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmon._opening.LIMITS", Limits(agent_restart_seconds=0.0))
    chance = random.Random(11)
    moments = set(chance.sample(range(2, CHECKPOINTS - 1), KILLS))
    server = ServerProcess(tmp_path / "home").start()
    promised = [0]

    def strike(number: int, run_dir: RunDir) -> None:
        """Kill one of the two, mostly in the middle of its work, and let some rows come through."""
        if number not in moments:
            return
        wait_for(lambda: run_dir.acked() > promised[-1], "an acknowledgement")
        promised.append(run_dir.acked())
        if len(promised) % 2:
            server.kill()
            rows, sketches = in_journal(server, run_dir)
            assert rows >= set(range(promised[-1]))
            assert sketches >= set(range(promised[-1]))
            server.start()
        else:
            kill_agent(run_dir)

    try:
        options: dict[str, Any] = {"snapshots_kept": 6} if mode == "anchored" else {}
        truth = train(server, "killed", strike, mode=mode, sketch=trajmon.SketchSpec(bins=1021), **options)
        run_dir = RunDir.of(server.home, "killed")
        wait_for(lambda: run_dir.acked() == CHECKPOINTS, "all rows")
        assert len(promised) == KILLS + 1
        assert in_journal(server, run_dir) == (set(range(CHECKPOINTS)), set(range(CHECKPOINTS)))
        with Client(server.grpc_address, server.token) as client:
            answer = get_map(client, "killed")
    finally:
        kill_agent(RunDir.of(server.home, "killed"))
        server.stop()
    unit = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    off, error = np.abs(answer["map"] - unit @ unit.T), answer["error"]
    assert off.shape == (CHECKPOINTS, CHECKPOINTS)
    assert not np.isnan(off).any()
    assert off[error == 0.0].max() < 1e-9
    assert (error > 0.0).sum() > CHECKPOINTS
    assert np.mean(off[error > 0.0] <= 3.0 * error[error > 0.0] + 1e-9) > 0.97
