"""What is exported of a run besides its analysis: its advice, its checkpoints, and what its agents told."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

from trajmon_protos.v1 import ingest_pb2
from trajmon_server.export.labels import RunLabels
from trajmon_server.export.text import Family, label_text, lines, with_label
from trajmon_server.runs.run import Run
from trajmon_server.signals.base import AdviceState

__all__ = ["FAMILIES", "SERIES_PER_RUN", "Told", "told_lines", "told_of"]

_INTERVALS_OF = 8
"""Checkpoints whose distances in time are looked at."""
_MODES = {
    ingest_pb2.SNAPSHOT_MODE_EXACT: "exact",
    ingest_pb2.SNAPSHOT_MODE_ANCHORED: "anchored",
    ingest_pb2.SNAPSHOT_MODE_SKETCH: "sketch",
}


class Told(NamedTuple):
    """One look at a run. Two that are equal say the same; None is undefined."""

    run_id: str
    fingerprint: str
    layers: int
    attempt: int
    is_active: bool
    advice: AdviceState
    advice_since: float | None
    """Unix seconds, by the training machine's clock."""
    step: int | None
    is_norm_only: bool | None
    checkpoints: int
    unanalysed: int
    last_recorded: float | None
    """Unix seconds, by the training machine's clock."""
    last_heard: float | None
    """Unix seconds, by this machine's clock."""
    last_report: float | None
    """The same."""
    interval_seconds: float | None
    open_checkpoints: int
    journal_bytes: int
    pending: int | None
    skipped: int | None
    uncomputed: int | None
    lag_seconds: float | None
    snapshot_mode: str | None


def told_of(run: Run) -> Told:
    """Look at a run. Safe from any thread: each thing that may change meanwhile is looked at once."""
    description, control, path = run.description, run.control, run.path
    # A row may get lost between two looks at it.
    newest = run.metas.get(path[-1]) if path else None
    advice = run.current_advice().state
    has_reports, agent = bool(run.reports), run.agent
    return Told(
        run_id=description.run_id,
        fingerprint=description.fingerprint,
        layers=len(description.layers),
        attempt=control.attempt,
        is_active=control.is_active,
        advice=advice,
        advice_since=_since(run, advice),
        step=None if newest is None else newest.step,
        is_norm_only=None if newest is None else newest.is_norm_only,
        checkpoints=len(path),
        unanalysed=_unanalysed(run),
        last_recorded=None if newest is None else run.last_row_unix_seconds,
        last_heard=run.last_heard_unix_seconds or None,
        last_report=run.reports.last_unix_seconds or None,
        interval_seconds=_interval_seconds(run, path),
        open_checkpoints=len(run.open),
        journal_bytes=run.journal_bytes,
        # Before an agent has told anything, nothing is known of it.
        pending=agent.checkpoints_pending if has_reports else None,
        skipped=agent.checkpoints_skipped if has_reports else None,
        uncomputed=agent.checkpoints_uncomputed if has_reports else None,
        lag_seconds=agent.lag_seconds if has_reports else None,
        snapshot_mode=_MODES.get(agent.snapshot_mode),
    )


def _unanalysed(run: Run) -> int:
    """Rows that are known and not analysed, counted on the shorter side: a backlog may be long."""
    analysed, stop = run.analysed, run.num_checkpoints
    if stop - analysed <= analysed:
        return sum(number in run.metas for number in range(analysed, stop))
    return len(run.metas) - sum(number in run.metas for number in range(analysed))


def _since(run: Run, advice: AdviceState) -> float | None:
    """When the checkpoint was recorded at which the advice began; None if none began it, as with silence."""
    history = run.shown.history
    if not history or history[-1][1] is not advice:
        return None
    meta = run.meta(history[-1][0])
    return None if meta is None else meta.time_unix_seconds


def _interval_seconds(run: Run, path: tuple[int, ...]) -> float | None:
    """Median distance in time of checkpoints that follow each other, up to the last eight of the path."""
    last = [run.metas.get(number) for number in path[-_INTERVALS_OF:]]
    distances = [
        after.time_unix_seconds - before.time_unix_seconds
        for before, after in itertools.pairwise(last)
        if before is not None and after is not None
    ]
    median = statistics.median(distances) if distances else 0.0
    # Clocks that were set back, and rows that all bear one time, tell no interval.
    return median if median > 0.0 else None


