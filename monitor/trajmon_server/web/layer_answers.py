"""All layers of a run as JSON, or with their small maps as one block of float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from trajmon_server.query.layers import LayersAnswer
from trajmon_server.query.overview import layer_places
from trajmon_server.runs.run import Run
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.map_answers import float32_pieces
from trajmon_server.web.pieces import Pieces, finite, in_threads, json_bytes, json_with_arrays

__all__ = ["layers"]


async def layers(backend: Backend, call: Call) -> Response:
    """Every layer of a run."""
    readers = backend.readers
    run = readers.query.require(call.run, call.principal)
    await readers.query.caught_up(run)
    answer = await readers.layers.layers(run, call.values["size"])
    head = _head(run, answer)
    blocks = [answer.maps] if answer.errors is None else [answer.maps, answer.errors]
    if call.values["format"] == "f32":
        pieces, media_type = float32_pieces(head, blocks), "application/vnd.trajmon.f32"
    else:
        pieces, media_type = _json(head, answer), "application/json"
    return Pieces(in_threads(pieces, readers.run), media_type=media_type)


def _head(run: Run, answer: LayersAnswer) -> dict[str, Any]:
    columns = {name: values.tolist() for name, values in answer.latest.items()}
    num_layers, size = len(run.description.layers), len(answer.checkpoint)
    told = [
        {
            "name": layer.name,
            "kind": place.kind,
            "role": place.role,
            "depth": place.depth,
            "parameters": layer.parameters,
            "hallmarks": {name: finite(values[index]) for name, values in columns.items()},
        }
        for index, (layer, place) in enumerate(
            zip(run.description.layers, layer_places(run.description), strict=True)
        )
    ]
    return {
        "run": run.description.name,
        "shape": [num_layers, size, size],
        "total": answer.total,
        "has_error": answer.errors is not None,
        "checkpoint": answer.checkpoint.tolist(),
        "step": answer.step.tolist(),
        "left_out": answer.left_out,
        "layers": told,
    }


def _json(head: dict[str, Any], answer: LayersAnswer) -> Iterator[bytes]:
    yield json_bytes(head)[:-1]
    for name, block in (("maps", answer.maps), ("errors", answer.errors)):
        if block is not None:
            yield b"," + json_bytes(name) + b":["
            for index, entries in enumerate(block):
                text = b"".join(json_with_arrays({}, {"map": entries}))
                yield (b"," if index else b"") + text[len(b'{"map":') : -1]
            yield b"]"
    yield b"}"
