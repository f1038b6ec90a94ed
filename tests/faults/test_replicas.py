"""Three servers behind a proxy on one object store, killed at random under load."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pytest

from support.calls import get_map
from support.haproxy import proxied
from support.replicas import TOKEN, Cluster, open_run, push, until_served
from support.rows import SyntheticRun
from support.server import Client
from trajmon_protos.record import read_digest
from trajmon_server.store.leases import Leases

T = TypeVar("T")

KILLS = int(os.environ.get("REPLICA_KILLS", "20"))
RUNS = 30
ROWS = 2000
LEASE_SECONDS = 6.0
"""The default."""
HAND_OVER_SECONDS = 15.0
SETTLE_SECONDS = 90.0
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass
class Lane:
    """Hands in a run through the proxy, row after row, each until it is acknowledged."""

    address: str
    source: SyntheticRun
    stop: threading.Event
    acknowledged: list[tuple[float, bytes]] = field(default_factory=list)
    """When, and the digest, by checkpoint."""
    refusals: int = 0
    failure: str = ""

    def work(self) -> None:
        with Client(self.address, TOKEN) as client:
            opened = self._until(lambda: open_run(client, self.source))
            if opened is None:
                return
            epoch = opened.writer_epoch
            for checkpoint in range(ROWS):
                receipt = self._until(lambda: push(client, self.source, epoch, checkpoint))  # noqa: B023
                if receipt is None:
                    return
                if receipt.digest != read_digest(self.source.record(checkpoint)):
                    self.failure = f"checkpoint {checkpoint} was acknowledged with another digest"
                self.acknowledged.append((time.monotonic(), receipt.digest))
                # The store of the tests takes some 200 calls a second, and servers that come back read from it.
                self.stop.wait(2.5)

    def _until(self, call: Callable[[], T]) -> T | None:
        """What the call returns once it is served; None when told to stop."""
        while not self.stop.is_set() and not self.failure:
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() not in AGAIN:
                    self.failure = str(error)
                self.refusals += 1
                time.sleep(0.25)
        return None

    def seconds_to_next(self, moment: float) -> float | None:
        """From the moment until the next acknowledgement; None if there was none yet."""
        found = None
        for at, _ in reversed(self.acknowledged):
            if at <= moment:
                break
            found = at - moment
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", lease_seconds=LEASE_SECONDS)
    try:
        yield cluster.start()
    finally:
        cluster.close()


@contextlib.contextmanager
def running(lanes: list[Lane], stop: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=lane.work, name=lane.source.name, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)


def holders(cluster: Cluster) -> dict[str, int]:
    """The number of the server that holds each run, as the store has it."""
    looker = Leases(cluster.store.open(cluster.prefix), "looker", LEASE_SECONDS)
    looker.look_around()
    # Whose sign of life went while it was being looked at has no name, and holds nothing.
    numbers = {
        name: int(seen.server.removeprefix("server-")) for name, seen in looker._seen.items() if seen.server
    }
    held = {run_id: looker.holder(run_id).incarnation for run_id in looker.run_tags()}
    return {run_id: numbers[name] for run_id, name in held.items() if name in numbers}


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {SETTLE_SECONDS:.0f} s"
        time.sleep(0.05)


@pytest.mark.timeout(2400)
def test_killed_servers_hand_their_runs_over_and_lose_nothing(
    cluster: Cluster, tmp_path: Path, chance: random.Random, figure: Callable[[str], None]
) -> None:
    stop = threading.Event()
    hand_overs: list[float] = []
    with proxied(cluster.servers, tmp_path) as proxy:
        proxy.await_up(3)
        sources = [SyntheticRun(f"run-{n:02d}", seed=n, num_checkpoints=ROWS) for n in range(RUNS)]
        lanes = [Lane(proxy.grpc, source, stop) for source in sources]
        with running(lanes, stop):
            wait_until(lambda: all(lane.acknowledged for lane in lanes), "the first rows")
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.5, 4.0))
                victim = chance.choice(range(3))
                held = {run_id for run_id, number in holders(cluster).items() if number == victim}
                server = cluster.servers[victim]
                http = server.addresses["http"]
                moment = time.monotonic()
                server.kill()
                time.sleep(chance.uniform(0.0, 10.0))
                server.start("--http", http)
                wait_until(lambda: all(lane.seconds_to_next(moment) for lane in lanes), "rows after a kill")  # noqa: B023
                hand_overs += [
                    lane.seconds_to_next(moment) or 0.0 for lane in lanes if lane.source.run_id in held
                ]
                wait_until(lambda: proxy.states().count("UP") == 3, "three servers that are ready")
    assert [lane.failure for lane in lanes if lane.failure] == []
    for number in range(3):
        with cluster.client(number) as client:
            for lane in chance.sample(lanes, 3):
                wait_for_map(client, lane)
    # They would go on asking the store for what is new, which is slow enough at giving back what it has.
    cluster.kill_servers()
    journal = cluster.journal()
    for lane in lanes:
        run_id, digests = lane.source.run_id, [digest for _, digest in lane.acknowledged]
        stored = [(key.checkpoint, key.part) for key in journal.list_rows(run_id)]
        # The last row may have been stored and its acknowledgement not awaited.
        assert stored in ([(t, 0) for t in range(len(digests))], [(t, 0) for t in range(len(digests) + 1)])
        assert [read_digest(journal.read(run_id, t)) for t in range(len(digests))] == digests
    total = sum(len(lane.acknowledged) for lane in lanes)
    figure(
        f"{KILLS} kills, {RUNS} runs: {total} rows acknowledged, each stored once; {len(hand_overs)} hand-overs: "
        f"median {np.median(hand_overs):.1f} s, longest {max(hand_overs):.1f} s; "
        f"{sum(lane.refusals for lane in lanes)} refusals"
    )
    assert len(hand_overs) > KILLS
    assert max(hand_overs) < HAND_OVER_SECONDS


def wait_for_map(client: Client, lane: Lane) -> None:
    """The server shows the run's products as the parameters say."""
    count = len(lane.acknowledged)
    shown: dict[str, np.ndarray] = {}

    def is_there() -> bool:
        nonlocal shown
        # A server that has just come back answers UNAVAILABLE until it has worked off the run.
        shown = until_served(lambda: get_map(client, lane.source.name), SETTLE_SECONDS)
        return len(shown["gram"]) >= count

    wait_until(is_there, f"{count} checkpoints of {lane.source.name}")
    flat = lane.source.parameters[:count].reshape(count, -1)
    np.testing.assert_allclose(shown["gram"][:count, :count], flat @ flat.T, rtol=1e-12)
