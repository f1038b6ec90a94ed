"""Maps across two runs: from the sketches of both, layer by layer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS
from trajmon_server.auth import Principal
from trajmon_server.errors import InvalidRequest, NotFound, Violation
from trajmon_server.hallmarks.cross_map import CrossMap, LayerPair, cross_map
from trajmon_server.model import RunDescription
from trajmon_server.query.core import Query, find_scope
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.store.errors import RowDamagedError, RowMissingError

__all__ = ["CrossAnswer", "CrossQuery"]

SIDE_BYTES: Final = 256 << 20
"""Sketches of one run that an answer holds in memory; of more, checkpoints are left out evenly."""
SIDE_CHECKPOINTS: Final = 1024
_DISPLACEMENT: Final = PRODUCTS.index("displacement_squared")


@dataclass(frozen=True, slots=True)
class CrossAnswer:
    """A map of T checkpoints of one run against U of another."""

    cross: CrossMap
    checkpoint: NDArray[np.int64]
    """[T]"""
    step: NDArray[np.int64]
    """[T]"""
    other_checkpoint: NDArray[np.int64]
    """[U]"""
    other_step: NDArray[np.int64]
    """[U]"""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By the names that they have on the wire."""
        return {
            "map": self.cross.map,
            "error": self.cross.error,
            "distance": self.cross.distance,
            "distance_error": self.cross.distance_error,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "other_checkpoint": self.other_checkpoint,
            "other_step": self.other_step,
        }


@dataclass(frozen=True, slots=True)
class _Side:
    """What one run brings, of the layers asked for."""

    numbers: list[int]
    values: list[NDArray[Any]]
    """By layer, [T, W]; NaN where undefined."""
    norms: NDArray[np.float64]
    """[T, l]"""
    displacements: NDArray[np.float64]
    """[T, l], NaN where not known exactly."""


class CrossQuery:
    """Answers questions about two runs. One instance per server, used from its event loop."""

    def __init__(self, query: Query, rows: Rows, executor: Executor) -> None:
        self._query = query
        self._rows = rows
        self._executor = executor

    async def map(
        self,
        run_name: str,
        other_name: str,
        scope_text: str,
        caller: Principal,
        *,
        from_initialization: bool,
        most: int = SIDE_CHECKPOINTS,
    ) -> CrossAnswer:
        """Cosines and distances between the checkpoints of two runs, on their paths, that have sketches.

        About the initializations, checkpoint 0 of both, if `from_initialization`. `most`: checkpoints of each run,
        evenly chosen, with both ends.
        """
        run, other = (self._query.require(name, caller) for name in (run_name, other_name))
        scope, index = find_scope(run, scope_text)
        for each in (run, other):
            await self._query.caught_up(each)
        columns = _common_columns(run, other)
        members = [index] if scope.kind == "layer" else list(run.description.groups[index].layers)
        numbers, others = (
            _sketched(each, columns, members, from_initialization, most) for each in (run, other)
        )

        def compute() -> CrossMap:
            sides = [
                _read(self._rows, each.description, columns, members, chosen)
                for each, chosen in ((run, numbers), (other, others))
            ]
            return cross_map(
                _pairs(sides[0], sides[1], columns.rates[members]),
                from_initialization=from_initialization,
                rounding=columns.rounding,
            )

        cross = await asyncio.get_running_loop().run_in_executor(self._executor, compute)
        return CrossAnswer(
            cross,
            np.array(numbers, dtype=np.int64),
            _steps(run, numbers),
            np.array(others, dtype=np.int64),
            _steps(other, others),
        )


