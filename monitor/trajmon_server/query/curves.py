"""Hallmarks over the checkpoints, of runs of any length, all of them or as many as a plot can show."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.names import Scope
from trajmon_server.auth import Principal
from trajmon_server.errors import Unavailable
from trajmon_server.query.core import Query, about_checkpoints, find_scope
from trajmon_server.query.strip_hallmarks import StripHallmarks
from trajmon_server.query.strip_reader import StripReader, note_lost
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import StoreError

__all__ = ["Chosen", "CurveReader", "Curves", "chosen"]

T = TypeVar("T")

BATCH_ENTRIES = 8_000_000
"""Gram entries worked off in one go: others who read wait for no more than that."""
MOST_BYTES = 64 << 20
"""Held between questions, for all scopes of all runs together."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which checkpoints of a path are told of."""

    total: int
    """Checkpoints on the path."""
    every: int
    """1: all of them; n: each n-th from the first on, and the last."""
    positions: NDArray[np.int64]
    """[m], ascending."""


def chosen(total: int, most: int | None) -> Chosen:
    """All of `total` checkpoints, or evenly spaced ones and the last, `most` or fewer; 2 or more, None for all.

    >>> chosen(10, 4).positions.tolist(), chosen(10, 4).every, chosen(3, 4).every
    ([0, 3, 6, 9], 3, 1)
    """
    every = 1 if most is None or total <= most else -(-(total - 1) // (most - 1))
    positions = np.arange(0, total, every, dtype=np.int64)
    if total and positions[-1] != total - 1:
        positions = np.append(positions, total - 1)
    return Chosen(total, every, positions)


@dataclass(frozen=True, slots=True)
class Curves:
    """Hallmarks and what is known of their checkpoints."""

    path: NDArray[np.int64]
    """[T], numbers of all checkpoints on the path."""
    chosen: Chosen
    columns: Mapping[str, NDArray[Any]]
    """[m] each, over the chosen checkpoints: `checkpoint`, `step`, `metric:NAME`, hallmarks, `error:NAME`."""


class CurveReader:
    """Reads long Grams strip by strip, and keeps what it made of them: a run that goes on costs its new rows alone."""

    def __init__(self, query: Query, reader: StripReader, rows: Rows, executor: Executor) -> None:
        self._query = query
        self._reader = reader
        self._rows = rows
        self._executor = executor
        self._known: OrderedDict[tuple[str, Scope], tuple[int, tuple[int, ...], StripHallmarks]] = (
            OrderedDict()
        )
        """By run and scope: generation, path, sums."""
        self._locks: dict[tuple[str, Scope], asyncio.Lock] = {}

    async def curves(self, run: Run, scope_text: str, caller: Principal, most: int | None) -> Curves:
        """Every hallmark of a scope, over all checkpoints of the path or `most` of them.

        Raises ServiceError for an unknown scope, and where estimates of more checkpoints than one map may have are
        asked for.
        """
        scope, index = find_scope(run, scope_text)
        if run.sketches.spec is not None:
            # Standard errors need the map as a whole.
            columns = await self._query.hallmarks(run.description.run_id, scope_text, caller)
            path = columns["checkpoint"]
            picked = chosen(len(path), most)
            return Curves(path, picked, {name: array[picked.positions] for name, array in columns.items()})
        await self._query.caught_up(run)
        known = run.analysis.path
        series = await self._series(run, scope, index, known)
        path = np.array(known, dtype=np.int64)
        picked = chosen(len(path), most)
        about = about_checkpoints(run, path[picked.positions])
        return Curves(
            path, picked, about | {name: values[picked.positions] for name, values in series.items()}
        )

    async def _series(
        self, run: Run, scope: Scope, index: int, path: tuple[int, ...]
    ) -> dict[str, NDArray[np.float64]]:
        key = run.description.run_id, scope
        async with self._locks.setdefault(key, asyncio.Lock()):
            generation = run.generation
            before = self._known.pop(key, None)
            is_further = (
                before is not None and before[0] == generation and path[: len(before[1])] == before[1]
            )
            sums = before[2] if before is not None and is_further else StripHallmarks()
            numbers = np.array(path, dtype=np.int64)
            published = await self._run(partial(self._reader.published, run))
            while sums.count < len(numbers):
                rows = max(1, BATCH_ENTRIES // (sums.count + 1))
                part = numbers[: sums.count + rows]
                lost = await self._run(partial(self._add, run, scope, index, sums, part))
                await note_lost(run, lost, self._rows, self._executor)
            if generation == run.generation and (not path or path[-1] < published):
                self._keep(key, (generation, path, sums))
            return await self._run(sums.series)

    def _keep(self, key: tuple[str, Scope], entry: tuple[int, tuple[int, ...], StripHallmarks]) -> None:
        self._known[key] = entry
        while sum(sums.nbytes for _, _, sums in self._known.values()) > MOST_BYTES and len(self._known) > 1:
            forgotten, _ = self._known.popitem(last=False)
            self._locks.pop(forgotten, None)

    def _add(
        self, run: Run, scope: Scope, index: int, sums: StripHallmarks, numbers: NDArray[np.int64]
    ) -> Sequence[int]:
        """Take in the rows of `numbers` that are not in the sums yet; returns those that are lost. Blocking."""
        start = sums.count
        told = self._reader.products(run, scope, index, numbers[start:])
        products = {name: np.concatenate([np.empty(start), values]) for name, values in told.columns.items()}
        for strip in self._reader.strips(run, scope, index, numbers, start):
            sums.add(strip, products)
        return told.lost

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error
