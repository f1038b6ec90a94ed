"""Servers that share an object store, while that is away."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from support.calls import refused
from support.replicas import Cluster, open_run, push, until_served
from support.rows import SyntheticRun

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("replicas"), count=2)
    try:
        yield cluster.start()
    finally:
        cluster.store.resume()
        cluster.close()


def readiness(cluster: Cluster, number: int) -> str:
    """What the server says; empty if it is ready."""
    try:
        with urllib.request.urlopen(f"http://{cluster.servers[number].addresses['http']}/readyz", timeout=10):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_a_store_that_hangs_ends_the_leases_and_no_server(cluster: Cluster) -> None:
    run = SyntheticRun("hangs")
    with cluster.client(0) as first, cluster.client(1) as second:
        epoch = open_run(first, run).writer_epoch
        push(first, run, epoch, 0)
        cluster.store.pause()
        try:
            refused(UNAVAILABLE, None, "", lambda: push(first, run, epoch, 1))
            for number in range(2):
                assert "no lease can be renewed" in readiness(cluster, number)
        finally:
            cluster.store.resume()
        for checkpoint, client in ((1, first), (2, second)):
            until_served(lambda: push(client, run, epoch, checkpoint), 30.0)  # noqa: B023
    assert (
        "lease_not_renewed" in cluster.servers[0].log or "leases cannot be renewed" in cluster.servers[0].log
    )
    assert [key.checkpoint for key in cluster.journal().list_rows(run.run_id)] == [0, 1, 2]


def test_a_server_stops_in_time_though_the_store_hangs(cluster: Cluster) -> None:
    run = SyntheticRun("stops")
    with cluster.client(1) as client:
        push(client, run, open_run(client, run).writer_epoch, 0)
    cluster.store.pause()
    try:
        process = cluster.servers[1].process
        assert process is not None
        process.terminate()
        # A read of the store is given up after 20 s; nothing waits for a second one.
        assert process.wait(timeout=30) == 0
    finally:
        cluster.store.resume()
    cluster.servers[1].start()
    with cluster.client(1) as client:
        epoch = until_served(lambda: open_run(client, run), 20.0).writer_epoch
        push(client, run, epoch, 1)
