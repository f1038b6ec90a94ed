"""Work that many ask for and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Once"]


class Once:
    """One piece of work at a time for each key. Used on the event loop.

    It goes on to its end, also when all who wait for it have left: whoever asks again finds it further on.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def do(self, key: str, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the work that goes on for this key; begin it if there is none. Raises what it raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(begin())
            task.add_done_callback(lambda done: self._end(key, done))
        await asyncio.shield(task)

    def _end(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # heard, even if nobody waits any more

    def __contains__(self, key: str) -> bool:
        """Whether work goes on for this key."""
        return key in self._tasks

    async def stop(self) -> None:
        """Give up what goes on; return once it has ended."""
        while tasks := list(self._tasks.values()):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
