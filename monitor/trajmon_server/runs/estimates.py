"""Estimates of the inner products that a run's rows lack, made from its sketches, row after row.

What is estimated of a row rests on all rows before it. So there is a state, which goes through the rows in the order
of their numbers; it is made when the first row with holes is asked for, and again when an earlier one is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import Row
from trajmon_protos.sketch_record import SketchRow
from trajmon_server.hallmarks import estimation
from trajmon_server.model import RunDescription, has_holes
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.sketches import SketchColumns
from trajmon_server.store.errors import RowDamagedError, RowMissingError
from trajmon_server.store.estimates import RowEstimates

__all__ = ["Estimates"]


class Estimates:
    """The estimates of one run. Blocking; belongs to one thread at a time."""

    def __init__(self, rows: Rows, description: RunDescription, known: Callable[[], Collection[int]]) -> None:
        """`known`: the checkpoints whose rows can be read; the others are taken for lost."""
        self._rows = rows
        self._description = description
        self._known = known
        self._columns: SketchColumns | None = None
        self._state: estimation.EstimatorState | None = None
        self._next = 0
        self._groups = tuple(group.layers for group in description.groups)

    def fork(self) -> Estimates:
        """One that goes on from the same row, by itself."""
        # States are replaced, never changed.
        return copy.copy(self)

    def of(self, row: Row, sketch: SketchRow | None = None) -> RowEstimates | None:
        """What is estimated of a row; None if it has no holes. `sketch`: its own, where it has been read already."""
        if not has_holes(row):
            return None
        checkpoint = row.header.checkpoint
        self.bring_to(checkpoint)
        filled, sketch_gram = self._add(checkpoint, row.gram, sketch)
        group_estimate, group_error = estimation.group_sums(row.gram, filled, self._groups)
        return RowEstimates(filled.estimate, filled.error, sketch_gram, group_estimate, group_error)

    def bring_to(self, checkpoint: int) -> None:
        """Go through the rows below `checkpoint`."""
        if self._state is None or checkpoint < self._next:
            self._start_over()
        while self._next < checkpoint:
            self._add(self._next, self._read(self._next))

    def _start_over(self) -> None:
        self._columns = self._rows.sketch_columns(self._description)
        count = len(self._description.layers)
        rates = np.ones(count) if self._columns is None else self._columns.rates
        rounding = 0.0 if self._columns is None else self._columns.rounding
        self._state, self._next = estimation.start(rates, rounding), 0

    def _read(self, checkpoint: int) -> NDArray[np.float64]:
        if checkpoint in self._known():
            try:
                return self._rows.read(self._description, checkpoint).gram
            except (RowMissingError, RowDamagedError):
                # Said and counted where the row itself is shown.
                pass
        return np.full((len(self._description.layers), checkpoint + 1), np.nan)

    def _add(
        self, checkpoint: int, gram: NDArray[np.float64], sketch: SketchRow | None = None
    ) -> tuple[estimation.Filled, NDArray[np.float64]]:
        assert self._state is not None
        if sketch is None and self._columns is not None:
            sketch = self._rows.sketch(self._description, self._columns, checkpoint)
        sketch_gram = np.full(gram.shape, np.nan) if sketch is None else sketch.gram
        self._state, filled = estimation.add(self._state, gram, sketch_gram)
        self._next = checkpoint + 1
        return filled, sketch_gram
