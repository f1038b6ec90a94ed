"""A real training whose agent calls three servers through a proxy, while its server is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.runs import end_agents, run_dirs, wait_for_agents
from support.calls import get_map
from support.haproxy import proxied
from support.replicas import TOKEN, Cluster
from support.training import TrainingProcess
from support.truth import Truth
from trajmon.rundir import RunDescription
from trajmon_protos.record import decode
from trajmon_server.store.leases import Leases

STEPS, EVERY = 300, 5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    try:
        yield cluster.start()
    finally:
        cluster.close()


def holder(cluster: Cluster, run_id: str) -> int:
    """Number of the server that holds the run, as soon as one does."""
    objects = cluster.store.open(cluster.prefix)
    leases = Leases(objects, "looker", cluster.lease_seconds)
    deadline = time.monotonic() + 30.0
    while not (incarnation := leases.holder(run_id).incarnation):
        assert time.monotonic() < deadline, "nobody holds the run"
        time.sleep(0.1)
    found = objects.get(f"leases/servers/{incarnation}.json").data.decode()
    return next(number for number in range(cluster.count) if f'"server-{number}"' in found)


def recorded(cluster: Cluster, home: Path) -> str | None:
    """Id of the run of which something has been taken in."""
    for run_dir in run_dirs(home):
        run_id = RunDescription.read(run_dir).run_id
        if cluster.journal().list_rows(run_id):
            return run_id
    return None


def test_a_training_is_recorded_whole_while_its_servers_die(
    cluster: Cluster, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    steps = list(range(0, STEPS + 1, EVERY))
    with proxied(cluster.servers, tmp_path) as proxy:
        proxy.await_up(3)
        training = TrainingProcess.start(
            tmp_path / "training",
            *("--run", "watched", "--home", str(home), "--server", proxy.grpc, "--keep"),
            *("--steps", str(STEPS), "--every", str(EVERY), "--pause", "0.12"),
            TRAJMON_TOKEN=TOKEN,
        )
        try:
            kills, deadline = 0, time.monotonic() + 60.0
            while (run_id := recorded(cluster, home)) is None:
                assert time.monotonic() < deadline, "nothing is recorded"
                time.sleep(0.2)
            while training.process.poll() is None and kills < 3:
                time.sleep(6.0)
                server = cluster.servers[holder(cluster, run_id)]
                server.kill()
                server.start("--http", server.addresses["http"])
                kills += 1
            training.wait()
            waited = wait_for_agents(home)
        finally:
            training.process.kill()
            end_agents(home)
        journal = cluster.journal()
        assert kills >= 2
        assert [(key.checkpoint, key.part) for key in journal.list_rows(run_id)] == [
            (number, 0) for number in range(len(steps))
        ]
        truth = Truth.load(tmp_path / "training" / "kept.npz")
        for number in range(len(steps)):
            truth.assert_row(
                decode(journal.read(run_id, number)), steps[: number + 1], list(range(number + 1))
            )
        for number in range(3):
            with cluster.client(number) as client:
                deadline = time.monotonic() + 60.0
                while len((shown := get_map(client, "watched"))["gram"]) < len(steps):
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                truth.assert_gram(shown["gram"], steps)
    figure(
        f"{kills} kills under a training of {len(steps)} checkpoints; its agent ended {waited:.1f} s after its work"
    )