_INFO = Family("trajmon_run_info", "Constant facts of a run.", "info")
_STATE = Family("trajmon_advice_state", "1 for the current state of the advice, 0 for the others.")
_MODE = Family(
    "trajmon_snapshot_mode",
    "1 for the snapshots that the client keeps (exact: all; anchored: a few; sketch: the last two), "
    "0 for the other modes.",
)
_NUMBERS: tuple[tuple[Family, Callable[[Told], float | None]], ...] = (
    (
        Family("trajmon_run_active", "1 while training runs, 0 once it has ended."),
        lambda told: told.is_active,
    ),
    (
        Family("trajmon_switch_advised", "1 while norm-only training is advised."),
        lambda told: told.advice is AdviceState.SWITCH,
    ),
    (
        Family(
            "trajmon_advice_since_timestamp_seconds",
            "When the checkpoint was recorded at which the current state of the advice began.",
        ),
        lambda told: told.advice_since,
    ),
    (
        Family("trajmon_checkpoint_step", "Training step of the last checkpoint."),
        lambda told: told.step,
    ),
    (
        Family("trajmon_norm_only", "1 if the last checkpoint is of norm-only training."),
        lambda told: told.is_norm_only,
    ),
    (Family("trajmon_checkpoints", "Checkpoints on the run's path."), lambda told: told.checkpoints),
    (
        Family("trajmon_unanalysed_checkpoints", "Rows in the journal that are not yet in what is shown."),
        lambda told: told.unanalysed,
    ),
    (
        Family(
            "trajmon_open_checkpoints",
            "Checkpoints of which some parts have come and others have not.",
        ),
        lambda told: told.open_checkpoints,
    ),
    (
        Family(
            "trajmon_last_checkpoint_timestamp_seconds",
            "When the last checkpoint was recorded, by the training machine's clock.",
        ),
        lambda told: told.last_recorded,
    ),
    (
        Family(
            "trajmon_last_heard_timestamp_seconds",
            "When the last row came, by the server's clock; after a restart of the server, as recorded.",
        ),
        lambda told: told.last_heard,
    ),
    (
        Family(
            "trajmon_agent_last_report_timestamp_seconds",
            "When an agent of the run last reported, by the server's clock.",
        ),
        lambda told: told.last_report,
    ),
    (
        Family(
            "trajmon_checkpoint_interval_seconds",
            "Median time between checkpoints, over the last 8 of the path.",
        ),
        lambda told: told.interval_seconds,
    ),
    (
        Family("trajmon_run_journal_bytes", "Bytes of the run in the journal, rows and sketches."),
        lambda told: told.journal_bytes,
    ),
    (
        Family("trajmon_checkpoints_pending", "Recorded on the training machine, not yet acknowledged."),
        lambda told: told.pending,
    ),
    (
        Family("trajmon_checkpoints_skipped", "Not recorded, for want of disk or budget."),
        lambda told: told.skipped,
    ),
    (
        Family(
            "trajmon_checkpoints_uncomputed",
            "Recorded on the training machine, their rows not yet computed.",
        ),
        lambda told: told.uncomputed,
    ),
    (
        Family(
            "trajmon_agent_lag_seconds",
            "Age of the oldest checkpoint that is recorded and not acknowledged, as the agents last told.",
        ),
        lambda told: told.lag_seconds,
    ),
)
FAMILIES = (_INFO, _STATE, _MODE, *(family for family, _ in _NUMBERS))
SERIES_PER_RUN = 1 + len(AdviceState) + len(_MODES) + len(_NUMBERS)


def told_lines(labels: RunLabels, told: Told) -> tuple[bytes, ...]:
    """The run's lines of each of :data:`FAMILIES`, in their order."""
    facts = label_text(
        run=labels.name,
        run_id=told.run_id,
        attempt=str(told.attempt),
        fingerprint=told.fingerprint,
        layers=str(told.layers),
    )
    states = [(with_label(labels.run, "state", state.value), state is told.advice) for state in AdviceState]
    modes = [(with_label(labels.run, "mode", mode), mode == told.snapshot_mode) for mode in _MODES.values()]
    numbers = []
    for family, value_of in _NUMBERS:
        value = value_of(told)
        numbers.append(lines(family, [(labels.run, math.nan if value is None else value)]))
    return (
        lines(_INFO, [(facts, 1.0)]),
        lines(_STATE, states),
        lines(_MODE, modes if told.snapshot_mode is not None else ()),
        *numbers,
    )
