"""What a row brings to the store besides its Gram. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS, Row
from trajmon_server.store.estimates import RowEstimates, group_sum
from trajmon_server.store.layout import NO_ESTIMATES, RunShape

__all__ = [
    "LOST_ATTEMPT",
    "Entry",
    "PublishRow",
    "columns",
    "entry_of",
    "lost_entry",
    "superseded_by",
]

LOST_ATTEMPT = -1


@dataclass(frozen=True, slots=True)
class PublishRow:
    """A row to be shown."""

    row: Row
    """Complete: the sum of its parts."""
    attempt: int
    """Attempt of the run that recorded it."""
    estimates: RowEstimates | None = None
    """What sketches say of it; None if nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint's values in the arrays over checkpoints."""

    step: int
    epoch: float
    learning_rate: float
    time: float
    """Seconds since 1970-01-01 UTC."""
    attempt: int
    """-1 if the row has been lost."""
    products: NDArray[np.float64]
    """[layer, 4]"""
    group_products: NDArray[np.float64]
    """[group, 4]"""
    estimated: int = NO_ESTIMATES
    """Columns of the row in which something is estimated; -1 if nothing was said of the row."""


def entry_of(item: PublishRow, run: RunShape) -> Entry:
    """The entry of a row; NaN where a number is not known."""
    info = item.row.header.info
    return Entry(
        step=info.step,
        epoch=info.epoch if info.HasField("epoch") else np.nan,
        learning_rate=info.learning_rate if info.HasField("learning_rate") else np.nan,
        time=info.time_unix_seconds,
        attempt=item.attempt,
        products=item.row.products,
        group_products=group_sum(item.row.products, run),
        estimated=NO_ESTIMATES if item.estimates is None else item.estimates.num_estimated,
    )


def lost_entry(run: RunShape) -> Entry:
    """The entry of a row that has been lost."""
    layers = np.full((len(run.layer_names), len(PRODUCTS)), np.nan)
    groups = np.full((len(run.groups), len(PRODUCTS)), np.nan)
    return Entry(-1, np.nan, np.nan, np.nan, LOST_ATTEMPT, layers, groups)


def superseded_by(row: Row) -> range:
    """Numbers of the checkpoints between a row and the one it follows on its path."""
    start = row.header.previous + 1 if row.header.HasField("previous") else 0
    return range(start, row.header.checkpoint)


def columns(entries: Sequence[Entry]) -> dict[str, NDArray[Any]]:
    """The entries as arrays by name, the checkpoint along the last axis."""
    found: dict[str, NDArray[Any]] = {
        name: np.array([getattr(entry, name) for entry in entries])
        for name in ("step", "epoch", "learning_rate", "time", "attempt", "estimated")
    }
    for column, name in enumerate(PRODUCTS):
        found[name] = np.stack([entry.products[:, column] for entry in entries], axis=1)
        found[f"group_{name}"] = np.stack([entry.group_products[:, column] for entry in entries], axis=1)
    return found
