"""What the HTTP application answers from. It is served before the journal has been read: then there is nothing yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from trajmon_server.config import Limits
from trajmon_server.errors import Unavailable
from trajmon_server.ingest.quota import ByteBudget
from trajmon_server.query.core import Query
from trajmon_server.query.cross import CrossQuery
from trajmon_server.query.curves import CurveReader
from trajmon_server.query.layers import LayerReader
from trajmon_server.query.long_maps import LongMaps
from trajmon_server.query.published import Published
from trajmon_server.query.strip_reader import StripReader
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.store.base import Journal
from trajmon_server.web.feed import Feeds

__all__ = ["Backend", "Readers", "open_readers"]

T = TypeVar("T")

MAPS_AT_ONCE = 4
"""So many of the largest maps may be on their way; more smaller ones."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Whoever knows the answers."""

    query: Query
    cross: CrossQuery
    long_maps: LongMaps
    curves: CurveReader
    layers: LayerReader
    published: Published
    limits: Limits
    budget: ByteBudget
    """Memory that maps under way may hold."""
    executor: Executor

    def map_bytes(self, run: Run) -> int:
        """What an answer with one of the run's maps holds at most: map, Gram and one more such array meanwhile."""
        return 3 * 8 * min(run.num_checkpoints, self.limits.max_map_checkpoints) ** 2

    async def run(self, action: Callable[[], T]) -> T:
        """Compute in a thread; no more at once than the server has for reading."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, action)


class Backend:
    """Filled once the journal has been read. Used on the event loop."""

    def __init__(self) -> None:
        self._readers: Readers | None = None
        self.feeds = Feeds()

    @property
    def is_open(self) -> bool:
        """Whether questions can be answered."""
        return self._readers is not None

    @property
    def readers(self) -> Readers:
        """Whoever knows the answers; Unavailable before the journal has been read."""
        if self._readers is None:
            raise Unavailable(
                "NOT_READY", "the server is starting: the journal is being read", retry_seconds=2.0
            )
        return self._readers

    def open(self, readers: Readers) -> None:
        """From here, questions are answered."""
        self._readers = readers

    def close(self) -> None:
        """End what would last: pages that listen."""
        self.feeds.close()


def open_readers(
    query: Query, cross: CrossQuery, registry: Registry, journal: Journal, limits: Limits, executor: Executor
) -> Readers:
    """Whoever knows the answers, over one journal."""
    rows = Rows(journal, registry.count_event)
    reader = StripReader(registry, rows)
    largest = 3 * 8 * limits.max_map_checkpoints**2
    return Readers(
        query=query,
        cross=cross,
        long_maps=LongMaps(query, reader, rows, limits, executor),
        curves=CurveReader(query, reader, rows, executor),
        layers=LayerReader(rows, registry, executor),
        published=Published(registry, executor),
        limits=limits,
        budget=ByteBudget(MAPS_AT_ONCE * largest, "maps"),
        executor=executor,
    )
