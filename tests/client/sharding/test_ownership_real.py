"""Ownership over real process groups: what all ranks own together is the model, each element once."""

from __future__ import annotations

import os
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from client.sharding import ranks  # noqa: TID251 # tests/client, on the path of the tests

pytestmark = pytest.mark.long

RANK_PROGRAM = Path(__file__).with_name("ranks.py")


@pytest.mark.parametrize("world", [2, 3, 4])
def test_all_ranks_together_own_the_model_once(tmp_path: Path, world: int) -> None:
    command = [sys.executable, str(RANK_PROGRAM)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        said = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(said)
    expected = {name: value.detach().numpy() for name, value in ranks.plain_model().named_parameters()}
    for way, (_, worlds) in ranks.WAYS.items():
        if world not in worlds:
            continue
        plans = {(tmp_path / f"{way}.{rank}.plan").read_text() for rank in range(world)}
        assert len(plans) == 1, way
        found = {name: np.full(value.size, np.nan, np.float32) for name, value in expected.items()}
        counts = {name: np.zeros(value.size, np.int64) for name, value in expected.items()}
        for rank in range(world):
            with np.load(tmp_path / f"{way}.{rank}.npz") as owned:
                for key in owned.files:
                    name, frame, offsets = key.split("|")
                    place = tuple(
                        slice(start, start + size)
                        for start, size in zip(literal_eval(offsets), owned[key].shape, strict=True)
                    )
                    found[name].reshape(literal_eval(frame))[place] = owned[key]
                    counts[name].reshape(literal_eval(frame))[place] += 1
        for name, value in expected.items():
            assert (counts[name] == 1).all(), (way, name)
            np.testing.assert_array_equal(found[name], value.ravel(), err_msg=f"{way} {name}")
