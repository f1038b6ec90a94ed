"""Every layer of a run at a glance: its latest hallmarks, and a small map over a few of the checkpoints."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_protos.v1 import types_pb2
from trajmon_server.errors import Unavailable
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.model import RunDescription
from trajmon_server.query.layer_sums import LayerSums
from trajmon_server.query.overview import thinned
from trajmon_server.query.scope_gram import ScopeGram
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import RowDamagedError, RowMissingError, StoreError

__all__ = ["LayerReader", "LayersAnswer"]

T = TypeVar("T")

BATCH_ENTRIES = 4_000_000
"""Read and worked off in one go: others who read wait for no more than that."""
MOST_ENTRIES = 400_000_000
"""Gram entries of all layers of a run together; beyond, MDS of single layers is left out."""
MOST_BYTES = 256 << 20
"""Held between questions, for all runs together."""


@dataclass(frozen=True, slots=True)
class LayersAnswer:
    """All L layers of a run."""

    checkpoint: NDArray[np.int64]
    """[n], the checkpoints of the small maps: evenly spread over the path, both ends among them."""
    step: NDArray[np.int64]
    """[n]"""
    total: int
    """Checkpoints on the path."""
    maps: NDArray[np.float32]
    """[L, n, n] cosines, NaN where undefined. Entries of the whole map, not means."""
    errors: NDArray[np.float32] | None
    """[L, n, n] their standard errors, 0 where exact; None if the run has no sketches."""
    latest: dict[str, NDArray[np.float64]]
    """Hallmarks as of the path's last checkpoint, each [L]; NaN where undefined."""
    left_out: str
    """Why the hallmarks that run over all checkpoints are undefined; empty if they are not left out."""


class LayerReader:
    """Reads rows, which hold all layers side by side; keeps the sums of the runs that were looked at last."""

    def __init__(self, rows: Rows, registry: Registry, executor: Executor) -> None:
        self._registry = registry
        self._rows = rows
        self._executor = executor
        self._known: OrderedDict[str, tuple[int, LayerSums]] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    async def layers(self, run: Run, size: int) -> LayersAnswer:
        """Every layer, with maps over at most `size` checkpoints."""
        path = run.analysis.path
        numbers = [path[position] for position in thinned(len(path), size)]
        maps, errors = await self._run(partial(self._maps, run, numbers))
        left_out = _why_left_out(run, path)
        num_layers = len(run.description.layers)
        if not path:
            latest = {}
        elif left_out:
            # The last two rows have all that the other hallmarks need.
            sums = LayerSums(num_layers)
            await self._run(partial(self._add, run, sums, path[-2:]))
            latest = sums.latest() | dict.fromkeys(("mds", "relative_mds"), np.full(num_layers, np.nan))
        else:
            latest = await self._latest(run, path)
        metas = [run.metas.get(number) for number in numbers]
        return LayersAnswer(
            checkpoint=np.array(numbers, dtype=np.int64),
            step=np.array([meta.step if meta else -1 for meta in metas], dtype=np.int64),
            total=len(path),
            maps=maps,
            errors=errors,
            latest=latest,
            left_out=left_out,
        )

    async def _latest(self, run: Run, path: tuple[int, ...]) -> dict[str, NDArray[np.float64]]:
        run_id, num_layers = run.description.run_id, len(run.description.layers)
        async with self._locks.setdefault(run_id, asyncio.Lock()):
            generation = run.generation
            known = self._known.pop(run_id, None)
            if known is not None and known[0] == generation and path[: len(known[1].path)] == known[1].path:
                sums = known[1]
            else:
                sums = LayerSums(num_layers)
            while len(sums.path) < len(path):
                rows = max(1, BATCH_ENTRIES // (num_layers * (len(sums.path) + 1)))
                await self._run(partial(self._add, run, sums, path[: len(sums.path) + rows]))
            self._keep(run_id, generation, sums)
            return await self._run(sums.latest)

    def _keep(self, run_id: str, generation: int, sums: LayerSums) -> None:
        self._known[run_id] = (generation, sums)
        while sum(kept.nbytes for _, kept in self._known.values()) > MOST_BYTES and len(self._known) > 1:
            forgotten, _ = self._known.popitem(last=False)
            self._locks.pop(forgotten, None)

    def _add(self, run: Run, sums: LayerSums, path: tuple[int, ...]) -> None:
        """Add the rows of `path` that are not in the sums yet. Blocking."""
        for position in range(len(sums.path), len(path)):
            row = self._row(run, path[position])
            columns = path[: position + 1]
            gram = row.gram if row.gram.shape[1] == len(columns) else row.gram[:, list(columns)]
            sums.add(path[position], gram, row.products)

    def _maps(self, run: Run, numbers: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """[L, n, n] cosines, and their standard errors. Blocking."""
        num_layers = len(run.description.layers)
        gram = np.full((num_layers, len(numbers), len(numbers)), np.nan)
        for position, number in enumerate(numbers):
            row = self._row(run, number).gram[:, numbers[: position + 1]]
            gram[:, position, : position + 1] = row
            gram[:, : position + 1, position] = row
        maps = np.empty(gram.shape, dtype=np.float32)
        if run.sketches.spec is None:
            for index in range(num_layers):
                maps[index] = trajectory_map(gram[index])
            return maps, None
        store, wanted = self._registry.maps(run.description), np.array(numbers, dtype=np.int64)
        errors = np.zeros(gram.shape, dtype=np.float32)
        for index in range(num_layers):
            estimates = store.read_estimates("layer", index, wanted)
            maps[index], error = ScopeGram.filled(gram[index], estimates).about_origin("linear")
            if error is not None:
                errors[index] = error
        return maps, errors

    def _row(self, run: Run, number: int) -> Row:
        if number in run.metas:
            try:
                return self._rows.read(run.description, number)
            except (RowDamagedError, RowMissingError):
                # Whoever asks for the map itself sees to it that the loss is noted.
                self._rows.count_event("damaged_rows")
        return lost_row(run.description, number)

    async def _run(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, action)
        except (StoreError, OSError) as error:
            raise Unavailable(
                "STORE_UNAVAILABLE", f"stored data cannot be read: {error}", retry_seconds=5.0
            ) from error


def lost_row(description: RunDescription, number: int) -> Row:
    """What stands for a row that cannot be read."""
    num_layers = len(description.layers)
    return Row(
        header=types_pb2.RowHeader(checkpoint=number),
        gram=np.full((num_layers, number + 1), np.nan),
        products=np.full((num_layers, len(PRODUCTS)), np.nan),
        status=np.full(num_layers, LayerStatus.SNAPSHOT_MISSING, dtype=np.uint8),
    )


def _why_left_out(run: Run, path: tuple[int, ...]) -> str:
    entries = len(run.description.layers) * len(path) * len(path) // 2
    if entries > MOST_ENTRIES:
        return (
            f"MDS of all layers would take {entries} Gram entries, more than the {MOST_ENTRIES} that are read for one "
            "answer; ask for the layers one by one"
        )
    if any(meta.has_holes for meta in run.metas.values()):
        return "older snapshots were not kept, so that MDS rests on estimates; ask for the layers one by one"
    return ""
