"""A run in parts whose training goes on with one rank: its one part is a whole row, and its sketch a whole sketch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support.calls import get_map
from support.server import Client, ServerProcess
from support.sharded import wait_for
from trajmon._opening import Options
from trajmon._recorder import Recorder
from trajmon._status import RecorderStatus
from trajmon.sharding.exchange import LocalExchange
from trajmon.sharding.opening import open_shard
from trajmon.snapshots.keeping import SnapshotMode


@pytest.mark.parametrize("mode", ["exact", "sketch"])
def test_one_rank(tmp_path: Path, mode: SnapshotMode) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    server = ServerProcess(tmp_path / "home").start()
    try:
        options = Options(
            run="one",
            server=server.grpc_address,
            tags=(),
            resume="never",
            home=server.home,
            budget_bytes=None,
            threads=1,
            mode=mode,
        )
        session = open_shard(model, None, options, {}, (), LocalExchange())
        recorder = Recorder(session, RecorderStatus("recording"), strict=True)
        kept = []
        for step in range(5):
            recorder.checkpoint(step=step)
            # Worked off one after the other, so that older snapshots are gone.
            wait_for(lambda: recorder.status.pending == 0, "the agent")
            kept.append(torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        recorder.close(60.0)
        assert recorder.status.pending == 0
        with Client(server.grpc_address, server.token) as client:
            answer = get_map(client, "one")
    finally:
        server.stop()
    flat = np.stack(kept)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    off = np.abs(answer["map"] - unit @ unit.T)
    error = answer.get("error", np.zeros_like(off))
    assert (error > 0.0).any() == (mode == "sketch")
    assert (off <= 5.0 * error + 1e-9).all()
