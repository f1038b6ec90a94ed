"""Every way to shard, over two, three and four processes, of odd extents: see also tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.server import ServerProcess
from support.sharded import STEPS, assert_map_is, report, torchrun, truth_of, watched
from support.sharded_training import KINDS


@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_kind_has_the_map_of_the_whole_and_the_losses_of_the_unwatched(
    server: ServerProcess, tmp_path: Path, world: int
) -> None:
    torchrun(world, tmp_path / "unwatched", KINDS, "--evaluate")
    watched(world, tmp_path / "watched", KINDS, server, "--evaluate")
    for kind in KINDS:
        seen = report(tmp_path / "watched", kind)
        assert seen["losses"] == report(tmp_path / "unwatched", kind)["losses"]
        assert [(a["recorded"], a["skipped"]) for a in seen["statuses"]] == [(5, 0)] * world
        assert_map_is(server, kind, truth_of(tmp_path / "unwatched", kind), range(0, STEPS + 1, 3))


@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1", "ddp"])
def test_a_rank_that_is_killed_and_comes_back(server: ServerProcess, tmp_path: Path, kind: str) -> None:
    torchrun(3, tmp_path / "unwatched", [kind])
    # After its checkpoint at step 6 the rank dies, and takes the training with it.
    watched(3, tmp_path / "first", [kind], server, "--die-at", "7", "--die-rank", "1", check=False)
    watched(3, tmp_path / "second", [kind], server, "--resume", "must", "--first-step", "6")
    assert report(tmp_path / "second", kind)["losses"] == report(tmp_path / "unwatched", kind)["losses"]
    assert_map_is(server, kind, truth_of(tmp_path / "unwatched", kind), range(0, STEPS + 1, 3))


@pytest.mark.parametrize(("before", "after"), [("fsdp2", "fsdp2"), ("fsdp1", "fsdp2"), ("ddp", "fsdp2_tp")])
def test_from_four_processes_to_two(server: ServerProcess, tmp_path: Path, before: str, after: str) -> None:
    torchrun(2, tmp_path / "unwatched", [after])
    watched(4, tmp_path / "first", [before], server, "--die-at", "7", "--name", "elastic", check=False)
    watched(
        2,
        tmp_path / "second",
        [after],
        server,
        *("--name", "elastic", "--resume", "must", "--first-step", "6"),
    )
    # The sums of four ranks' gradients are the sums of two ranks' but for the rounding.
    assert_map_is(
        server, "elastic", truth_of(tmp_path / "unwatched", after), range(0, STEPS + 1, 3), relative=1e-6
    )
