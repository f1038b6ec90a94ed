"""The query core: typed answers about runs, maps and hallmarks.

Reading never holds a run's lock and computes in threads, so that ingest goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from trajmon_protos.errors import ScopeError
from trajmon_protos.names import Scope, parse_scope
from trajmon_protos.record import PRODUCTS
from trajmon_server.auth import Principal
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, NotFound, Unavailable, Violation
from trajmon_server.hallmarks.kernels import polynomial_map, rbf_map
from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.series import hallmark_series
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows, settle
from trajmon_server.runs.run import Run
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import RowDamagedError, RowMissingError, StoreError

__all__ = ["Kernel", "MapAnswer", "MapQuery", "Query"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

Kernel = Literal["linear", "rbf", "polynomial"]
CATCH_UP_SECONDS = 20.0
"""How long a query waits for rows that are acknowledged but not yet published."""


@dataclass(frozen=True, slots=True)
class MapQuery:
    """Which map is asked for."""

    scope: str = "network"
    relative_to: int | None = None
    """Number of the checkpoint that cosines are taken about; None: the origin."""
    kernel: Kernel = "linear"
    start: int | None = None
    """First checkpoint number, inclusive."""
    stop: int | None = None
    """Last checkpoint number, exclusive."""
    include_superseded: bool = False


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """One map, over T checkpoints. For a relative map, checkpoint tau itself is left out."""

    scope: Scope
    map: NDArray[np.float64]
    """[T, T], NaN where undefined."""
    gram: NDArray[np.float64]
    """[T, T] inner products about the origin, NaN where missing."""
    checkpoint: NDArray[np.int64]
    """[T] checkpoint numbers."""
    step: NDArray[np.int64]
    """[T] training steps."""
    mode: NDArray[np.uint8]
    """[T] 1 where only the scalars of normalisation layers were trained, else 0."""


class Query:
    """Answers questions. One instance per server, used from its event loop."""

    def __init__(self, registry: Registry, journal: Journal, limits: Limits, executor: Executor) -> None:
        self._registry = registry
        self._rows = Rows(journal, registry.count_event)
        self._limits = limits
        self._executor = executor

    def runs(self, caller: Principal, name_contains: str = "") -> list[Run]:
        """The caller's runs, newest first."""
        found = [run for run in self._registry.runs(caller.team) if name_contains in run.description.name]
        return sorted(found, key=lambda run: (-run.description.created_unix_seconds, run.description.run_id))

    def require(self, run: str, caller: Principal) -> Run:
        """The run with this name or id."""
        found = self._registry.find_by_name(run, caller.team) or self._registry.find(run, caller.team)
        if found is None:
            raise NotFound("NO_SUCH_RUN", f"no run named {run[:64]!r}; `trajmon runs` lists what there is")
        return found

    async def map(self, run_name: str, query: MapQuery, caller: Principal) -> MapAnswer:
        """One map."""
        run = self.require(run_name, caller)
        scope, index = find_scope(run, query.scope)
        await self._caught_up(run)
        numbers = self._numbers(run, query)
        metas = [run.metas.get(int(n)) for n in numbers]
        steps, modes = _steps(metas), _modes(metas)
        gram = await self._gram(run, scope, index, numbers)
        if query.relative_to is not None:
            tau = _position(numbers, query.relative_to)
            entries = await self._relative(run, scope, index, numbers, gram, tau, query.kernel)
            keep = np.arange(len(numbers)) != tau
            kept = gram[np.ix_(keep, keep)]
            return MapAnswer(scope, entries, kept, numbers[keep], steps[keep], modes[keep])
        entries = await self._run(lambda: _about_origin(gram, query.kernel))
        return MapAnswer(scope, entries, gram, numbers, steps, modes)

    async def _relative(
        self,
        run: Run,
        scope: Scope,
        index: int,
        numbers: NDArray[np.int64],
        gram: NDArray[np.float64],
        tau: int,
        kernel: Kernel,
    ) -> NDArray[np.float64]:
        if kernel != "linear":
            raise InvalidRequest.from_violations(
                [Violation("kernel", f"{kernel} maps are taken about the origin; leave relative_to unset")]
            )
        products = await self._products(run, scope, index, numbers)
        return await self._run(lambda: relative_trajectory_map(Trajectory(gram, **products), tau))

    async def hallmarks(
        self, run_name: str, scope_text: str, caller: Principal
    ) -> Mapping[str, NDArray[Any]]:
        """Every hallmark over the run's checkpoints, with what is known of each: `checkpoint`, `step`, `mode`, ..."""
        run = self.require(run_name, caller)
        scope, index = find_scope(run, scope_text)
        await self._caught_up(run)
        numbers = self._numbers(run, MapQuery(scope=scope_text))
        metas = [run.metas.get(int(n)) for n in numbers]
        gram = await self._gram(run, scope, index, numbers)
        products = await self._products(run, scope, index, numbers)
        series = await self._run(lambda: hallmark_series(Trajectory(gram, **products)))
        answer: dict[str, NDArray[Any]] = {
            "checkpoint": numbers,
            "step": _steps(metas),
            "mode": _modes(metas),
            "epoch": _floats([meta.epoch if meta else None for meta in metas]),
            "learning_rate": _floats([meta.learning_rate if meta else None for meta in metas]),
            "time_unix_seconds": _floats([meta.time_unix_seconds if meta else None for meta in metas]),
        }
        for name in sorted({name for meta in metas if meta for name in meta.metrics}):
            answer[f"metric:{name}"] = _floats([meta.metrics.get(name) if meta else None for meta in metas])
        answer.update(series)
        return answer

    def _numbers(self, run: Run, query: MapQuery) -> NDArray[np.int64]:
        known = range(run.analysed) if query.include_superseded else run.analysis.path
        start = query.start or 0
        stop = query.stop if query.stop is not None else run.num_checkpoints
        numbers = np.array([n for n in known if start <= n < stop], dtype=np.int64)
        violations = []
        if start > stop:
            violations.append(Violation("start", f"{start} is beyond stop {stop}"))
        if len(numbers) > self._limits.max_map_checkpoints:
            violations.append(
                Violation(
                    "stop",
                    f"the range has {len(numbers)} checkpoints, one answer has at most "
                    f"{self._limits.max_map_checkpoints}; ask for a part with start and stop",
                )
            )
        if violations:
            raise InvalidRequest.from_violations(violations)
        return numbers

    async def _caught_up(self, run: Run) -> None:
        self._registry.wake(run)
        if not await run.wait_analysed(run.num_checkpoints, CATCH_UP_SECONDS):
            why = (
                run.failure
                or f"its last rows are still being worked on ({run.analysed} of {run.num_checkpoints} done)"
            )
            raise Unavailable("NOT_READY", f"run {run.description.name!r}: {why}", retry_seconds=2.0)

    async def _gram(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        def read() -> NDArray[np.float64]:
            maps = self._registry.maps(run.description)
            # Lost rows at the very end are published with the next row only.
            shown = int(np.searchsorted(numbers, maps.published()))
            gram = np.full((len(numbers), len(numbers)), np.nan)
            gram[:shown, :shown] = maps.read_map(scope.kind, index, numbers[:shown])
            return gram

        return await self._run(read)

    async def _products(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        members = [index] if scope.kind == "layer" else list(run.description.groups[index].layers)
        columns = np.full((len(numbers), len(PRODUCTS)), np.nan)
        lost: list[int] = []

        def read() -> None:
            for position, number in enumerate(numbers.tolist()):
                if number in run.metas:
                    try:
                        products = self._rows.products(run.description, number)
                    except (RowDamagedError, RowMissingError) as error:
                        self._registry.count_event("damaged_rows")
                        log.error(
                            "journal row is lost",
                            run=run.description.name,
                            checkpoint=number,
                            problem=str(error),
                        )
                        lost.append(number)
                    else:
                        columns[position] = products[members].sum(axis=0)

        await self._run(read)
        for number in lost:
            run.lose(number)
            if run.has_parts:
                await settle(run, number, self._rows, self._executor)
        return {name: columns[:, column] for column, name in enumerate(PRODUCTS)}

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            self._registry.count_event("unreadable_answers")
            log.error("stored data cannot be read", exc_info=error)
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error


def find_scope(run: Run, text: str) -> tuple[Scope, int]:
    """A scope and its index among the run's groups or layers."""
    try:
        scope = parse_scope(text)
    except ScopeError as error:
        raise InvalidRequest.from_violations([Violation("scope", str(error))]) from error
    known = run.description.layers if scope.kind == "layer" else run.description.groups
    names = [item.name for item in known]
    if scope.name not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise NotFound(
            "NO_SUCH_SCOPE",
            f"run {run.description.name!r} has no {scope.kind} {scope.name[:80]!r}; it has: {shown}",
        )
    return scope, names.index(scope.name)


def _about_origin(gram: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
    if kernel == "rbf":
        return rbf_map(gram)
    if kernel == "polynomial":
        return polynomial_map(gram)
    return trajectory_map(gram)


def _position(numbers: NDArray[np.int64], number: int) -> int:
    found = np.flatnonzero(numbers == number)
    if not found.size:
        ends = f"{numbers[0]} to {numbers[-1]}" if numbers.size else "none"
        raise InvalidRequest.from_violations(
            [Violation("relative_to", f"checkpoint {number} is not among those of the map ({ends})")]
        )
    return int(found[0])


def _steps(metas: Sequence[CheckpointMeta | None]) -> NDArray[np.int64]:
    return np.array([meta.step if meta else -1 for meta in metas], dtype=np.int64)


def _modes(metas: Sequence[CheckpointMeta | None]) -> NDArray[np.uint8]:
    return np.array([meta is not None and meta.is_norm_only for meta in metas], dtype=np.uint8)


def _floats(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
