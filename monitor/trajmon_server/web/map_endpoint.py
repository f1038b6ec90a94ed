"""Trajectory maps as the API answers them."""

from __future__ import annotations

import contextlib

from starlette.responses import Response

from trajmon_server.query.core import MapQuery
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.map_answers import FORMATS, LARGEST, Shown, map_answer, npz_answer, show, show_long
from trajmon_server.web.pieces import Run

__all__ = ["FORMATS", "LARGEST", "map_query", "trajectory_map"]

PICTURES = {"png": "image/png", "svg": "image/svg+xml"}


def map_query(call: Call) -> MapQuery:
    """Which map is asked for."""
    values = call.values
    return MapQuery(
        scope=values["scope"],
        relative_to=values["relative_to"],
        kernel=values["kernel"],
        start=values["start"],
        stop=values["stop"],
        include_superseded=values["superseded"],
    )


async def trajectory_map(backend: Backend, call: Call) -> Response:
    """One map."""
    readers = backend.readers
    run = readers.query.require(call.run, call.principal)
    query, form, name = map_query(call), call.values["format"], run.description.name
    with contextlib.ExitStack() as held:
        held.enter_context(readers.budget.reserve(readers.map_bytes(run)))
        if form != "npz" and readers.long_maps.is_long(run, query):
            shown = show_long(name, query, await readers.long_maps.map(run, query, call.values["size"]))
        else:
            answer = await readers.query.map(run.description.run_id, query, call.principal)
            if form == "npz":
                return npz_answer(name, query, answer, readers.run, held.pop_all())
            shown = await readers.run(lambda: show(name, query, answer, call.values["size"]))
        if form in PICTURES:
            return await _picture(shown, form, call.values["scale"] == "fitted", readers.run)
        return map_answer(shown, form, readers.run, held.pop_all())


async def _picture(shown: Shown, form: str, fitted: bool, run: Run) -> Response:
    def draw() -> bytes:
        from trajmon_server.web.pictures import draw_map

        return draw_map(shown.head, shown.map, form, fitted=fitted)

    return Response(await run(draw), headers=shown.headers, media_type=PICTURES[form])
