"""Answers that are sent piece by piece: each piece is made in a thread, and only once the one before has been taken.

So neither a large map nor a caller who reads slowly holds up the event loop, on which rows are acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["Pieces", "Run", "finite", "in_threads", "json_answer", "json_bytes", "json_with_arrays"]

PIECE_BYTES = 256 * 1024
ANSWER_SECONDS = 300.0
"""A caller who has not taken an answer by then never will: its memory is needed."""

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Pieces(StreamingResponse):
    """Sends what an iterator gives. What `held` holds is given back when all is over, however it ends."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        held: contextlib.ExitStack | None = None,
        status: int = 200,
        seconds: float | None = ANSWER_SECONDS,
    ) -> None:
        """After `seconds` the answer ends, done or not; None: never."""
        super().__init__(pieces, status, headers, media_type)
        self._held = held or contextlib.ExitStack()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; a HEAD request gets the headers alone."""
        with self._held:
            if scope["method"] == "HEAD":
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                await send({"type": "http.response.body", "body": b""})
                return
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)

    async def collected(self, has_room: Callable[[int], bool]) -> bytes | None:
        """All pieces as one, instead of sending them; None once there is no room for so many more bytes."""
        pieces = []
        with self._held:
            async with asyncio.timeout(self._seconds):
                async for piece in self.body_iterator:
                    if not has_room(len(piece)):
                        return None
                    pieces.append(_bytes(piece))
        return b"".join(pieces)


def _bytes(piece: str | bytes | memoryview) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


async def in_threads(pieces: Iterator[bytes], run: Run) -> AsyncIterator[bytes]:
    """The pieces of an iterator, each made in a thread."""
    while (piece := await run(lambda: next(pieces, None))) is not None:
        yield piece


def finite(value: float | None) -> float | None:
    """A number for JSON: None where it is undefined."""
    return value if value is not None and math.isfinite(value) else None


def json_bytes(content: Any) -> bytes:
    """JSON text; ValueError for a number that JSON cannot write."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def json_answer(content: Any) -> Response:
    """A small answer in one piece."""
    return Response(json_bytes(content), media_type="application/json")


def json_with_arrays(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """A JSON object with the entries of `head`, then the arrays as lists (of lists), null where not finite.

    Numbers have the shortest digits that read back as the same float64.
    """
    yield json_bytes(head)[:-1]
    is_first = not head
    for name, array in arrays.items():
        yield (b"" if is_first else b",") + json_bytes(name) + b":"
        is_first = False
        yield from _rows(array) if array.ndim == 2 else iter((_row(array),))
    yield b"}"


def _rows(array: NDArray[Any]) -> Iterator[bytes]:
    piece = bytearray(b"[")
    for index, row in enumerate(array):
        piece += (b"," if index else b"") + _row(row)
        if len(piece) > PIECE_BYTES // 4:
            # A thread that encodes holds the interpreter: not longer than for so much.
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b"]"


def _row(row: NDArray[Any]) -> bytes:
    if row.dtype.kind == "f":
        row = np.where(np.isfinite(row), row, np.nan)
    # Only numbers here, so that the word cannot stand for anything else.
    return json.dumps(row.tolist(), separators=(",", ":")).replace("NaN", "null").encode()