def _common_columns(run: Run, other: Run) -> SketchColumns:
    """How both are sketched; refuses runs that cannot be compared, naming both sides."""
    for each in (run, other):
        if each.sketches.spec is None:
            raise NotFound(
                "NO_SKETCHES",
                f"run {each.description.name!r} has no sketches, which a map across runs is made of: record it with "
                "sketch=True, or compare snapshots with `trajmon cross --exact` where they are",
            )
    _refuse_other_layers(run.description, other.description)
    spec, theirs = run.sketches.spec, other.sketches.spec
    if spec != theirs:
        raise InvalidRequest.from_violations(
            [
                Violation(
                    "other",
                    f"run {run.description.name!r} is sketched with {spec}, run {other.description.name!r} with "
                    f"{theirs}; sketches of different specifications cannot be compared",
                )
            ]
        )
    assert spec is not None
    columns = [SketchColumns.of(each.description, spec) for each in (run, other)]
    # The coarser rounding counts.
    return max(columns, key=lambda column: column.rounding)


def _refuse_other_layers(first: RunDescription, second: RunDescription) -> None:
    ours, theirs = ([(a.name, a.shape) for a in each.layers] for each in (first, second))
    if ours == theirs:
        return
    where = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if where is None:
        text = f"run {first.name!r} has {len(ours)} layers, run {second.name!r} has {len(theirs)}"
    else:
        here, there = (f"{name!r} {shape}" for name, shape in (ours[where], theirs[where]))
        text = f"layer {where} of run {first.name!r} is {here}, of run {second.name!r} {there}"
    raise InvalidRequest.from_violations(
        [Violation("other", f"{text}; a map across runs needs the same layers in both")]
    )


def _sketched(
    run: Run, columns: SketchColumns, members: Sequence[int], from_initialization: bool, limit: int
) -> list[int]:
    """Checkpoints on the path that have sketches, as many as an answer holds, evenly chosen with both ends."""
    numbers = [number for number in run.analysis.path if number in run.sketches.known]
    if from_initialization and numbers[:1] != [0]:
        raise InvalidRequest.from_violations(
            [
                Violation(
                    "from_initialization",
                    f"checkpoint 0 of run {run.description.name!r} has no sketch; leave this out",
                )
            ]
        )
    width = sum(columns.widths(members)) or 1
    most = max(2, min(limit, SIDE_CHECKPOINTS, SIDE_BYTES // (8 * width)))
    if len(numbers) <= most:
        return numbers
    return [numbers[place] for place in np.linspace(0, len(numbers) - 1, most).round().astype(int)]


def _read(
    rows: Rows,
    description: RunDescription,
    columns: SketchColumns,
    members: Sequence[int],
    numbers: Sequence[int],
) -> _Side:
    slices = columns.slices()
    own = SketchColumns.of(description, columns.spec)
    values = [np.full((len(numbers), slices[layer].stop - slices[layer].start), np.nan) for layer in members]
    norms = np.full((len(numbers), len(members)), np.nan)
    displacements = np.full((len(numbers), len(members)), np.nan)
    for place, number in enumerate(numbers):
        sketch = rows.sketch(description, own, number)
        if sketch is None:
            continue
        for into, layer in zip(values, members, strict=True):
            into[place] = sketch.values[slices[layer]]
        norms[place] = sketch.norms[list(members)]
        try:
            products = rows.products(description, number)
        except (RowMissingError, RowDamagedError):
            products = sketch.products
        displacements[place] = products[list(members), _DISPLACEMENT] if number else 0.0
    return _Side(list(numbers), values, norms, displacements)


def _pairs(first: _Side, second: _Side, rates: NDArray[np.float64]) -> Iterator[LayerPair]:
    for place, rate in enumerate(rates.tolist()):
        yield LayerPair(
            first.values[place],
            second.values[place],
            first.norms[:, place],
            second.norms[:, place],
            rate,
            first.displacements[:, place],
            second.displacements[:, place],
        )


def _steps(run: Run, numbers: Sequence[int]) -> NDArray[np.int64]:
    metas = [run.metas.get(number) for number in numbers]
    return np.array([-1 if meta is None else meta.step for meta in metas], dtype=np.int64)
