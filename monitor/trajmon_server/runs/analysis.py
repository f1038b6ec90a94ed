"""Hallmarks, findings and advice of one run, row by row. Pure: a state and a row in, a state out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_server.hallmarks import stream
from trajmon_server.hallmarks.integrity import Finding
from trajmon_server.model import CheckpointMeta, Group
from trajmon_server.runs.path import extend_path
from trajmon_server.signals import settling
from trajmon_server.signals.base import Advice, AdviceState, GroupObservation, Policy
from trajmon_server.signals.observing import observe, observe_group
from trajmon_server.store.estimates import RowEstimates

__all__ = ["Analysis", "GroupEstimates", "advance", "group_row", "start"]

_GOOD_DISTANCE = 0.05
"""Relative standard error of a distance from the initialization that advice may rest on."""
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
    settling: settling.SettlingState = field(default_factory=settling.init)
    """The groups' own forecasts; the network's is the policy's."""
    hallmarks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Latest values by group; NaN where undefined."""
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Standard errors of those values that rest on estimates, by group."""
    history: tuple[tuple[int, AdviceState], ...] = ()
    """Where the advice changed: number of the checkpoint, and the state from there on."""
    mds_trace: tuple[float, ...] = ()
    """The network's MDS as of each checkpoint of the path; NaN where undefined."""
    non_finite_layers: int | None = None
    """How many layers hold NaN or Inf at the newest checkpoint; None where nothing is known of it."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Integrity findings of the whole network; their `checkpoint` is a position along the path."""
        return self.streams[0].findings


def start(groups: tuple[Group, ...], policy: Policy[Any]) -> Analysis:
    """The analysis of a run without rows."""
    return Analysis(path=(), streams=tuple(stream.init() for _ in groups), policy_state=policy.init())


def group_row(
    row: Row, columns: tuple[int, ...], group: Group, estimates: GroupEstimates | None = None
) -> stream.GramRow:
    """A group's row: the sum of its layers' rows over `columns`, the path with the row's own checkpoint last."""
    members = list(group.layers)
    gram = row.gram if len(members) == row.gram.shape[0] else row.gram[members]
    total = np.asarray(gram.sum(axis=0), dtype=np.float64)
    error = None
    if estimates is not None:
        total, error = estimates.fill(total)
    if len(columns) != total.shape[0]:
        total = total[list(columns)]
        error = None if error is None else error[list(columns)]
    products = row.products[members].sum(axis=0)
    return stream.GramRow(
        gram=total,
        update_squared=float(products[_COLUMN["update_squared"]]),
        update_dot=float(products[_COLUMN["update_dot"]]),
        displacement_squared=float(products[_COLUMN["displacement_squared"]]),
        displacement_dot=float(products[_COLUMN["displacement_dot"]]),
        gram_error=error,
    )


@dataclass(frozen=True, slots=True)
class GroupEstimates:
    """What is estimated of a group's row."""

    estimate: NDArray[np.float64]
    """[n], NaN where the row is exact, and where nothing can be said."""
    error: NDArray[np.float64]
    """[n], standard errors."""

    def fill(self, gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The row with its holes filled, and its standard errors, 0 where it is exact."""
        holes = np.isnan(gram) & ~np.isnan(self.estimate)
        return np.where(holes, self.estimate, gram), np.where(holes, self.error, 0.0)


def advance(
    analysis: Analysis,
    row: Row,
    meta: CheckpointMeta,
    groups: tuple[Group, ...],
    policy: Policy[Any],
    estimates: RowEstimates | None = None,
) -> Analysis:
    """Add the next row of the path. ValueError if it does not follow the path's last checkpoint."""
    if (analysis.path[-1] if analysis.path else None) != meta.previous:
        raise ValueError(f"checkpoint {row.header.checkpoint} does not follow {analysis.path[-1:]}")
    path = extend_path(analysis.path, row.header.checkpoint, meta.previous)
    filling = [
        None if estimates is None else GroupEstimates(estimates.group_estimate[g], estimates.group_error[g])
        for g in range(len(groups))
    ]
    rows = [group_row(row, path, group, fill) for group, fill in zip(groups, filling, strict=True)]
    streams = tuple(stream.update(state, added) for state, added in zip(analysis.streams, rows, strict=True))
    hallmarks = {group.name: stream.latest(state) for group, state in zip(groups, streams, strict=True)}
    errors = {group.name: stream.latest_errors(state) for group, state in zip(groups, streams, strict=True)}
    network = groups[0].name
    scopes = {
        group.name: _scope(added, state, hallmarks[group.name], errors[group.name])
        for group, added, state in zip(groups, rows, streams, strict=True)
    }
    seen = observe(
        checkpoint=row.header.checkpoint,
        previous=meta.previous,
        step=meta.step,
        finite=not (row.status == LayerStatus.NON_FINITE).any(),
        complete=not (row.status == LayerStatus.SNAPSHOT_MISSING).any() and not meta.lost,
        learning_rate=meta.learning_rate,
        network=scopes.pop(network),
        norm_squared=float(rows[0].gram[-1]),
        hallmarks=hallmarks[network],
        groups=scopes,
        objective=meta.objective,
        objective_floor=meta.objective_floor,
        objective_tolerance=meta.plan.objective_tolerance,
        ahead=meta.plan.ahead,
    )
    policy_state, advice = policy.update(analysis.policy_state, seen)
    history = analysis.history
    if not history or history[-1][1] != advice.state:
        history = (*history, (row.header.checkpoint, advice.state))
    trace = (*analysis.mds_trace, hallmarks[network].get("mds", math.nan))
    bad = None if meta.lost else int(np.count_nonzero(row.status == LayerStatus.NON_FINITE))
    return Analysis(
        path=path,
        streams=streams,
        policy_state=policy_state,
        advice=advice,
        settling=settling.update(analysis.settling, seen),
        hallmarks=hallmarks,
        errors=errors,
        history=history,
        mds_trace=trace,
        non_finite_layers=bad,
    )


def _scope(
    row: stream.GramRow,
    state: stream.StreamState,
    hallmarks: Mapping[str, float],
    errors: Mapping[str, float],
) -> GroupObservation:
    displacement = _displacement_squared(row, hallmarks, errors)
    return observe_group(row, displacement, state.lagged_dots)


def _displacement_squared(
    row: stream.GramRow, hallmarks: Mapping[str, float], errors: Mapping[str, float]
) -> float:
    """‖θ_t−θ_0‖², exact, or an estimate that is good enough to judge by; else NaN."""
    distance = hallmarks["distance_from_initialization"]
    if math.isfinite(row.displacement_squared):
        return row.displacement_squared
    is_good = errors.get("distance_from_initialization", 0.0) <= _GOOD_DISTANCE * distance
    return distance**2 if is_good else math.nan
