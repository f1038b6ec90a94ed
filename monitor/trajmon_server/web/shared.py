"""Answers that many pages ask for because of one event: made once, and given to all of them.

An event of a run's stream has a version. Whoever asks with ``version=N`` is content with an answer that was begun when
event N had been told, or later; whoever asks without it gets one of this moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import Response

from trajmon_server.web.pieces import Pieces

__all__ = ["MOST_BYTES", "SharedAnswers"]

MOST_BYTES = 64 << 20
"""Of all answers that are kept."""


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


@dataclass(slots=True)
class _Kept:
    version: int
    task: asyncio.Task[_Whole]
    size: int = 0


class SharedAnswers:
    """All answers that are shared, the oldest given up first. Used on the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    async def get(
        self, run_id: str, key: str, version: int, newest: int, make: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer `key` about a run, no older than event `version`; `newest` is the last one that was told.

        `make` is called unless such an answer is there or on its way. What it raises reaches all who wait for it, and
        is not kept.
        """
        kept = self._kept.get((run_id, key))
        if kept is None or kept.version < version:
            kept = _Kept(newest, asyncio.get_running_loop().create_task(_whole(make)))
            self._kept[run_id, key] = kept
            kept.task.add_done_callback(lambda task: self._settle((run_id, key), kept, task))
        self._kept.move_to_end((run_id, key), last=True)
        # Who leaves does not take the answer from the others.
        return (await asyncio.shield(kept.task)).response()

    def forget(self, run_id: str) -> None:
        """Give up what is kept of a run."""
        for key in [key for key in self._kept if key[0] == run_id]:
            del self._kept[key]

    def _settle(self, key: tuple[str, str], kept: _Kept, task: asyncio.Task[_Whole]) -> None:
        if task.cancelled() or task.exception() is not None:
            if self._kept.get(key) is kept:
                del self._kept[key]
            return
        kept.size = len(task.result().body)
        while sum(one.size for one in self._kept.values()) > MOST_BYTES:
            self._kept.popitem(last=False)


async def _whole(make: Callable[[], Awaitable[Response]]) -> _Whole:
    answer = await make()
    body = await answer.collected() if isinstance(answer, Pieces) else bytes(answer.body)
    return _Whole(answer.status_code, tuple(answer.raw_headers), body)
