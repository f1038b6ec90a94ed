"""Small objects that only whoever has seen what it replaces can replace."""

from __future__ import annotations

import threading
from collections import defaultdict

from trajmon_server.store.errors import FencedError, JournalUnavailableError
from trajmon_server.store.objects import Objects

__all__ = ["FencedFiles"]

_MAX_DOUBTS = 16


class FencedFiles:
    """Objects of which this one remembers what it saw last. Methods block and may be called from several threads.

    A put replaces what was last read or put here, and nothing else. So of several servers that share the store, one
    that was away while another took over can no longer replace what that one has put. The same content again is no
    change: to fence others off, put something that they cannot have put, such as an epoch.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._tags: dict[str, str] = {}
        self._doubts: dict[str, list[bytes]] = {}
        """What was put here without an answer, by key: it may be stored by now."""

    def get(self, key: str) -> bytes | None:
        """What is stored, None if nothing; the next put may replace it."""
        with self._turn(key):
            try:
                found = self._objects.get(key)
            except KeyError:
                self._tags.pop(key, None)
                return None
            self._tags[key] = found.tag
            return found.data

    def put(self, key: str, content: bytes) -> None:
        """Replace what was last seen; create it if nothing was. FencedError if something else is there."""
        with self._turn(key):
            try:
                done = self._put(key, content)
            except JournalUnavailableError:
                self._doubts[key] = [*self._doubts.get(key, []), content][-_MAX_DOUBTS:]
                raise
            if done is None:
                raise FencedError(
                    f"another server has changed {key} in {self._objects.name} since it was read here"
                )
            self._tags[key] = done
            self._doubts.pop(key, None)

    def _put(self, key: str, content: bytes) -> str | None:
        tag = self._tags.get(key)
        put = self._objects
        done = put.create(key, content) if tag is None else put.replace(key, content, tag)
        if done is not None:
            return done
        try:
            found = self._objects.get(key)
        except KeyError:
            return None
        if found.data == content:
            return found.tag  # put by this call, and the answer lost; or put alike by another
        if found.data in self._doubts.get(key, ()):
            return self._objects.replace(key, content, found.tag)
        return None

    def _turn(self, key: str) -> threading.Lock:
        """Held while the object is read or put: two threads of one server are no strangers to each other."""
        with self._lock:
            return self._locks[key]
