"""Lists, runs and events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

from starlette.responses import Response

from trajmon_server.errors import InvalidRequest, Violation
from trajmon_server.query.overview import matching
from trajmon_server.runs.run import Run
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.pieces import Pieces, json_answer, json_bytes
from trajmon_server.web.values import PHASES, run_json, summary_json

__all__ = ["events", "run_details", "run_list"]

AT_ONCE = 25
"""Runs that are told of before others get their turn on the event loop."""


async def run_list(backend: Backend, call: Call) -> Response:
    """A page of runs, newest first."""
    wanted = call.values
    phase = None if wanted["phase"] == "any" else PHASES.index(wanted["phase"])
    runs = backend.readers.query.runs(call.principal)
    found = matching(runs, wanted["search"] or "", wanted["tag"], phase)
    after = _decode_cursor(wanted["cursor"])
    if after is not None:
        found = [run for run in found if _key(run) > after]
    page, more = found[: wanted["limit"]], len(found) > wanted["limit"]
    cursor = _encode_cursor(page[-1]) if more else None
    return Pieces(_listed(page, cursor), media_type="application/json")


async def _listed(page: list[Run], cursor: str | None) -> AsyncIterator[bytes]:
    yield b'{"runs":['
    for start in range(0, len(page), AT_ONCE):
        told = [json_bytes(summary_json(run)) for run in page[start : start + AT_ONCE]]
        yield (b"," if start else b"") + b",".join(told)
        await asyncio.sleep(0)
    yield b'],"next_cursor":' + json_bytes(cursor) + b"}"


def _key(run: Run) -> tuple[float, str]:
    return -run.description.created_unix_seconds, run.description.run_id


def _encode_cursor(run: Run) -> str:
    created, run_id = _key(run)
    return base64.urlsafe_b64encode(f"v1:{created!r}:{run_id}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> tuple[float, str] | None:
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        version, created, run_id = base64.urlsafe_b64decode(padded).decode("ascii").split(":")
        if version != "v1":
            raise ValueError(version)
        return float(created), run_id
    except ValueError as error:
        raise InvalidRequest.from_violations(
            [Violation("cursor", f"{cursor[:40]!r} is not a cursor that this server gave")]
        ) from error


async def run_details(backend: Backend, call: Call) -> Response:
    """Everything about one run but its maps and curves."""
    return json_answer(run_json(backend.readers.query.require(call.run, call.principal)))


async def events(backend: Backend, call: Call) -> Response:
    """The run as it goes on, as server-sent events."""
    run = backend.readers.query.require(call.run, call.principal)
    with contextlib.ExitStack() as held:
        told = held.enter_context(backend.feeds.listener(run))
        return Pieces(
            told,
            media_type="text/event-stream",
            # A proxy that collects an answer before it passes it on would keep the events.
            headers={"X-Accel-Buffering": "no"},
            held=held.pop_all(),
            seconds=None,
        )
