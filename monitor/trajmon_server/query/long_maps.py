"""Maps of runs too long for one piece of memory: read strip by strip, shown reduced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.names import Scope
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, Unavailable, Violation
from trajmon_server.query.core import MapQuery, Query, find_scope
from trajmon_server.query.reduce import block_size, block_starts
from trajmon_server.query.strip_reader import StripReader, note_lost
from trajmon_server.query.strips import About, BlockSums, cosine_strips
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import StoreError

__all__ = ["LongMap", "LongMaps"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LongMap:
    """A map over T checkpoints, reduced to m x m blocks."""

    scope: Scope
    map: NDArray[np.float64]
    """[m, m] means of defined entries; NaN for a block without any."""
    mean: float
    """Of all defined entries of the whole map."""
    block: int
    """Checkpoints in a block."""
    checkpoint: NDArray[np.int64]
    """[T]"""
    step: NDArray[np.int64]
    """[T]"""
    mode: NDArray[np.uint8]
    """[T]"""


class LongMaps:
    """Answers where `limits.max_map_checkpoints` keeps the query core from it."""

    def __init__(
        self, query: Query, reader: StripReader, rows: Rows, limits: Limits, executor: Executor
    ) -> None:
        self._query = query
        self._reader = reader
        self._rows = rows
        self._limits = limits
        self._executor = executor

    def numbers(self, run: Run, query: MapQuery) -> list[int]:
        """The checkpoints that a query is about."""
        known = range(run.analysed) if query.include_superseded else run.analysis.path
        stop = run.num_checkpoints if query.stop is None else query.stop
        return [number for number in known if (query.start or 0) <= number < stop]

    def is_long(self, run: Run, query: MapQuery) -> bool:
        """Whether the map has to be read strip by strip, and can be: it is linear and has no estimates."""
        if query.kernel != "linear" or run.sketches.spec is not None:
            return False
        return len(self.numbers(run, query)) > self._limits.max_map_checkpoints

    async def map(self, run: Run, query: MapQuery, size: int) -> LongMap:
        """The map, reduced to at most `size` blocks; nothing is left out at a relative map but its own checkpoint."""
        scope, index = find_scope(run, query.scope)
        await self._query.caught_up(run)
        numbers = np.array(self.numbers(run, query), dtype=np.int64)
        about = await self._about(run, scope, index, numbers, query.relative_to)
        # The checkpoint that the map is about takes no place in it.
        kept = np.delete(np.arange(len(numbers)), [] if about is None else [about.position])
        block = block_size(len(kept), size)
        starts = kept[block_starts(len(kept), block)]
        starts[:1] = 0
        sums = BlockSums(starts, len(numbers))

        def read() -> tuple[NDArray[np.float64], float]:
            strips = self._reader.strips(run, scope, index, numbers)
            for start, entries in cosine_strips(strips, len(numbers), about):
                sums.add(start, entries)
            return sums.means()

        means, mean = await self._run(read)
        numbers = numbers[kept]
        metas = [run.metas.get(int(number)) for number in numbers]
        return LongMap(
            scope,
            means,
            mean,
            block,
            numbers,
            np.array([meta.step if meta else -1 for meta in metas], dtype=np.int64),
            np.array([meta is not None and meta.is_norm_only for meta in metas], dtype=np.uint8),
        )

    async def _about(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64], tau: int | None
    ) -> About | None:
        if tau is None:
            return None
        found = np.flatnonzero(numbers == tau)
        if not found.size:
            text = f"checkpoint {tau} is not among those of the map ({numbers[0]} to {numbers[-1]})"
            raise InvalidRequest.from_violations([Violation("relative_to", text)])
        position = int(found[0])
        columns = numbers[: position + 1]
        row = await self._run(lambda: self._reader.row(run, scope, index, tau, columns))
        exact = None
        if position == 0 and numbers[0] == 0:
            told = await self._run(lambda: self._reader.products(run, scope, index, numbers))
            await note_lost(run, told.lost, self._rows, self._executor)
            exact = told.columns["displacement_squared"]
        return About(position, row, exact)

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error
