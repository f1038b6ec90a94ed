"""Two parts of a run over a real server: what one rank could not store is missing, and nothing after it is held up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined] # there since torch 1.x

from support.server import ServerProcess
from support.sharded import wait_for
from trajmon._opening import Options
from trajmon._recorder import Recorder
from trajmon._status import RecorderStatus
from trajmon.query import QueryClient
from trajmon.sharding.exchange import StoreExchange
from trajmon.sharding.opening import open_shard


def recorders_of(model: nn.Module, server: ServerProcess) -> list[Recorder]:
    """Of two ranks that hold the same model."""
    store = HashStore()
    options = Options(
        run="parts",
        server=server.grpc_address,
        tags=(),
        resume="never",
        home=server.home,
        budget_bytes=None,
        threads=1,
        memory_bytes=0,
    )
    found: list[Any] = [None, None]

    def begin(rank: int) -> None:
        exchange = StoreExchange(lambda: store, rank, 2, 30.0)
        found[rank] = Recorder(
            open_shard(model, None, options, {}, (), exchange), RecorderStatus("recording")
        )

    threads = [threading.Thread(target=begin, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_rows_after_a_skipped_part_are_complete(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    server = ServerProcess(tmp_path / "home").start()
    try:
        recorders = recorders_of(model, server)
        session = recorders[1]._session
        assert session is not None
        obstacle = session.run_dir.snapshots / ".training.00000001.tmp"
        for number, step in enumerate((0, 500, 1000, 1500)):
            if number == 1:
                obstacle.mkdir()
            told = [recorder.checkpoint(step=step) for recorder in recorders]
            assert told == [number, None if number == 1 else number]
            if number == 1:
                obstacle.rmdir()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.5)
        for recorder in recorders:
            recorder.close(30.0)
        assert [recorder.status.pending for recorder in recorders] == [0, 0]
        with QueryClient(server.addresses["grpc"], server.token) as client:
            found = wait_for(
                lambda: next((a for a in [client.get_map("parts", "network")] if len(a.step) == 4), None),
                "four rows",
            )
        assert found.step.tolist() == [0, 500, 1000, 1500]
        kept = np.ix_([0, 2, 3], [0, 2, 3])
        assert np.isfinite(found.gram[kept]).all()
        # Missing, not the other rank's half alone.
        assert np.isnan(found.gram[1]).all()
    finally:
        server.stop()
