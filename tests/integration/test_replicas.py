"""Three servers on one object store: one writes a run at a time, any answers, and runs change hands."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from support import calls
from support.calls import get_hallmarks, get_map, open_part, push_part, refused
from support.replicas import Cluster, open_run, push, until_served
from support.rows import Cut, SyntheticRun
from support.server import Client
from support.sketched_rows import SketchedRun

READ_SECONDS = 30.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("replicas"))
    try:
        yield cluster.start()
    finally:
        cluster.close()


def wait_for_rows(client: Client, run: SyntheticRun, count: int) -> dict[str, np.ndarray]:
    """The run's map once it has so many checkpoints."""
    deadline = time.monotonic() + READ_SECONDS
    while True:
        try:
            shown = get_map(client, run.name)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            shown = {"gram": np.empty(0)}
        if len(shown["gram"]) == count:
            return shown
        assert time.monotonic() < deadline, (
            f"{len(shown['gram'])} of {count} checkpoints after {READ_SECONDS} s"
        )
        time.sleep(0.2)


def assert_stored_once(cluster: Cluster, run: SyntheticRun, count: int) -> None:
    journal = cluster.journal()
    assert [(key.checkpoint, key.part) for key in journal.list_rows(run.run_id)] == [
        (t, 0) for t in range(count)
    ]
    for checkpoint in range(count):
        assert journal.read(run.run_id, checkpoint) == run.record(checkpoint)


def test_any_server_answers_what_one_has_taken_in(cluster: Cluster) -> None:
    run = SyntheticRun("read-anywhere")
    with cluster.client(0) as writer, cluster.client(1) as second, cluster.client(2) as third:
        epoch = open_run(writer, run).writer_epoch
        for checkpoint in range(6):
            push(writer, run, epoch, checkpoint)
        expected = wait_for_rows(writer, run, 6)
        for reader in (second, third):
            shown = wait_for_rows(reader, run, 6)
            np.testing.assert_array_equal(shown["gram"], expected["gram"])
            for name, values in get_hallmarks(writer, run.name).items():
                np.testing.assert_array_equal(get_hallmarks(reader, run.name)[name], values, err_msg=name)
        # They follow while the run goes on.
        push(writer, run, epoch, 6)
        wait_for_rows(third, run, 7)


def test_a_second_server_is_no_writer_until_the_first_lets_go(cluster: Cluster) -> None:
    run = SyntheticRun("two-doors")
    with cluster.client(0) as first, cluster.client(1) as second:
        epoch = open_run(first, run).writer_epoch
        push(first, run, epoch, 0)
        refused(UNAVAILABLE, "NOT_HERE", "server-0 holds the run", lambda: push(second, run, epoch, 1))
        # Nobody calls at the first any more: it lets go because it is asked to.
        assert until_served(lambda: push(second, run, epoch, 1), 20.0).next_checkpoint == 2
        refused(UNAVAILABLE, "NOT_HERE", "server-1 holds the run", lambda: push(first, run, epoch, 2))
        push(second, run, epoch, 2)
    assert_stored_once(cluster, run, 3)


