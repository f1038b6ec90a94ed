"""DeepSpeed ZeRO-3, for real: needs deepspeed, see `make zero3`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.server import ServerProcess
from support.sharded import assert_map_is
from support.truth import Truth

PROGRAM = Path(__file__).with_name("training.py")


def train(world: int, out: Path, *watched: str) -> None:
    out.mkdir()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)),
            *(str(PROGRAM), str(out), *watched),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[:6000]}\n...\n{ended.stdout[-3000:]}"


@pytest.mark.parametrize("world", [2, 3])
def test_the_map_is_that_of_the_whole_float32_parameters(tmp_path: Path, world: int) -> None:
    server = ServerProcess(tmp_path / "home").start()
    try:
        train(world, tmp_path / "unwatched")
        train(world, tmp_path / "watched", str(server.home), server.grpc_address)
        seen = json.loads((tmp_path / "watched" / "zero3.json").read_text())
        assert seen["losses"] == json.loads((tmp_path / "unwatched" / "zero3.json").read_text())["losses"]
        assert (seen["status"]["recorded"], seen["status"]["reason"]) == (4, "")
        with np.load(tmp_path / "unwatched" / "zero3.npz") as file:
            truth = Truth.of({name: file[name] for name in file.files}, range(0, 7, 2))
        assert_map_is(server, "zero3", truth, range(0, 7, 2))
    finally:
        server.stop()
