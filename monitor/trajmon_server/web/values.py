"""A run as JSON: what the list and the page of a run show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trajmon_protos.v1 import query_pb2, types_pb2
from trajmon_protos.v1.ingest_pb2 import RunPhase, SnapshotMode
from trajmon_server.model import Plan
from trajmon_server.query.overview import Phases, group_outlooks, layer_places, phases_of, sparkline
from trajmon_server.rpc.messages import run_summary
from trajmon_server.runs.run import Run
from trajmon_server.web.pieces import finite

__all__ = [
    "ADVICE_STATES",
    "MODES",
    "PHASES",
    "SNAPSHOT_MODES",
    "advice_json",
    "hallmarks_json",
    "run_json",
    "summary_json",
]

NON_FINITE_SHOWN = 100
OPEN_SHOWN = 100


def _words(prefix: str, enum: Any) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix).lower() for name in enum.keys())  # noqa: SIM118


ADVICE_STATES = _words("ADVICE_STATE_", types_pb2.AdviceState)[1:]
PHASES = _words("RUN_PHASE_", RunPhase)
MODES = _words("TRAINING_MODE_", types_pb2.TrainingMode)
SNAPSHOT_MODES = _words("SNAPSHOT_MODE_", SnapshotMode)


def advice_json(advice: types_pb2.Advice) -> dict[str, Any]:
    """The advice with its evidence; undefined evidence is left out."""
    return {
        "state": ADVICE_STATES[advice.state - 1],
        "checkpoint": advice.checkpoint,
        "reason": advice.reason,
        "evidence": dict(sorted(advice.evidence.items())),
        "policy": advice.policy,
    }


def summary_json(run: Run) -> dict[str, Any]:
    """What the list shows of a run."""
    return _summary(run_summary(run), run)


def _summary(told: query_pb2.RunSummary, run: Run) -> dict[str, Any]:
    has_mds = told.HasField("mean_directional_similarity")
    return {
        "name": told.name,
        "id": told.run_id,
        "tags": list(told.tags),
        "phase": PHASES[told.phase],
        "reason": told.reason,
        "attempt": told.attempt,
        "created": run.description.created_unix_seconds,
        "checkpoints": told.checkpoints,
        "superseded": told.superseded,
        "open": told.open_checkpoints,
        "last_step": told.last_step if told.checkpoints else None,
        "last_time": told.last_time_unix_seconds or None,
        "parameters": told.parameters,
        "mds": told.mean_directional_similarity if has_mds else None,
        "mds_error": told.mean_directional_similarity_error,
        "advice": advice_json(told.advice),
        "mode": MODES[told.mode],
        "snapshot_mode": SNAPSHOT_MODES[told.snapshot_mode],
        "sketch": _sketch(told),
        "early_checkpoints": told.early_checkpoints,
        "sparkline": [finite(value) for value in sparkline(run)],
    }


def _sketch(told: query_pb2.RunSummary) -> dict[str, int | str] | None:
    if not told.HasField("sketch"):
        return None
    # The seed has 64 bits, more than a number of JavaScript holds.
    return {"version": told.sketch.version, "seed": str(told.sketch.seed), "bins": told.sketch.bins}


def _plan(run: Run) -> dict[str, Any] | None:
    """What the newest checkpoint that is shown says of it; null where nothing is planned."""
    path = run.shown.path
    meta = run.meta(path[-1]) if path else None
    if meta is None or meta.plan == Plan():
        return None
    plan = meta.plan
    return {
        "steps_ahead": None if plan.ahead is None else plan.ahead.steps,
        "rates_are_known": plan.ahead is not None and math.isfinite(plan.ahead.rate_sum),
        "objective": plan.objective,
        "larger_is_better": plan.larger_is_better,
        "objective_tolerance": finite(plan.objective_tolerance),
    }


def hallmarks_json(latest: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """The latest hallmarks by group; null where undefined."""
    return {
        group: {name: finite(value) for name, value in values.items()} for group, values in latest.items()
    }


def run_json(run: Run) -> dict[str, Any]:
    """Everything about one run but its maps and curves."""
    analysis = run.shown  # one look: the loop may put another in its place meanwhile
    groups, layers = run.description.groups, run.description.layers
    places = layer_places(run.description)
    names = [layer.name for layer in layers]
    phases: Phases = phases_of(run)
    report = run.agent
    return {
        **summary_json(run),
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "dtype": layer.dtype,
                "parameters": layer.parameters,
                "kind": place.kind,
                "role": place.role,
                "depth": place.depth,
            }
            for layer, place in zip(layers, places, strict=True)
        ],
        "groups": [{"name": group.name, "layers": list(group.layers)} for group in groups],
        "hallmarks": hallmarks_json(analysis.hallmarks),
        "errors": hallmarks_json(analysis.errors),
        "findings": [
            {"kind": found.kind, "checkpoint": found.checkpoint, "text": found.text}
            for found in run.all_findings()
        ],
        "non_finite": [
            {
                "checkpoint": number,
                "layers": [names[index] for index in meta.non_finite_layers[:NON_FINITE_SHOWN]],
            }
            for number, meta in sorted(run.metas.items())
            if meta.non_finite_layers
        ][:NON_FINITE_SHOWN],
        "missing": [
            {"checkpoint": number, "num_parts": known.num_parts, "missing_parts": known.missing()}
            for number, known in sorted(run.open.items())[:OPEN_SHOWN]
        ],
        "agent": {
            "phase": PHASES[report.phase],
            "reason": report.reason,
            "checkpoints_recorded": report.checkpoints_recorded,
            "checkpoints_skipped": report.checkpoints_skipped,
            "checkpoints_pending": report.checkpoints_pending,
            "checkpoints_uncomputed": report.checkpoints_uncomputed,
            "snapshot_bytes": report.snapshot_bytes,
            "agent_restarts": report.agent_restarts,
            "lag_seconds": finite(report.lag_seconds),
        },
        "failure": run.failure,
        "phases": [
            {"start": a.start, "stop": a.stop, "learning_rate": finite(a.learning_rate)}
            for a in phases.ranges
        ],
        "schedule": phases.schedule,
        "plan": _plan(run),
        "outlooks": [asdict(outlook) for outlook in group_outlooks(analysis.settling)],
        "history": [{"checkpoint": number, "state": state.value} for number, state in analysis.history],
    }
