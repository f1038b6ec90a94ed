"""The spectrum of a scope, and the map of a random walk with the run's learning rates."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from trajmon_protos.names import parse_scope
from trajmon_server.query.core import MapQuery
from trajmon_server.query.spectrum import spectrum_of, walk_of
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.map_answers import map_answer, show
from trajmon_server.web.pieces import finite, json_answer

__all__ = ["random_walk", "spectrum"]


async def spectrum(backend: Backend, call: Call) -> Response:
    """Eigenvalues of the map and of the Gram, largest first."""
    readers, values = backend.readers, call.values
    run = readers.query.require(call.run, call.principal)
    wanted = MapQuery(values["scope"], start=values["start"], stop=values["stop"])
    with readers.budget.reserve(readers.map_bytes(run)):
        found = await spectrum_of(readers.query, run, call.principal, readers.run, wanted)
    return json_answer(
        {
            "run": run.description.name,
            "scope": str(parse_scope(values["scope"])),
            "total": found.total,
            "checkpoint": found.checkpoint.tolist(),
            "map": _spectrum(found.map_values, found.map_rank, found.map_error),
            "gram": _spectrum(found.gram_values, found.gram_rank, found.gram_error),
        }
    )


def _spectrum(values: NDArray[np.float64], rank: float, error: float) -> dict[str, Any]:
    return {"eigenvalues": values.tolist(), "effective_rank": finite(rank), "error": finite(error)}


async def random_walk(backend: Backend, call: Call) -> Response:
    """What a random walk would show in place of the relative map."""
    readers, values = backend.readers, call.values
    run = readers.query.require(call.run, call.principal)
    with contextlib.ExitStack() as held:
        held.enter_context(readers.budget.reserve(readers.map_bytes(run)))
        wanted = MapQuery(values["scope"], start=values["start"], stop=values["stop"])
        await readers.query.caught_up(run)
        answer, why = await walk_of(run, readers.limits, readers.run, wanted)
        shown = await readers.run(lambda: show(run.description.name, wanted, answer, values["size"]))
        # About the first of the checkpoints, wherever that is.
        about = min((n for n in run.analysis.path if n >= (wanted.start or 0)), default=None)
        shown = replace(shown, head={**shown.head, "relative_to": about, "undefined_because": why})
        return map_answer(shown, values["format"], readers.run, held.pop_all())
