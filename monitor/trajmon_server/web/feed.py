"""Server-sent events: one feed for each run that somebody listens to, shared by all who do.

An event is made once, however many listen, and at most one comes in a quarter of a second, fewer the more pages listen:
each of them asks for maps and curves at every event, and pages that are open must not slow down a fast run. Events may
therefore skip checkpoints; each tells the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from starlette.responses import Response

from trajmon_server.errors import Exhausted
from trajmon_server.rpc.messages import advice_message
from trajmon_server.runs.run import Run
from trajmon_server.web.pieces import json_bytes
from trajmon_server.web.shared import SharedAnswers
from trajmon_server.web.values import PHASES, advice_json, hallmarks_json

__all__ = ["HEARTBEAT_SECONDS", "MOST_LISTENERS", "Feeds", "interval_seconds"]

INTERVAL_SECONDS = 0.25
INTERVAL_FOR_EACH_LISTENER_SECONDS = 0.03
LONGEST_INTERVAL_SECONDS = 5.0
HEARTBEAT_SECONDS = 15.0
"""A line that says nothing, so that proxies and dead connections are found out."""
RETRY_MILLISECONDS = 2000
MOST_LISTENERS = 256
_REVISIONS = itertools.count(1)
"""One counter for all feeds: a feed that ends and begins again tells none that was told before."""


def interval_seconds(listeners: int) -> float:
    """Between two events, where so many pages hear them.

    >>> interval_seconds(0), interval_seconds(50), interval_seconds(256)
    (0.25, 1.75, 5.0)
    """
    return min(INTERVAL_SECONDS + listeners * INTERVAL_FOR_EACH_LISTENER_SECONDS, LONGEST_INTERVAL_SECONDS)


class Feeds:
    """All feeds. Used on the event loop."""

    def __init__(self) -> None:
        self._feeds: dict[str, _Feed] = {}
        self._listeners = 0
        self._closed = False
        self._answers = SharedAnswers()

    @contextlib.contextmanager
    def listener(self, run: Run) -> Iterator[AsyncIterator[bytes]]:
        """A place among those who listen, and the events for it; Exhausted if there is none left."""
        if self._listeners >= MOST_LISTENERS:
            raise Exhausted(
                "TOO_MANY_LISTENERS",
                f"{self._listeners} pages listen to runs, this server has room for {MOST_LISTENERS}; close some",
                retry_seconds=30.0,
            )
        run_id = run.description.run_id
        feed = self._feeds.setdefault(run_id, _Feed(run))
        self._listeners += 1
        feed.listeners += 1
        try:
            yield feed.events(lambda: self._closed)
        finally:
            self._listeners -= 1
            feed.listeners -= 1
            if not feed.listeners:
                feed.end()
                del self._feeds[run_id]
                self._answers.forget(run_id)

    async def shared(
        self, run: Run, key: str, version: int, make: Callable[[], Awaitable[Response]]
    ) -> Response:
        """What `make` answers to the question `key`, once for all who ask it about the run's event `version`."""
        run_id = run.description.run_id
        feed = self._feeds.get(run_id)
        if feed is None:
            return await make()
        return await self._answers.get(run_id, key, version, feed.version, make)

    def close(self) -> None:
        """End all feeds and take no more listeners: the server stops."""
        self._closed = True
        for feed in self._feeds.values():
            feed.end()


class _Feed:
    def __init__(self, run: Run) -> None:
        self._run = run
        self.listeners = 0
        self.version = 0
        """Of the last event; the first one has 1."""
        self._event = b""
        self._ended = False
        self._changed = asyncio.Event()
        self._newest: tuple[int, int] | None = None
        self._of_maps: tuple[int, ...] = ()
        """All that maps and curves follow from, as numbers."""
        self._revision = 0
        self._state: dict[str, Any] = {}
        """Without words: those about silence change with every look."""
        self._task: asyncio.Task[None] | None = None

    async def events(self, closed: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The newest event at once, then each one that comes; lines without meaning between them."""
        if self._task is None:
            self._look()
            self._task = asyncio.get_running_loop().create_task(self._follow())
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        seen = 0
        while not (self._ended or closed()):
            changed = self._changed
            if seen != self.version:
                seen = self.version
                yield self._event
                continue
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield b": still here\n\n"

    def end(self) -> None:
        """No more events; who waits for one is told."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            change = self._run.next_change()
            self._look()
            # Advice also changes when nothing comes for long.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), HEARTBEAT_SECONDS)
            await asyncio.sleep(interval_seconds(self.listeners))

    def _look(self) -> None:
        analysis = self._run.shown
        newest = (self._run.generation, analysis.path[-1]) if analysis.path else None
        of_maps = _of_maps(self._run)
        if of_maps != self._of_maps:
            self._of_maps, self._revision = of_maps, next(_REVISIONS)
        state = {"revision": self._revision, **_state(self._run)}
        told = {**state, "advice": {**state["advice"], "reason": "", "evidence": {}}}
        if newest is not None and newest != self._newest:
            self._say("checkpoint", newest[1], {**state, **_checkpoint(self._run)})
        elif told != self._state:
            # With the checkpoint all the same: a slow listener gets the newest event alone.
            known = _checkpoint(self._run) if newest is not None else {}
            self._say("state", newest[1] if newest else None, {**state, **known})
        self._newest, self._state = newest, told

    def _say(self, kind: str, number: int | None, data: dict[str, Any]) -> None:
        head = f"event: {kind}\n" + ("" if number is None else f"id: {number}\n")
        self.version += 1
        self._event = head.encode() + b"data: " + json_bytes({"version": self.version, **data}) + b"\n\n"
        self._changed.set()
        self._changed = asyncio.Event()


def _of_maps(run: Run) -> tuple[int, ...]:
    """Changes when maps and curves do: also when a row takes the place of what its sketch told."""
    path, early = run.shown.path, run.early
    num_early = len(early.rows) if early is not None else 0
    return run.generation, len(path), path[-1] if path else -1, num_early


def _state(run: Run) -> dict[str, Any]:
    report = run.agent
    return {
        "phase": PHASES[run.control.phase],
        "reason": run.control.reason,
        "attempt": run.control.attempt,
        "checkpoints": len(run.metas) + run.num_early,
        "superseded": run.num_checkpoints - len(run.path),
        "open": len(run.open),
        "failure": run.failure,
        "pending": report.checkpoints_pending,
        "skipped": report.checkpoints_skipped,
        "advice": advice_json(advice_message(run.current_advice())),
    }


def _checkpoint(run: Run) -> dict[str, Any]:
    analysis = run.shown
    number = analysis.path[-1]
    meta = run.meta(number)
    return {
        "checkpoint": number,
        "step": meta.step if meta is not None and meta.step >= 0 else None,
        "hallmarks": hallmarks_json(analysis.hallmarks).get("network", {}),
        "errors": hallmarks_json(analysis.errors).get("network", {}),
    }
