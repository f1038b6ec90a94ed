"""The run that an agent opens: what it is, and how it must agree with the one that is known. Pure."""

from __future__ import annotations

import time

from trajmon_protos.v1 import ingest_pb2
from trajmon_server.errors import Conflict
from trajmon_server.model import Group, Layer, RunDescription
from trajmon_server.runs.run import Run

__all__ = ["describe", "name_taken", "refuse_other_model"]


def describe(request: ingest_pb2.OpenRunRequest, team: str) -> RunDescription:
    """The run that a request asks for."""
    return RunDescription(
        run_id=request.run_id,
        name=request.name,
        team=team,
        tags=tuple(request.tags),
        created_unix_seconds=time.time(),
        fingerprint=request.layout.fingerprint,
        layers=tuple(Layer(a.name, tuple(a.shape), a.dtype) for a in request.layout.layers),
        groups=tuple(Group(a.name, tuple(a.layers)) for a in request.layout.groups),
    )


def name_taken(request: ingest_pb2.OpenRunRequest, whose: str) -> Conflict:
    """What to raise where another run has the name; `whose` says which."""
    return Conflict(
        "NAME_TAKEN",
        f"run name {request.name!r} belongs to {whose}, this one is {request.run_id} (model "
        f"{request.layout.fingerprint}); choose another name, or resume where its snapshots are",
    )


def refuse_other_model(request: ingest_pb2.OpenRunRequest, run: Run) -> None:
    """Conflict OTHER_NAME or OTHER_MODEL if the request is for another run than the one with its id."""
    described = describe(request, run.description.team)
    if described.name != run.description.name:
        raise Conflict(
            "OTHER_NAME", f"run {request.run_id} is named {run.description.name!r}, not {described.name!r}"
        )
    if (described.fingerprint, described.layers) != (run.description.fingerprint, run.description.layers):
        raise Conflict(
            "OTHER_MODEL",
            f"run {described.name!r} records the model with fingerprint {run.description.fingerprint}, this one has "
            f"{described.fingerprint}; give the new model a run name of its own",
        )
