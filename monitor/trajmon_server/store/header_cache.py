"""Headers of rows in an object store, kept on the local disk: what was seen before is not asked for again.

A cache: whatever is missing or damaged is read from the store. One file a run, a line an entry, each behind its own
digest; of two for one key the later counts. Lines are added as rows come, so that a server which is killed knows at
its next start what it knew.
"""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from trajmon_server.store.records import check_run_id

__all__ = ["HeaderCache"]

log = structlog.get_logger(__name__)

_DIGEST_BYTES: Final = 16
_REMEMBERED: Final = 64


class HeaderCache:
    """By checkpoint and tag of the row's object. Methods block; of two threads at one run, one may add in vain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._added: dict[str, deque[tuple[int, str]]] = {}
        """By run, the entries that were added last: where something fails, the same rows are looked at again."""
        self._has_warned = False

    def load(self, run_id: str) -> tuple[dict[tuple[int, str], bytes], int]:
        """What is there; nothing if it cannot be read. And how many lines there are: damaged and repeated ones too."""
        try:
            content = self._path(run_id).read_bytes()
        except OSError:
            return {}, 0
        lines = [line for line in content.split(b"\n") if line]
        entries = (_parsed(line) for line in lines)
        return dict(entry for entry in entries if entry is not None), len(lines)

    def add(self, run_id: str, checkpoint: int, tag: str, header: bytes) -> None:
        """One more, at the end of the file. A disk that refuses is no error, here and in :meth:`save`."""
        added = self._added.setdefault(run_id, deque(maxlen=_REMEMBERED))
        if (checkpoint, tag) in added:
            return
        path = self._path(run_id)
        # The end of a line that was cut off by a kill is not to become the start of this one.
        line = b"\n" + _line(checkpoint, tag, header) + b"\n"
        try:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                self._folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._warn(error)
        else:
            added.append((checkpoint, tag))

    def save(self, run_id: str, headers: Mapping[tuple[int, str], bytes]) -> None:
        """Keep these and no others."""
        path = self._path(run_id)
        fresh = path.with_suffix(f".{uuid.uuid4().hex}.new")
        lines = (_line(checkpoint, tag, header) for (checkpoint, tag), header in headers.items())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                fresh.write_bytes(b"\n".join([*lines, b""]))
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)
        # What was added and is not among these may be added again.
        self._added.pop(run_id, None)

    def _warn(self, error: OSError) -> None:
        """Once: they are read from the store at the next start, and that is all."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("headers of rows cannot be kept", folder=str(self._folder), problem=str(error))

    def _path(self, run_id: str) -> Path:
        check_run_id(run_id)
        return self._folder / f"{run_id}.headers"


def _line(checkpoint: int, tag: str, header: bytes) -> bytes:
    """`DIGEST CHECKPOINT TAG HEADER`: in hex, as a number, and twice in base85, which has no space."""
    entry = b"%d %s %s" % (checkpoint, base64.b85encode(tag.encode()), base64.b85encode(header))
    return _digest(entry) + b" " + entry


def _parsed(line: bytes) -> tuple[tuple[int, str], bytes] | None:
    """An entry, None if it is damaged."""
    digest, _, entry = line.partition(b" ")
    if digest != _digest(entry):
        return None
    checkpoint, tag, header = entry.split(b" ")
    return (int(checkpoint), base64.b85decode(tag).decode()), base64.b85decode(header)


def _digest(entry: bytes) -> bytes:
    return hashlib.blake2b(entry, digest_size=_DIGEST_BYTES).hexdigest().encode()
