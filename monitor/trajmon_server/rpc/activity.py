"""How long nobody has called: a server that was started for one user's session may then end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Activity"]


class Activity:
    """Counts the calls in hand. Used on the event loop."""

    def __init__(self) -> None:
        self._in_hand = 0
        self._last = time.monotonic()

    @contextmanager
    def call(self) -> Iterator[None]:
        """For the length of one call."""
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1
            self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Since the last call ended; 0 while one is in hand."""
        return 0.0 if self._in_hand else time.monotonic() - self._last
