"""The ingest core over a real journal, and the agents' side of the conversation with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from support.house import House
from support.rows import Cut, SyntheticRun
from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import Limits
from trajmon_server.ingest.service import Ingest, Receipt
from trajmon_server.runs.ownership import Alone
from trajmon_server.runs.run import Run
from trajmon_server.signals.base import Policy
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy

CALLER = Principal(LOCAL_TEAM, "write")


class Server:
    """The server's inside, and the agents' side of the conversation with it."""

    def __init__(
        self, folder: Path, executor: ThreadPoolExecutor, policy: Policy[Any] | None = None, **limits: int
    ) -> None:
        self.folder, self.executor, self.limits = folder, executor, limits
        self.policy = RemainingDisplacementPolicy() if policy is None else policy
        self.start()

    def start(self) -> None:
        """Begin with what is on disk."""
        self.house = House(self.folder, self.executor, self.policy)
        self.house.registry.recover()
        limits = Limits(**{"min_free_disk_bytes": 0, **self.limits})
        self.ingest = Ingest(
            self.house.journal,
            self.house.registry,
            limits,
            self.executor,
            self.folder,
            lambda *_: None,
            Alone(),
        )
        self.epochs: dict[tuple[str, str], int] = {}

    async def restart(self) -> None:
        await self.house.worker.stop()
        self.start()

    def run(self, source: SyntheticRun) -> Run:
        run = self.house.registry.find(source.run_id, LOCAL_TEAM)
        assert run is not None
        return run

    async def open(self, source: SyntheticRun, cut: Cut, part: int, first_checkpoint: int = 0) -> int:
        """Returns the writer's next checkpoint."""
        name = cut.writer(part)
        run = await self.ingest.open_run(source.part_request(cut, part, first_checkpoint), CALLER)
        self.epochs[source.run_id, name] = run.control.writers[name].epoch
        return run.next_for(name)

    async def push(self, source: SyntheticRun, cut: Cut, part: int, record: bytes) -> int:
        """Returns the writer's next checkpoint."""
        name = cut.writer(part)
        if (source.run_id, name) not in self.epochs:
            await self.open(source, cut, part)
        epoch = self.epochs[source.run_id, name]
        receipt = await self.ingest.push(source.run_id, epoch, record, CALLER, name)
        return receipt.next_checkpoint

    async def hand_in(self, source: SyntheticRun, cut: Cut, part: int, checkpoint: int) -> int:
        return await self.push(source, cut, part, source.part_record(checkpoint, cut, part))

    def rows(self, source: SyntheticRun) -> Path:
        return self.folder / "journal" / source.run_id / "rows"

    def stored(self, source: SyntheticRun) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.rows(source).glob("*"))}

    async def gram(self, source: SyntheticRun) -> np.ndarray[Any, np.dtype[np.float64]]:
        """As readers see it, once everything that came is worked off."""
        run = self.run(source)
        self.house.registry.wake(run)
        assert await run.wait_analysed(run.num_checkpoints, 60), run.failure
        maps = self.house.registry.maps(run.description)
        return maps.read_map("group", 0, np.array(run.path))

    async def open_whole(self, source: SyntheticRun, attempt: int = 1) -> None:
        """As an agent that hands in whole rows."""
        run = await self.ingest.open_run(source.open_request(attempt), CALLER)
        self.epochs[source.run_id, ""] = run.control.writer_epoch

    async def push_whole(self, source: SyntheticRun, record: bytes) -> Receipt:
        """A row or a sketch, whole."""
        if (source.run_id, "") not in self.epochs:
            await self.open_whole(source)
        return await self.ingest.push(source.run_id, self.epochs[source.run_id, ""], record, CALLER)


def play(server: Server, scenario: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        await scenario
        await server.house.worker.stop()

    asyncio.run(whole())
