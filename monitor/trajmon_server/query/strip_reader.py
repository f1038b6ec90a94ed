"""Reads a scope's Gram strip by strip, and the update products that go with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from trajmon_protos.names import Scope
from trajmon_protos.record import PRODUCTS
from trajmon_server.query.strips import GramStrip
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.rows import Rows, settle
from trajmon_server.runs.run import Run
from trajmon_server.store.errors import RowDamagedError, RowMissingError
from trajmon_server.store.layout import STRIP_ROWS

__all__ = ["Products", "StripReader", "note_lost", "scope_members"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Products:
    """The update products of a scope."""

    columns: dict[str, NDArray[np.float64]]
    """[T] each, by their names; NaN where a row cannot be read."""
    lost: Sequence[int]
    """Checkpoints whose rows turned out to be damaged or gone: for :func:`note_lost`."""


class StripReader:
    """Everything here blocks, and may be called from several threads at once. StoreError and OSError pass."""

    def __init__(self, registry: Registry, rows: Rows) -> None:
        self._registry = registry
        self._rows = rows

    def published(self, run: Run) -> int:
        """How many checkpoints the maps hold; of those behind them, strips are NaN."""
        return self._registry.maps(run.description).published()

    def row(
        self, run: Run, scope: Scope, index: int, checkpoint: int, columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Entries of one checkpoint's row at the checkpoints `columns`, none above it."""
        strip = checkpoint // STRIP_ROWS
        rows = self._registry.maps(run.description).read_strip(scope.kind, index, strip)
        return np.asarray(rows[checkpoint - strip * STRIP_ROWS, columns], dtype=np.float64)

    def strips(
        self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64], start: int = 0
    ) -> Iterator[GramStrip]:
        """The Gram over the checkpoints `numbers`, ascending, from position `start` on."""
        maps = self._registry.maps(run.description)
        published = maps.published()
        for strip in np.unique(numbers[start:] // STRIP_ROWS).tolist():
            first, last = np.searchsorted(numbers, (strip * STRIP_ROWS, (strip + 1) * STRIP_ROWS)).tolist()
            first = max(first, start)
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

    def products(self, run: Run, scope: Scope, index: int, numbers: NDArray[np.int64]) -> Products:
        """The update products of a scope over the checkpoints `numbers`."""
        members = scope_members(run, scope, index)
        columns, lost = np.full((len(numbers), len(PRODUCTS)), np.nan), []
        for position, number in enumerate(numbers.tolist()):
            if number in run.metas:
                try:
                    columns[position] = self._rows.products(run.description, number)[members].sum(axis=0)
                except (RowDamagedError, RowMissingError) as error:
                    self._rows.count_event("damaged_rows")
                    log.error(
                        "journal row is lost",
                        run=run.description.name,
                        checkpoint=number,
                        problem=str(error),
                    )
                    lost.append(number)
        return Products({name: columns[:, column] for column, name in enumerate(PRODUCTS)}, lost)


def scope_members(run: Run, scope: Scope, index: int) -> list[int]:
    """Indices of a scope's layers."""
    return [index] if scope.kind == "layer" else list(run.description.groups[index].layers)


async def note_lost(run: Run, lost: Sequence[int], rows: Rows, executor: Executor) -> None:
    """Note that rows could not be read: they may be sent again. On the event loop."""
    for number in lost:
        run.lose(number)
        if run.has_parts:
            await settle(run, number, rows, executor)
