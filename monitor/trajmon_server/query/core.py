"""The query core: typed answers about runs, maps and hallmarks.

Reading never holds a run's lock and computes in threads, so that ingest goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from trajmon_protos.errors import ScopeError
from trajmon_protos.names import Scope, parse_scope
from trajmon_protos.record import PRODUCTS
from trajmon_server.auth import Principal
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, NotFound, Unavailable, Violation
from trajmon_server.hallmarks.series import hallmark_series
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.model import CheckpointMeta
from trajmon_server.query.scope_gram import Kernel, MapEntries, ScopeGram, SketchQuality, early_rows
from trajmon_server.query.strip_reader import StripReader, note_lost, scope_members
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import StoreError
from trajmon_server.store.estimates import Estimates

__all__ = ["Kernel", "MapAnswer", "MapQuery", "Query", "about_checkpoints", "find_scope"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

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
    """[T, T] inner products about the origin, estimates filled in; NaN where missing."""
    checkpoint: NDArray[np.int64]
    """[T] checkpoint numbers."""
    step: NDArray[np.int64]
    """[T] training steps."""
    mode: NDArray[np.uint8]
    """[T] 1 where only the scalars of normalisation layers were trained, else 0."""
    error: NDArray[np.float64] | None = None
    """[T, T] standard errors of `map`, 0 where exact, NaN where undefined. None: the Gram holds no estimate."""
    gram_error: NDArray[np.float64] | None = None
    """[T, T] standard errors of `gram`, 0 where exact. None: it holds no estimate."""


class Query:
    """Answers questions. One instance per server, used from its event loop."""

    def __init__(self, registry: Registry, journal: Journal, limits: Limits, executor: Executor) -> None:
        self._registry = registry
        self._rows = Rows(journal, registry.count_event)
        self._reader = StripReader(registry, self._rows)
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
        await self.caught_up(run)
        numbers = self._numbers(run, query)
        metas = [run.meta(int(n)) for n in numbers]
        steps, modes = _steps(metas), _modes(metas)
        gram = await self._gram(run, scope, index, numbers)
        if query.relative_to is not None:
            tau = _position(numbers, query.relative_to)
            entries, error = await self._relative(run, scope, index, numbers, gram, tau, query.kernel)
            keep = np.arange(len(numbers)) != tau
            numbers, steps, modes, gram = numbers[keep], steps[keep], modes[keep], gram.without(tau)
        else:
            entries, error = await self._run(lambda: gram.about_origin(query.kernel))
        return MapAnswer(scope, entries, gram.gram, numbers, steps, modes, error, gram.error)

    async def _relative(
        self,
        run: Run,
        scope: Scope,
        index: int,
        numbers: NDArray[np.int64],
        gram: ScopeGram,
        tau: int,
        kernel: Kernel,
    ) -> MapEntries:
        if kernel != "linear":
            raise InvalidRequest.from_violations(
                [Violation("kernel", f"{kernel} maps are taken about the origin; leave relative_to unset")]
            )
        products = await self._products(run, scope, index, numbers)
        if gram.error is not None and (gram.error[:, tau] > 0).any():
            gram = await self._run(lambda: self._sketched(run, scope, index, numbers, gram))
        trajectory = Trajectory(gram.gram, **products, gram_error=gram.error)
        quality = None if gram.error is None else _sketch_quality(run, scope, index)
        return await self._run(lambda: gram.about(trajectory, tau, quality))

    async def hallmarks(
        self, run_name: str, scope_text: str, caller: Principal
    ) -> Mapping[str, NDArray[Any]]:
        """Every hallmark over the run's checkpoints, with what is known of each: `checkpoint`, `step`, `mode`, ...

        A hallmark that rests on estimates has its standard errors beside it, `error:NAME`.
        """
        run = self.require(run_name, caller)
        scope, index = find_scope(run, scope_text)
        await self.caught_up(run)
        numbers = self._numbers(run, MapQuery(scope=scope_text))
        gram = await self._gram(run, scope, index, numbers)
        products = await self._products(run, scope, index, numbers)
        trajectory = Trajectory(gram.gram, **products, gram_error=gram.error)
        series = await self._run(lambda: hallmark_series(trajectory))
        return {**about_checkpoints(run, numbers), **series}

    def _numbers(self, run: Run, query: MapQuery) -> NDArray[np.int64]:
        known = range(run.analysed + run.num_early) if query.include_superseded else run.shown.path
        start = query.start or 0
        stop = query.stop if query.stop is not None else run.num_checkpoints + run.num_early
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

    async def caught_up(self, run: Run) -> None:
        """Wait until the run's acknowledged rows are analysed and published; Unavailable if that takes too long."""
        self._registry.wake(run)
        if not await run.wait_analysed(run.num_checkpoints, CATCH_UP_SECONDS):
            why = (
                run.failure
                or f"its last rows are still being worked on ({run.analysed} of {run.num_checkpoints} done)"
            )
            raise Unavailable("NOT_READY", f"run {run.description.name!r}: {why}", retry_seconds=2.0)

    async def _gram(self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]) -> ScopeGram:
        has_sketches, early = run.sketches.spec is not None, run.early
        members = scope_members(run, scope, index)

        def read() -> ScopeGram:
            maps = self._registry.maps(run.description)
            # Lost rows at the very end are published with the next row only.
            shown = numbers[: int(np.searchsorted(numbers, maps.published()))]
            gram = _enlarged(maps.read_map(scope.kind, index, shown), len(numbers))
            estimates = maps.read_estimates(scope.kind, index, shown) if has_sketches else None
            if estimates is not None and len(shown) < len(numbers):
                estimates = Estimates(
                    *(_enlarged(getattr(estimates, f.name), len(numbers)) for f in fields(estimates))
                )
            if early is not None:
                gram, estimates = early_rows(early, gram, estimates, numbers, scope, index, members)
            return ScopeGram.filled(gram, estimates)

        return await self._run(read)

    def _sketched(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64], gram: ScopeGram
    ) -> ScopeGram:
        """With the sketches' inner products of rows that have no holes, which the maps do not keep."""
        assert gram.sketch_gram is not None
        sketched, members = gram.sketch_gram.copy(), scope_members(run, scope, index)
        for place, number in enumerate(numbers.tolist()):
            if np.isnan(sketched[place, place]) and number in run.sketches.known:
                row = self._rows.sketch_gram(run.description, number, members)
                earlier = numbers[: place + 1]
                sketched[place, : place + 1] = sketched[: place + 1, place] = row[earlier]
        return replace(gram, sketch_gram=sketched)

    async def _products(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        members, early = scope_members(run, scope, index), run.early
        told = await self._run(lambda: self._reader.products(run, scope, index, numbers))
        if early is not None:
            for position, number in enumerate(numbers.tolist()):
                if number in early.rows and number not in run.metas:
                    for name, value in zip(
                        PRODUCTS, early.rows[number].row.products[members].sum(axis=0), strict=True
                    ):
                        told.columns[name][position] = value
        await note_lost(run, told.lost, self._rows, self._executor)
        return told.columns

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            self._registry.count_event("unreadable_answers")
            log.error("stored data cannot be read", exc_info=error)
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error


def about_checkpoints(run: Run, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What is known of the checkpoints `numbers`, [T] each; metrics by ``metric:NAME``."""
    metas = [run.meta(int(n)) for n in numbers]
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
    return answer


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


def _sketch_quality(run: Run, scope: Scope, index: int) -> SketchQuality | None:
    spec = run.sketches.spec
    if spec is None:
        return None
    columns = SketchColumns.of(run.description, spec)
    members = scope_members(run, scope, index)
    return SketchQuality(float(columns.rates[members].max()), columns.rounding)


def _enlarged(entries: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if len(entries) == count:
        return entries
    larger = np.full((count, count), np.nan)
    larger[: len(entries), : len(entries)] = entries
    return larger


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
