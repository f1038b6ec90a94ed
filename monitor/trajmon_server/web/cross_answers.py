"""The map across two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from trajmon_protos.names import parse_scope
from trajmon_server.errors import InvalidRequest, Violation
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.pieces import Pieces, in_threads

__all__ = ["cross_map"]


async def cross_map(backend: Backend, call: Call) -> Response:
    """Cosines and distances between the checkpoints of two runs."""
    readers, values = backend.readers, call.values
    if not values["run"] or not values["other"]:
        raise InvalidRequest.from_violations(
            [Violation(name, "names a run") for name in ("run", "other") if not values[name]]
        )
    runs = [readers.query.require(values[name], call.principal) for name in ("run", "other")]
    answer = await readers.cross.map(
        values["run"],
        values["other"],
        values["scope"],
        call.principal,
        from_initialization=values["from_initialization"],
        most=values["size"],
    )
    head = {
        "run": runs[0].description.name,
        "other": runs[1].description.name,
        "scope": str(parse_scope(values["scope"])),
        "from_initialization": values["from_initialization"],
    }
    return Pieces(in_threads(_pieces(head, answer.arrays()), readers.run), media_type="application/json")


def _pieces(head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Iterator[bytes]:
    yield json.dumps(head)[:-1].encode()
    for name, array in arrays.items():
        yield f", {json.dumps(name)}: ".encode()
        yield json.dumps(_defined(array)).encode()
    yield b"}"


def _defined(array: NDArray[Any]) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    entries = array.astype(object)
    entries[np.isnan(array)] = None
    return entries.tolist()
