"""Answers that many pages ask for because of one event: made once, and given to all of them.

An event of a run's stream has a version. Whoever asks with ``version=N`` is content with an answer that was begun when
event N had been told, or later; whoever asks without it gets one of this moment.

An answer is kept under the run's id, for callers that may read the run, and for some seconds: longer than pages take to
ask after an event. Not all that belongs to an answer makes an event, so none may last. Memory is bounded, also against
one caller who asks for something else each time: what has no room is not shared, and is made for its caller alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import Response

from trajmon_server.web.pieces import Pieces

__all__ = ["KEPT_SECONDS", "MOST_BYTES", "MOST_KEPT", "MOST_UNDER_WAY", "SharedAnswers"]

MOST_BYTES = 64 << 20
"""Of all answers that are kept, and of those that are being made as far as they are."""
MOST_KEPT = 1024
MOST_UNDER_WAY = 128
"""They are made to their end, also if nobody waits for them any more."""
KEPT_SECONDS = 10.0
"""From when it is whole. Events come at least every 5 s on a run that goes on."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """An answer in one piece."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def response(self) -> Response:
        """A response of its own for each who asks: what is sent is written to on its way."""
        made = Response(self.body, self.status)
        named = {name for name, _ in self.headers}
        made.raw_headers = [*self.headers, *(pair for pair in made.raw_headers if pair[0] not in named)]
        return made


class _Kept:
    """One answer, from when it is begun."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.task: asyncio.Task[_Whole | None]
        """None: there was no room for it."""
        self.size = 0
        """Bytes that it holds."""


class SharedAnswers:
    """All answers that are shared, the oldest given up first. Used on the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._under_way: set[_Kept] = set()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """Of answers that are kept or being made."""
        return self._bytes

    async def get(
        self, run_id: str, key: str, version: int, newest: int, make: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer `key` about a run, no older than event `version`; `newest` is the last one that was told.

        `make` is called unless such an answer is there or on its way. What it raises reaches all who wait for it, and
        is not kept.
        """
        if version > newest:
            # Of an earlier life of the server, or made up: nothing is known to be as new.
            return await make()
        kept = self._kept.get((run_id, key))
        if kept is None or kept.version < version:
            if len(self._under_way) >= MOST_UNDER_WAY:
                return await make()
            kept = self._begin((run_id, key), newest, make)
        self._kept.move_to_end((run_id, key), last=True)
        # Who leaves does not take the answer from the others.
        whole = await asyncio.shield(kept.task)
        return await make() if whole is None else whole.response()

    def forget(self, run_id: str) -> None:
        """Give up what is kept of a run."""
        for key in [key for key in self._kept if key[0] == run_id]:
            self._drop(key, self._kept[key])

    def _begin(self, key: tuple[str, str], version: int, make: Callable[[], Awaitable[Response]]) -> _Kept:
        if key in self._kept:
            self._drop(key, self._kept[key])
        kept = _Kept(version)
        kept.task = asyncio.get_running_loop().create_task(self._whole(kept, make))
        self._kept[key] = kept
        self._under_way.add(kept)
        kept.task.add_done_callback(lambda task: self._settle(key, kept, task))
        self._make_room()
        return kept

    async def _whole(self, kept: _Kept, make: Callable[[], Awaitable[Response]]) -> _Whole | None:
        def has_room(added: int) -> bool:
            kept.size += added
            self._bytes += added
            self._make_room()
            return self._bytes <= MOST_BYTES

        answer = await make()
        body: bytes | None
        if isinstance(answer, Pieces):
            body = await answer.collected(has_room)
        else:
            body = bytes(answer.body)
            if not has_room(len(body)):
                body = None
        if body is None:
            self._give_back(kept)
            return None
        return _Whole(answer.status_code, tuple(answer.raw_headers), body)

    def _settle(self, key: tuple[str, str], kept: _Kept, task: asyncio.Task[_Whole | None]) -> None:
        self._under_way.discard(kept)
        if task.cancelled() or task.exception() is not None:
            self._drop(key, kept)
        if self._kept.get(key) is not kept:
            self._give_back(kept)
        else:
            task.get_loop().call_later(KEPT_SECONDS, self._drop, key, kept)

    def _make_room(self) -> None:
        """Give up the oldest answers that are whole, as far as need be."""
        if self._fits:
            return
        for key, kept in list(self._kept.items()):
            if kept not in self._under_way:
                self._drop(key, kept)
                if self._fits:
                    return

    @property
    def _fits(self) -> bool:
        return self._bytes <= MOST_BYTES and len(self._kept) <= MOST_KEPT

    def _drop(self, key: tuple[str, str], kept: _Kept) -> None:
        if self._kept.get(key) is kept:
            del self._kept[key]
        if kept not in self._under_way:
            self._give_back(kept)

    def _give_back(self, kept: _Kept) -> None:
        self._bytes -= kept.size
        kept.size = 0
