"""Several servers' insides on one object store in memory: rounds are made by the test, and time passes when it says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from obstore.store import MemoryStore

from support.rows import Cut, SyntheticRun
from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import Limits
from trajmon_server.ingest.service import Ingest, Receipt
from trajmon_server.runs.following import Follower
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.replicas import Replica
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.runs.worker import Worker
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy
from trajmon_server.store.leases import Leases
from trajmon_server.store.names import Names
from trajmon_server.store.object_journal import ObjectJournal
from trajmon_server.store.objects import Objects

CALLER = Principal(LOCAL_TEAM, "write")
SECONDS = 6.0


@dataclass
class Peer:
    """One server: journal, leases, registry, ingest. It begins to live on the event loop, with `join`."""

    folder: Path
    executor: ThreadPoolExecutor
    objects: Objects
    name: str
    time: list[float]
    epochs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = ObjectJournal(self.objects)
        policy = RemainingDisplacementPolicy()
        self.registry = Registry(self.journal, self.folder / self.name / "maps", policy, 3600.0)
        self.worker = Worker(self.registry, self.journal, policy, self.executor)
        self.registry.on_wake(self.worker.wake)
        self.leases = Leases(self.objects, self.name, SECONDS, lambda: self.time[0])
        rows = Rows(self.journal, self.registry.count_event)
        self.replica = Replica(
            self.leases,
            Names(self.objects),
            self.journal,
            self.registry,
            Follower(self.journal, rows),
            self.executor,
            lambda runs: self.worker.catch_up(runs, 1),
            5.0,
        )
        self.ingest = Ingest(
            self.journal,
            self.registry,
            Limits(min_free_disk_bytes=0),
            self.executor,
            self.folder,
            lambda *_: None,
            self.replica,
        )

    def join(self) -> Peer:
        self.leases.begin()
        return self

    def run(self, source: SyntheticRun) -> Run:
        run = self.registry.get(source.run_id)
        assert run is not None
        return run

    async def open(self, source: SyntheticRun, attempt: int = 1) -> Run:
        run = await self.ingest.open_run(source.open_request(attempt), CALLER)
        self.epochs[source.run_id] = run.control.writer_epoch
        return run

    async def push(self, source: SyntheticRun, record: bytes, epoch: int = 1) -> Receipt:
        return await self.ingest.push(source.run_id, epoch, record, CALLER)

    async def push_part(self, source: SyntheticRun, cut: Cut, part: int, record: bytes) -> Receipt:
        return await self.ingest.push(source.run_id, 1, record, CALLER, cut.writer(part))

    async def round(self) -> None:
        """What is done every few seconds."""
        await self.replica.attend()
        await self.replica.follow()

    async def gram(self, source: SyntheticRun) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The map that readers are shown, once all is worked off."""
        run = self.run(source)
        self.registry.wake(run)
        assert await run.wait_analysed(run.num_checkpoints, 60), run.failure
        return self.registry.maps(run.description).read_map("group", 0, np.array(run.path))


class Peers:
    """The servers, their store, and the time that passes for them."""

    def __init__(self, folder: Path, executor: ThreadPoolExecutor) -> None:
        self.folder, self.executor = folder, executor
        self.store = MemoryStore()
        self.time = [1000.0]
        self.all: list[Peer] = []

    def add(self, name: str, objects: Objects | None = None) -> Peer:
        """A server; one that comes back under a name has the maps of before."""
        peer = Peer(self.folder, self.executor, objects or self.objects(), name, self.time)
        self.all.append(peer)
        return peer.join()

    def objects(self) -> Objects:
        return Objects(self.store, "memory://")

    def pass_time(self, seconds: float, living: Sequence[Peer]) -> None:
        """Only these servers give a sign of life meanwhile."""
        for _ in range(round(seconds)):
            self.time[0] += 1.0
            for peer in living:
                peer.leases.renew()
                peer.leases.look_around()

    def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            try:
                await asyncio.wait_for(scenario, 60)
            finally:
                for peer in self.all:
                    await peer.ingest.drain()
                    await peer.worker.stop()

        asyncio.run(whole())
