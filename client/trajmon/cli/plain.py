"""Messages and arrays as plain values for JSON: enums by name, undefined as None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

__all__ = [
    "advice_value",
    "array_value",
    "number_value",
    "phase_name",
    "split_errors",
    "state_name",
    "summary_value",
]

_ERROR = "error:"


def number_value(value: float) -> float | None:
    """The number; None for NaN and infinities, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def array_value(array: NDArray[Any]) -> list[float | int | None]:
    """A 1-D array, None where undefined.

    >>> import numpy as np
    >>> array_value(np.array([1.0, np.nan]))
    [1.0, None]
    """
    if array.dtype.kind in "iu":
        return [int(value) for value in array]
    return [number_value(value) for value in array]


def has_unicode(console: Console) -> bool:
    """Whether the terminal can show signs beyond ASCII."""
    return console.encoding.lower().replace("-", "").startswith("utf")


def split_errors(
    hallmarks: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """What a server sends of a scope: the values by name, and the standard errors of those that have any by name."""
    values = {name: array for name, array in hallmarks.items() if not name.startswith(_ERROR)}
    errors = {
        name.removeprefix(_ERROR): array for name, array in hallmarks.items() if name.startswith(_ERROR)
    }
    return values, errors


def state_name(state: types_pb2.AdviceState.ValueType) -> str:
    """`explore`, `candidate`, `switch`, `resume` or `unknown`, also for states of a newer server."""
    known = types_pb2.AdviceState.values()
    if state not in known or state == types_pb2.ADVICE_STATE_UNSPECIFIED:
        return "unknown"
    return types_pb2.AdviceState.Name(state).removeprefix("ADVICE_STATE_").lower()


def phase_name(phase: ingest_pb2.RunPhase.ValueType) -> str:
    """`running`, `finished`, `lost`, `stopped`; else `unknown`."""
    if phase not in ingest_pb2.RunPhase.values() or phase == ingest_pb2.RUN_PHASE_UNSPECIFIED:
        return "unknown"
    return ingest_pb2.RunPhase.Name(phase).removeprefix("RUN_PHASE_").lower()


def advice_value(advice: types_pb2.Advice) -> dict[str, Any]:
    """The advice with its evidence."""
    return {
        "state": state_name(advice.state),
        "checkpoint": advice.checkpoint,
        "reason": advice.reason,
        "evidence": _numbers(advice.evidence),
        "policy": advice.policy,
    }


def summary_value(run: query_pb2.RunSummary) -> dict[str, Any]:
    """One run of a list."""
    return {
        "name": run.name,
        "run_id": run.run_id,
        "tags": list(run.tags),
        "attempt": run.attempt,
        "state": phase_name(run.phase),
        "reason": run.reason,
        "checkpoints": run.checkpoints,
        "superseded": run.superseded,
        "last_step": run.last_step,
        "last_time_unix_seconds": number_value(run.last_time_unix_seconds),
        "mds": number_value(run.mean_directional_similarity)
        if run.HasField("mean_directional_similarity")
        else None,
        "mds_error": number_value(run.mean_directional_similarity_error)
        if run.HasField("mean_directional_similarity")
        else None,
        "parameters": run.parameters,
        "advice": advice_value(run.advice),
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number_value(value) for name, value in sorted(values.items())}