def test_a_name_is_one_runs_on_all_servers(cluster: Cluster) -> None:
    run, other = SyntheticRun("same-name", seed=1), SyntheticRun("same-name", seed=2)
    with cluster.client(0) as first, cluster.client(1) as second:
        open_run(first, run)
        refused(grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN", run.run_id, lambda: open_run(second, other))
    assert other.run_id not in cluster.journal().list_runs()


def test_a_killed_server_hands_its_runs_over_and_comes_back(cluster: Cluster) -> None:
    run = SyntheticRun("handed-over")
    with cluster.client(2) as first, cluster.client(0) as heir:
        epoch = open_run(first, run).writer_epoch
        for checkpoint in range(3):
            push(first, run, epoch, checkpoint)
        cluster.servers[2].kill()
        # The epoch that the agent holds is still good: only the server has changed.
        assert until_served(lambda: push(heir, run, epoch, 3), 15.0).next_checkpoint == 4
        cluster.servers[2].start()
        push(heir, run, epoch, 4)
        with cluster.client(2) as back:
            wait_for_rows(back, run, 5)
    assert_stored_once(cluster, run, 5)


def test_a_row_whose_parts_came_to_two_servers_is_their_sum(cluster: Cluster) -> None:
    run = SyntheticRun("in-parts", num_checkpoints=4)
    cut = Cut.of(run, 2)
    with cluster.client(1) as first, cluster.client(2) as heir:
        epochs = [open_part(first, run, cut, part).writer_epoch for part in range(2)]
        for part in range(2):
            push_part(first, run, cut, part, epochs[part], run.part_record(0, cut, part))
        push_part(first, run, cut, 0, epochs[0], run.part_record(1, cut, 0))
        assert cluster.servers[1].stop() == 0
        try:
            for checkpoint, part in ((1, 1), (2, 1), (2, 0)):
                record = run.part_record(checkpoint, cut, part)
                until_served(lambda: push_part(heir, run, cut, part, epochs[part], record), 15.0)  # noqa: B023
        finally:
            cluster.servers[1].start()
        with cluster.client(1) as back:
            shown = wait_for_rows(back, run, 3)
    np.testing.assert_allclose(shown["gram"], run.gram([0, 1, 2]), rtol=1e-13)


def test_sketches_that_came_to_two_servers_fill_the_same_holes(cluster: Cluster) -> None:
    run, count = SketchedRun("sketched", num_checkpoints=8), 8
    with cluster.client(2) as first, cluster.client(0) as heir:
        epoch = open_run(first, run).writer_epoch
        for checkpoint in range(count):
            if checkpoint == 5:
                assert cluster.servers[2].stop() == 0
            client = first if checkpoint < 5 else heir
            for record in (run.sketch_record(checkpoint), run.record(checkpoint)):
                until_served(lambda: calls.push(client, run, epoch, record), 15.0)  # noqa: B023
        written = wait_for_rows(heir, run, count)
        cluster.servers[2].start()
        with cluster.client(2) as back:
            read = wait_for_rows(back, run, count)
    assert np.isfinite(written["map"]).all()
    for name, values in written.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)


def test_a_server_that_is_stopped_gives_its_runs_away_at_once(cluster: Cluster) -> None:
    run = SyntheticRun("given-away")
    with cluster.client(1) as first, cluster.client(0) as heir:
        epoch = open_run(first, run).writer_epoch
        push(first, run, epoch, 0)
        assert cluster.servers[1].stop() == 0
        try:
            until_served(lambda: push(heir, run, epoch, 1), 5.0)
        finally:
            cluster.servers[1].start()
    assert_stored_once(cluster, run, 2)


def test_a_run_that_nobody_calls_for_is_taken_up_and_exported_by_one(cluster: Cluster) -> None:
    run = SyntheticRun("left-alone")
    with cluster.client(0) as first:
        epoch = open_run(first, run).writer_epoch
        push(first, run, epoch, 0)
    cluster.servers[0].kill()
    try:
        deadline = time.monotonic() + READ_SECONDS
        while (exporting := [n for n in (1, 2) if exports(cluster, n, run)]) == []:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    finally:
        cluster.servers[0].start()
    assert len(exporting) == 1
    assert not exports(cluster, 0, run)


def exports(cluster: Cluster, number: int, run: SyntheticRun) -> bool:
    address = cluster.servers[number].addresses["metrics"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return f'run="{run.name}"' in answer.read().decode()


def test_a_frozen_server_acknowledges_nothing_once_it_wakes(cluster: Cluster) -> None:
    run = SyntheticRun("frozen")
    with cluster.client(0) as frozen, cluster.client(1) as heir, ThreadPoolExecutor(1) as executor:
        epoch = open_run(frozen, run).writer_epoch
        push(frozen, run, epoch, 0)
        cluster.servers[0].signal(signal.SIGSTOP)
        try:
            # It waits in the frozen server's socket.
            waiting = executor.submit(push, frozen, run, epoch, 1)
            until_served(lambda: push(heir, run, epoch, 1), 15.0)
            push(heir, run, epoch, 2)
        finally:
            cluster.servers[0].signal(signal.SIGCONT)
        refused(UNAVAILABLE, None, "", waiting.result)
        push(heir, run, epoch, 3)
        wait_for_rows(frozen, run, 4)
    assert_stored_once(cluster, run, 4)
