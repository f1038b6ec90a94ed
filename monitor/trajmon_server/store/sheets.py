"""All matrices over checkpoints of a store, and which rows each of them has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store import layout
from trajmon_server.store.entries import LOST_ATTEMPT, Entry, PublishRow
from trajmon_server.store.estimates import group_sum
from trajmon_server.store.files import TempFolder
from trajmon_server.store.layout import (
    ESTIMATE_QUANTITIES,
    NO_ESTIMATES,
    ArrayPlan,
    Quantity,
    RunShape,
    Scope,
)
from trajmon_server.store.strips import GramFiles

__all__ = ["Sheet", "Sheets"]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One matrix for every layer, or for every group."""

    scope: Scope
    quantity: Quantity
    count: int
    """Of layers or groups."""
    files: GramFiles


class Sheets:
    """The matrices of one store. Those of sketches and estimates are there once they have begun."""

    def __init__(
        self, folder: Path, temp: TempFolder, plans: Mapping[str, ArrayPlan], run: RunShape, prefix: str
    ) -> None:
        """`plans`: of all arrays that a store can have."""
        self._folder = folder
        self._run = run
        self._prefix = prefix
        self._all: dict[tuple[Scope, Quantity], Sheet] = {}
        scopes: tuple[tuple[Scope, int], ...] = (("layer", len(run.layer_names)), ("group", len(run.groups)))
        for quantity in ("gram", *ESTIMATE_QUANTITIES):
            for scope, count in scopes:
                name = layout.array_name(scope, quantity)
                files = GramFiles(folder, temp, plans[name], plans[f"{name}_tail"], count)
                self._all[scope, quantity] = Sheet(scope, quantity, count, files)
        self.rows: dict[Quantity, set[int]] = {quantity: set() for _, quantity in self._all}
        """Published checkpoints that have a row in the matrices of a quantity, by quantity."""
        self.with_estimates = False
        """Whether the store has the arrays of sketches and estimates."""

    def sheet(self, scope: Scope, quantity: Quantity) -> Sheet:
        """ValueError for a scope that is none."""
        try:
            return self._all[scope, quantity]
        except KeyError as error:
            raise ValueError(f"scope kind {scope!r} is neither layer nor group") from error

    def shown(self) -> list[Sheet]:
        """The sheets that the store has."""
        return [sheet for sheet in self._all.values() if sheet.quantity == "gram" or self.with_estimates]

    def begin_estimates(self) -> None:
        """Make empty folders for the arrays of sketches and estimates."""
        for name in layout.estimate_arrays(self._run):
            # What a program left there that never came to publish it.
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir(parents=True)

    def write(self, item: PublishRow) -> None:
        """Put a row into the tails of all sheets; where it has nothing, nothing is left of it."""
        number, gram = item.row.header.checkpoint, item.row.gram
        values: dict[tuple[Scope, Quantity], NDArray[np.float64]] = {
            ("layer", "gram"): gram,
            ("group", "gram"): group_sum(gram, self._run),
        }
        if item.estimates is not None:
            values |= item.estimates.rows(self._run)
        for sheet in self.shown():
            if (sheet.scope, sheet.quantity) in values:
                self.write_sheet(sheet, number, values[sheet.scope, sheet.quantity])
            else:
                sheet.files.drop_row(number)

    def drop(self, number: int) -> None:
        """Leave nothing of a row in the tails, where it may lie though it was never published."""
        for sheet in self.shown():
            sheet.files.drop_row(number)

    def write_sheet(self, sheet: Sheet, number: int, values: NDArray[np.float64]) -> None:
        """Put a row, [layer or group, n], into the tail of one sheet."""
        sheet.files.write_row(number, values, self._prefix)

    def published(self, number: int, entry: Entry) -> None:
        """Note which quantities have a row of the checkpoint."""
        for quantity in _quantities(entry.attempt, entry.estimated):
            self.rows[quantity].add(number)

    def load(self, attempts: NDArray[np.int32], estimated: NDArray[np.int32]) -> None:
        """Note the same for all published checkpoints, from what is stored."""
        rows: dict[Quantity, set[int]] = {quantity: set() for quantity in self.rows}
        for number, (attempt, count) in enumerate(zip(attempts.tolist(), estimated.tolist(), strict=True)):
            for quantity in _quantities(attempt, count):
                rows[quantity].add(number)
        self.rows = rows

    def is_sealed(self, strip: int) -> bool:
        """Whether all sheets have the strip sealed."""
        return all(sheet.files.is_sealed(strip, self.rows[sheet.quantity]) for sheet in self.shown())

    def adopt(self, other: Sheets, start: int) -> None:
        """Take over the other's tail rows from checkpoint `start` on."""
        for sheet in other.shown():
            self._all[sheet.scope, sheet.quantity].files.adopt(sheet.files, start)


def _quantities(attempt: int, estimated: int) -> list[Quantity]:
    found: list[Quantity] = [] if attempt == LOST_ATTEMPT else ["gram"]
    if estimated != NO_ESTIMATES:
        found.append("sketch_gram")
    if estimated > 0:
        found += ["gram_estimate", "gram_error"]
    return found
