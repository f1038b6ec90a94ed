"""The same action on many items, some of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

__all__ = ["each"]

A = TypeVar("A")

_AT_ONCE: Final = 8


async def each(action: Callable[[A], Awaitable[None]], items: Iterable[A]) -> None:
    """Do it for all, a few at a time, whichever of them fail; then the first failure, if there was one."""
    waiting = iter(items)
    failures: list[Exception] = []

    async def work() -> None:
        for item in waiting:
            try:
                await action(item)
            except Exception as error:
                failures.append(error)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    if failures:
        raise failures[0]
