"""Checkpoints whose sketch is there and whose row has not come: shown from what the sketch tells, until it comes.

Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trajmon_protos.record import Row
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.analysis import Analysis
from trajmon_server.store.estimates import RowEstimates

__all__ = ["MOST_EARLY", "Early", "EarlyRow"]

MOST_EARLY: Final = 64
"""Checkpoints that are shown before their rows come; their rows are held in memory."""


@dataclass(frozen=True, slots=True)
class EarlyRow:
    """What stands in for a row."""

    row: Row
    """Norms and update products exact, all else missing."""
    estimates: RowEstimates
    meta: CheckpointMeta


@dataclass(frozen=True, slots=True)
class Early:
    """What is shown of a run beyond its rows."""

    analysis: Analysis
    """With the early checkpoints at the end of its path."""
    rows: Mapping[int, EarlyRow]
