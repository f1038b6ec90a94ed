"""Real trainings over two processes, recorded in parts: the map is that of the unsharded parameters.

The whole grid of ways to shard and numbers of processes runs in tests/distributed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.server import ServerProcess
from support.sharded import STEPS, assert_map_is, report, torchrun, truth_of, watched

pytestmark = pytest.mark.long

KINDS = ("ddp", "fsdp2_bf16", "tp")


def test_sharded_trainings_have_the_map_of_the_whole_and_the_losses_of_the_unwatched(
    server: ServerProcess, tmp_path: Path
) -> None:
    torchrun(2, tmp_path / "unwatched", KINDS, "--evaluate")
    watched(2, tmp_path / "watched", KINDS, server, "--evaluate")
    for kind in KINDS:
        seen = report(tmp_path / "watched", kind)
        assert seen["losses"] == report(tmp_path / "unwatched", kind)["losses"]
        assert [(a["recorded"], a["skipped"], a["pending"]) for a in seen["statuses"]] == [(5, 0, 0)] * 2
        assert_map_is(server, kind, truth_of(tmp_path / "unwatched", kind), range(0, STEPS + 1, 3))
