"""The analysis of checkpoints whose sketch is there and whose row has not come. Blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.sketch_record import SketchRow
from trajmon_server.model import CheckpointMeta, RunDescription
from trajmon_server.runs.analysis import Analysis, advance
from trajmon_server.runs.early import Early, EarlyRow
from trajmon_server.runs.estimates import Estimates
from trajmon_server.runs.rows import Rows
from trajmon_server.signals.base import Policy

__all__ = ["look_ahead", "stand_in"]


def stand_in(sketch: SketchRow) -> Row:
    """A row with what a sketch record tells: of earlier checkpoints nothing but estimates."""
    gram = np.full(sketch.gram.shape, np.nan)
    gram[:, -1] = sketch.norms
    exact = sketch.status != LayerStatus.NON_FINITE
    gram[~exact] = np.nan
    status = np.where(exact, LayerStatus.NOT_KEPT, LayerStatus.NON_FINITE).astype(np.uint8)
    return Row(sketch.header.row, gram, sketch.products, status)


def look_ahead(
    analysis: Analysis,
    description: RunDescription,
    numbers: Sequence[int],
    rows: Rows,
    estimates: Estimates,
    policy: Policy[Any],
) -> Early | None:
    """The analysis of the checkpoints `numbers`, which follow the last row, from their sketches alone.

    Ends before a checkpoint that does not follow the one before it, and before a sketch that cannot be read; None if
    that is the first. `estimates` goes as far as the last row.
    """
    columns = rows.sketch_columns(description)
    estimates.bring_to(numbers[0])
    ahead = estimates.fork()
    found: dict[int, EarlyRow] = {}
    for number in numbers:
        sketch = None if columns is None else rows.sketch(description, columns, number)
        if sketch is None:
            break
        row = stand_in(sketch)
        meta = CheckpointMeta.from_row(row)
        if meta.previous != (analysis.path[-1] if analysis.path else None):
            break
        filled = ahead.of(row, sketch)
        if filled is None:
            # Not one finite layer: nothing can be said before the row comes.
            break
        analysis = advance(analysis, row, meta, description.groups, policy, filled)
        found[number] = EarlyRow(row, filled, meta)
    return Early(analysis, found) if found else None
