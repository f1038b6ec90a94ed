"""Hallmarks, findings and advice of one run, row by row. Pure: a state and a row in, a state out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_server.hallmarks import stream
from trajmon_server.hallmarks.integrity import Finding
from trajmon_server.model import CheckpointMeta, Group
from trajmon_server.runs.path import extend_path
from trajmon_server.signals.base import Advice, Observation, Policy

__all__ = ["Analysis", "advance", "group_row", "start"]

_COLUMN = {name: index for index, name in enumerate(PRODUCTS)}


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything derived from the rows on the path so far; O(groups x checkpoints) in size."""

    path: tuple[int, ...]
    """Numbers of the checkpoints on the path."""
    streams: tuple[stream.StreamState, ...]
    """One per group."""
    policy_state: Any
    """What the policy remembers; its own business."""
    advice: Advice | None = None
    """None before the first row."""
    hallmarks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Latest values by group; NaN where undefined."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Integrity findings of the whole network; their `checkpoint` is a position along the path."""
        return self.streams[0].findings


def start(groups: tuple[Group, ...], policy: Policy[Any]) -> Analysis:
    """The analysis of a run without rows."""
    return Analysis(path=(), streams=tuple(stream.init() for _ in groups), policy_state=policy.init())


def group_row(row: Row, columns: tuple[int, ...], group: Group) -> stream.GramRow:
    """A group's row: the sum of its layers' rows over `columns`, the path with the row's own checkpoint last."""
    members = list(group.layers)
    gram = row.gram if len(members) == row.gram.shape[0] else row.gram[members]
    total = gram.sum(axis=0)
    if len(columns) != total.shape[0]:
        total = total[list(columns)]
    products = row.products[members].sum(axis=0)
    return stream.GramRow(
        gram=np.asarray(total, dtype=np.float64),
        update_squared=float(products[_COLUMN["update_squared"]]),
        update_dot=float(products[_COLUMN["update_dot"]]),
        displacement_squared=float(products[_COLUMN["displacement_squared"]]),
        displacement_dot=float(products[_COLUMN["displacement_dot"]]),
    )


def advance(
    analysis: Analysis, row: Row, meta: CheckpointMeta, groups: tuple[Group, ...], policy: Policy[Any]
) -> Analysis:
    """Add the next row of the path. ValueError if it does not follow the path's last checkpoint."""
    if (analysis.path[-1] if analysis.path else None) != meta.previous:
        raise ValueError(f"checkpoint {row.header.checkpoint} does not follow {analysis.path[-1:]}")
    path = extend_path(analysis.path, row.header.checkpoint, meta.previous)
    rows = [group_row(row, path, group) for group in groups]
    streams = tuple(stream.update(state, added) for state, added in zip(analysis.streams, rows, strict=True))
    hallmarks = {group.name: stream.latest(state) for group, state in zip(groups, streams, strict=True)}
    observation = _observation(row, meta, rows[0], hallmarks[groups[0].name])
    policy_state, advice = policy.update(analysis.policy_state, observation)
    return Analysis(path, streams, policy_state, advice, hallmarks)


def _observation(
    row: Row, meta: CheckpointMeta, network: stream.GramRow, hallmarks: Mapping[str, float]
) -> Observation:
    # No age: what a row says must not depend on when it is analysed. Staleness is judged when advice is read.
    return Observation(
        checkpoint=row.header.checkpoint,
        previous=meta.previous,
        step=meta.step,
        finite=not (row.status == LayerStatus.NON_FINITE).any(),
        complete=not (row.status == LayerStatus.SNAPSHOT_MISSING).any() and not meta.lost,
        age_seconds=None,
        learning_rate=meta.learning_rate,
        update_squared=network.update_squared,
        update_dot=network.update_dot,
        displacement_squared=network.displacement_squared,
        mds=hallmarks.get("mds", math.nan),
        relative_mds=hallmarks.get("relative_mds", math.nan),
    )
