"""From the server's values to messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.sketch_record import spec_message
from trajmon_protos.v1 import query_pb2, types_pb2
from trajmon_server.query.overview import GroupOutlook
from trajmon_server.runs.run import Run
from trajmon_server.signals.base import Advice

__all__ = ["advice_message", "array_chunks", "hallmark_messages", "outlook_messages", "run_summary"]

CHUNK_BYTES = 512 * 1024


def advice_message(advice: Advice) -> types_pb2.Advice:
    """Undefined evidence is left out."""
    return types_pb2.Advice(
        state=types_pb2.AdviceState.Value(f"ADVICE_STATE_{advice.state.name}"),
        checkpoint=max(advice.checkpoint, 0),
        evidence={name: value for name, value in advice.evidence.items() if math.isfinite(value)},
        reason=advice.reason,
        policy=advice.policy,
    )


def hallmark_messages(
    hallmarks: Mapping[str, Mapping[str, float]], errors: Mapping[str, Mapping[str, float]]
) -> list[types_pb2.GroupHallmarks]:
    """Undefined values are left out; `errors` are standard errors of those that rest on estimates."""
    return [
        types_pb2.GroupHallmarks(
            group=group,
            values={name: value for name, value in values.items() if math.isfinite(value)},
            errors={name: error for name, error in errors.get(group, {}).items() if math.isfinite(error)},
        )
        for group, values in hallmarks.items()
    ]


def outlook_messages(outlooks: Sequence[GroupOutlook]) -> list[query_pb2.GroupOutlook]:
    """In the order in which they come."""
    return [
        query_pb2.GroupOutlook(
            group=one.group,
            remaining=one.remaining,
            low=one.low,
            high=one.high,
            settled_since=one.settled_since,
        )
        for one in outlooks
    ]


def run_summary(run: Run) -> query_pb2.RunSummary:
    """What a list of runs shows."""
    path = run.path
    newest = run.shown.path if run.num_early else path
    last = run.meta(newest[-1]) if newest else None
    analysis = run.shown
    mds = analysis.hallmarks.get("network", {}).get("mds", math.nan)
    spec, early = run.sketches.spec, run.num_early
    return query_pb2.RunSummary(
        run_id=run.description.run_id,
        name=run.description.name,
        tags=run.description.tags,
        attempt=run.control.attempt,
        phase=run.control.phase,
        reason=run.control.reason,
        checkpoints=len(run.metas) + early,
        early_checkpoints=early,
        superseded=run.num_checkpoints - len(path),
        last_step=last.step if last else 0,
        last_time_unix_seconds=last.time_unix_seconds if last else 0.0,
        advice=advice_message(run.current_advice()),
        mean_directional_similarity=mds if math.isfinite(mds) else None,
        parameters=run.parameters,
        open_checkpoints=len(run.open),
        mode=last.mode if last else types_pb2.TRAINING_MODE_UNSPECIFIED,
        snapshot_mode=run.agent.snapshot_mode,
        sketch=spec_message(spec) if spec else None,
        mean_directional_similarity_error=analysis.errors.get("network", {}).get("mds", 0.0),
    )


def array_chunks(name: str, array: NDArray[Any]) -> Iterator[types_pb2.ArrayChunk]:
    """An array in pieces of at most 512 KiB; an empty array is one empty piece."""
    dtype = {"f": "<f8", "i": "<i8", "u": "|u1"}[array.dtype.kind]
    # A view: a large answer is not held twice.
    data = np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        yield types_pb2.ArrayChunk(
            name=name,
            dtype=dtype,
            shape=array.shape,
            offset_bytes=offset,
            data=data[offset : offset + CHUNK_BYTES].tobytes(),
        )
