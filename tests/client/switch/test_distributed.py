"""The switch under real wrappers: two processes over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.switch.networks import NORM, OTHERS  # noqa: TID251 # tests/client, on the path of the tests

pytestmark = pytest.mark.long

TESTS = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "programs" / "distributed_freeze.py"
WORLD = 2

# Of the network that is sharded: two norm layers in a Sequential.
SHARDED_NORM = ["2.bias", "2.weight", "5.weight"]
SHARDED_ALL = sorted(
    [*SHARDED_NORM, *(f"{layer}.{part}" for layer in (1, 4, 6) for part in ("weight", "bias"))]
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each rank printed."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(TESTS)}
    ranks = []
    # What torch says about FSDP1 is not what is tested: -W ignore.
    for rank in range(WORLD):
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(PROGRAM),
            str(folder / "meeting"),
            str(rank),
            str(WORLD),
        ]
        out = (folder / f"{rank}.out").open("w")
        err = (folder / f"{rank}.err").open("w")
        ranks.append(subprocess.Popen(command, stdout=out, stderr=err, env=environment))
        out.close()
        err.close()
    try:
        for process in ranks:
            process.wait(100)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    errors = "\n".join((folder / f"{rank}.err").read_text()[-3000:] for rank in range(WORLD))
    assert [process.returncode for process in ranks] == [0] * WORLD, errors
    return [json.loads((folder / f"{rank}.out").read_text().splitlines()[-1]) for rank in range(WORLD)]


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("ddp", "soft"),
        ("ddp momentum bucket views", "soft"),
        ("ddp static graph", "soft"),
        ("ddp unused", "hard"),
        ("ddp compiled", "soft"),
        ("zero", "soft"),
    ],
)
def test_under_ddp(answers: list[dict[str, dict[str, Any]]], case: str, mode: str) -> None:
    for of_rank in answers:
        answer = of_rank[case]
        assert answer["mode"] == mode
        assert answer["moved"] == sorted(NORM)
        assert answer["switched"]
        assert answer["moved_back"] == sorted([*NORM, *OTHERS])
    freed = [sum(of_rank[case]["bytes"][part] for of_rank in answers) for part in (0, 1)]
    assert freed[1] < 0.3 * freed[0]


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("fsdp2", "hard"),
        ("fsdp2 momentum", "hard"),
        ("fsdp2 soft", "soft"),
        ("tensor parallel", "hard"),
        ("fsdp1", "hard"),
    ],
)
def test_sharded(answers: list[dict[str, dict[str, Any]]], case: str, mode: str) -> None:
    for of_rank in answers:
        answer = of_rank[case]
        assert answer["mode"] == mode
        assert answer["moved"] == SHARDED_NORM
        assert answer["moved_back"] == SHARDED_ALL
        assert answer["bytes"][1] < 0.4 * answer["bytes"][0]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "ddp asked for hard",
            "DistributedDataParallel waits for the gradients of frozen parameters; use mode='soft', or build it with "
            "find_unused_parameters=True",
        ),
        (
            "fsdp1 flat",
            "FullyShardedDataParallel holds flat parameters that cannot be frozen in part; wrap the model with "
            "use_orig_params=True, or use fully_shard",
        ),
    ],
)
def test_refused_and_training_goes_on(answers: list[dict[str, dict[str, Any]]], case: str, text: str) -> None:
    for of_rank in answers:
        assert of_rank[case]["refused"] == text
        assert of_rank[case]["moved"]


def test_a_module_inside_a_ddp_that_is_not_seen(answers: list[dict[str, dict[str, Any]]]) -> None:
    for of_rank in answers:
        assert of_rank["inside ddp"] == {"mode": "soft", "moved": NORM}
