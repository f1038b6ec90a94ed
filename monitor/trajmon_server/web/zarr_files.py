"""The run's Zarr store over HTTP: its files, whole or in ranges, and nothing that is not one of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import BinaryIO

from starlette.responses import Response

from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import Call
from trajmon_server.web.pieces import PIECE_BYTES, Pieces, in_threads
from trajmon_server.web.problems import problem

__all__ = ["byte_range", "zarr_file"]

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


async def zarr_file(backend: Backend, call: Call) -> Response:
    """One file of the store; with a Range header, a part of it."""
    readers = backend.readers
    run = readers.query.require(call.run, call.principal)
    path = call.request.path_params["path"]
    file, size = await readers.published.open(run, path)
    with contextlib.ExitStack() as held:
        held.enter_context(file)
        part = byte_range(call.request.headers.get("range"), size)
        if part is not None and not part:
            said = {"Content-Range": f"bytes */{size}"}
            return problem(416, "RANGE_NOT_SATISFIABLE", f"the file has {size} bytes", headers=said)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(size if part is None else len(part))}
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        return Pieces(
            in_threads(_pieces(file, range(size) if part is None else part), readers.run),
            media_type="application/json" if path.endswith(".json") else "application/octet-stream",
            headers=headers,
            held=held.pop_all(),
            status=200 if part is None else 206,
        )


def byte_range(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for; empty if there are none such, None if it asks for the whole file.

    Several ranges in one header, and units other than bytes, are answered with the whole file, as RFC 9110 allows.

    >>> byte_range("bytes=2-3", 10), byte_range("bytes=-4", 10), byte_range("bytes=12-", 10), byte_range(None, 10)
    (range(2, 4), range(6, 10), range(0, 0), None)
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size) if int(last) else range(0)
    if last and int(last) < int(first):
        return None
    start, stop = int(first), min(int(last) + 1, size) if last else size
    return range(start, stop) if start < size else range(0)


def _pieces(file: BinaryIO, part: range) -> Iterator[bytes]:
    file.seek(part.start)
    left = len(part)
    while left:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            raise OSError("a published file became shorter while it was read")
        left -= len(piece)
        yield piece
