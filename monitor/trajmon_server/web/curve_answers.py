"""Hallmarks over the checkpoints: JSON, CSV or Arrow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from trajmon_protos.names import parse_scope
from trajmon_server.query.curves import Curves
from trajmon_server.web.arrow import arrow_stream
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.pieces import Pieces, in_threads, json_bytes, json_with_arrays

__all__ = ["ABOUT_CHECKPOINTS", "hallmarks"]

ABOUT_CHECKPOINTS = ("checkpoint", "step", "mode", "epoch", "learning_rate", "time_unix_seconds")
"""Columns that are no hallmarks."""
_METRIC, _ERROR = "metric:", "error:"
_ROWS = 512


async def hallmarks(backend: Backend, call: Call) -> Response:
    """Every hallmark of a scope, NaN or null where undefined."""
    readers = backend.readers
    run = readers.query.require(call.run, call.principal)
    scope = call.values["scope"]
    curves = await readers.curves.curves(run, scope, call.principal, call.values["max_points"])
    name, form, columns = run.description.name, call.values["format"], curves.columns
    headers = _said(curves)
    if form == "json":
        head = {"run": name, "scope": str(parse_scope(scope)), "reduced": _reduced(curves)}
        return Pieces(
            in_threads(_json(head, columns), readers.run), media_type="application/json", headers=headers
        )
    headers["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    if form == "csv":
        return Pieces(
            in_threads(_csv(columns), readers.run), media_type="text/csv; charset=utf-8", headers=headers
        )
    data = await readers.run(lambda: arrow_stream(columns))
    return Response(data, headers=headers, media_type="application/vnd.apache.arrow.stream")


def _said(curves: Curves) -> dict[str, str]:
    """Header of an answer that leaves checkpoints out, for those who do not look inside."""
    chosen = curves.chosen
    return {"Trajmon-Reduced": f"{chosen.total}->{len(chosen.positions)}"} if chosen.every > 1 else {}


def _reduced(curves: Curves) -> dict[str, Any] | None:
    chosen = curves.chosen
    if chosen.every == 1:
        return None
    return {
        "from": chosen.total,
        "to": len(chosen.positions),
        "every": chosen.every,
        "path": _ranges(curves.path),
    }


def _ranges(numbers: NDArray[np.int64]) -> list[list[int]]:
    """First and last, inclusive, of the ranges without gaps that make up ascending numbers.

    >>> _ranges(np.array([0, 1, 2, 5, 7, 8]))
    [[0, 2], [5, 5], [7, 8]]
    """
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(numbers) - 1)
    return np.stack([numbers[firsts], numbers[lasts]], axis=1).tolist() if len(numbers) else []


def _json(head: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    about = {name: columns[name] for name in ABOUT_CHECKPOINTS}
    yield from _without_end(json_with_arrays(head, about))
    groups = {
        "metrics": {name[len(_METRIC) :]: a for name, a in columns.items() if name.startswith(_METRIC)},
        "hallmarks": {
            name: a
            for name, a in columns.items()
            if name not in ABOUT_CHECKPOINTS and not name.startswith((_METRIC, _ERROR))
        },
        "errors": {name[len(_ERROR) :]: a for name, a in columns.items() if name.startswith(_ERROR)},
    }
    for name, arrays in groups.items():
        yield b"," + json_bytes(name) + b":"
        yield from json_with_arrays({}, arrays)
    yield b"}"


def _without_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """All but the closing brace, which is a piece of its own."""
    last = next(pieces)
    for piece in pieces:
        yield last
        last = piece


def _csv(columns: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    count = len(next(iter(columns.values())))
    for start in range(0, max(count, 1), _ROWS):
        rows = [_cells(array[start : start + _ROWS]) for array in columns.values()]
        table.writerows(zip(*rows, strict=True))
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _cells(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    # repr gives the shortest digits that read back as the same float64.
    return [repr(value) if np.isfinite(value) else "" for value in values.tolist()]
