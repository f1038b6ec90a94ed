"""Reading shards changes nothing that another rank could wait for, and finds every parameter once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("readers.py")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("readers")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_one_rank_may_read_after_an_evaluation_and_training_goes_on(said: list[dict[str, Any]]) -> None:
    first, second = (a["alone"] for a in said)
    assert first["read"] == [
        ["0.weight", "float32", [4, 5]],
        ["0.bias", "float32", [4]],
        ["1.weight", "float32", [2, 7]],
        ["1.bias", "float32", [2]],
    ]
    assert [first["unchanged"], second["unchanged"]] == [True, True]
    assert first["loss"] == second["loss"]
    assert len(first["stepped"]) == len(second["stepped"]) == 4


@pytest.mark.parametrize("way", ["tied", "tied_flat"])
def test_a_tied_parameter_in_a_flat_one_is_recorded_once(said: list[dict[str, Any]], way: str) -> None:
    first, second = (a[way] for a in said)
    names = ["embedding.weight", "norm.weight", "norm.bias"]
    assert [name for name, _, _ in first] == [name for name, _, _ in second] == names
    assert [shape for _, shape, _ in first] == [shape for _, shape, _ in second] == [[9, 5], [5], [5]]
    assert [a[2] + b[2] for a, b in zip(first, second, strict=True)] == [45, 5, 5]
