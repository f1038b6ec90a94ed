"""Maps and hallmarks of runs too long for one piece of memory: read strip by strip, shown reduced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.names import Scope
from trajmon_protos.record import PRODUCTS
from trajmon_server.auth import Principal
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, Unavailable, Violation
from trajmon_server.hallmarks import stream
from trajmon_server.hallmarks.series import HALLMARKS
from trajmon_server.query.core import MapQuery, Query, about_checkpoints, find_scope
from trajmon_server.query.reduce import block_size, block_starts
from trajmon_server.query.strips import About, BlockSums, GramStrip, cosine_strips
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import RowDamagedError, RowMissingError, StoreError
from trajmon_server.store.layout import STRIP_ROWS

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
        self, query: Query, registry: Registry, rows: Rows, limits: Limits, executor: Executor
    ) -> None:
        self._query = query
        self._registry = registry
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
            strips = self._strips(run, scope, index, numbers)
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
        strip = tau // STRIP_ROWS

        def read() -> NDArray[np.float64]:
            rows = self._registry.maps(run.description).read_strip(scope.kind, index, strip)
            return np.asarray(rows[tau - strip * STRIP_ROWS, numbers[: position + 1]], dtype=np.float64)

        row = await self._run(read)
        exact = None
        if position == 0 and numbers[0] == 0:
            products = await self._run(lambda: self._products(run, scope, index, numbers))
            exact = products["displacement_squared"]
        return About(position, row, exact)

    async def hallmarks(self, run: Run, scope_text: str, caller: Principal) -> Mapping[str, NDArray[Any]]:
        """Every hallmark over the run's checkpoints, however many."""
        if not self.is_long(run, MapQuery(scope=scope_text)):
            return await self._query.hallmarks(run.description.run_id, scope_text, caller)
        scope, index = find_scope(run, scope_text)
        await self._query.caught_up(run)
        numbers = np.array(self.numbers(run, MapQuery()), dtype=np.int64)
        products = await self._run(lambda: self._products(run, scope, index, numbers))
        series = await self._run(lambda: self._series(run, scope, index, numbers, products))
        return about_checkpoints(run, numbers) | series

    def _series(
        self,
        run: Run,
        scope: Scope,
        index: int,
        numbers: NDArray[np.int64],
        products: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float64]]:
        """Row by row, as they were analysed when they came. Blocking."""
        series = {name: np.full(len(numbers), np.nan) for name in HALLMARKS}
        state = stream.init()
        for strip in self._strips(run, scope, index, numbers):
            for offset, row in enumerate(strip.rows):
                t = strip.start + offset
                told: dict[str, Any] = {name: float(column[t]) for name, column in products.items()}
                state = stream.update(state, stream.GramRow(row[: t + 1], **told))
                for name, value in stream.latest(state).items():
                    series[name][t] = value
        return series

    def _strips(self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]) -> Iterator[GramStrip]:
        """The Gram over the checkpoints `numbers`, ascending. Blocking."""
        maps = self._registry.maps(run.description)
        published = maps.published()
        for strip in np.unique(numbers // STRIP_ROWS).tolist():
            first, last = np.searchsorted(numbers, (strip * STRIP_ROWS, (strip + 1) * STRIP_ROWS)).tolist()
            wanted, columns = numbers[first:last] - strip * STRIP_ROWS, numbers[:last]
            if strip * STRIP_ROWS >= published:
                yield GramStrip(first, np.full((len(wanted), len(columns)), np.nan))
                continue
            rows = maps.read_strip(scope.kind, index, strip)
            if len(rows) <= wanted[-1] or rows.shape[1] <= columns[-1]:
                # Lost rows at the very end are published with the next row only.
                whole = np.full((STRIP_ROWS, int(columns[-1]) + 1), np.nan)
                whole[: len(rows), : rows.shape[1]] = rows[:, : whole.shape[1]]
                rows = whole
            if columns[-1] == last - 1:  # none is left out: no copy is needed
                yield GramStrip(first, rows[wanted[0] : wanted[-1] + 1, :last])
            else:
                yield GramStrip(first, rows[np.ix_(wanted, columns)])

    def _products(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        """The update products of a scope, each [T]; NaN where a row cannot be read. Blocking."""
        members = [index] if scope.kind == "layer" else list(run.description.groups[index].layers)
        columns = np.full((len(numbers), len(PRODUCTS)), np.nan)
        for position, number in enumerate(numbers.tolist()):
            if number in run.metas:
                try:
                    columns[position] = self._rows.products(run.description, number)[members].sum(axis=0)
                except (RowDamagedError, RowMissingError):
                    self._rows.count_event("damaged_rows")
        return {name: columns[:, column] for column, name in enumerate(PRODUCTS)}

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error
