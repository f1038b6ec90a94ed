"""Headers of rows in an object store, kept on the local disk: what was read before is not asked for again.

A cache: whatever is missing or damaged is read from the store. One file a run, replaced as a whole, its digest first.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from trajmon_server.store.records import check_run_id

__all__ = ["HeaderCache"]

log = structlog.get_logger(__name__)

_DIGEST_BYTES: Final = 32


class HeaderCache:
    """By checkpoint and tag of the row's object. Methods block; one at a time for a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, run_id: str) -> dict[tuple[int, str], bytes]:
        """What is there; nothing if it cannot be read."""
        try:
            content = self._path(run_id).read_bytes()
        except OSError:
            return {}
        if _digest(content[_DIGEST_BYTES:]) != content[:_DIGEST_BYTES]:
            return {}
        stored = json.loads(content[_DIGEST_BYTES:])
        return {(number, tag): base64.b85decode(header) for number, tag, header in stored}

    def save(self, run_id: str, headers: Mapping[tuple[int, str], bytes]) -> None:
        """Keep these and no others. A disk that refuses is no error: they are read again the next time."""
        stored = [
            (number, tag, base64.b85encode(header).decode()) for (number, tag), header in headers.items()
        ]
        content = json.dumps(stored).encode()
        path = self._path(run_id)
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(_digest(content) + content)
            fresh.replace(path)
        except OSError as error:
            log.warning("headers of rows cannot be kept", folder=str(self._folder), problem=str(error))

    def _path(self, run_id: str) -> Path:
        check_run_id(run_id)
        return self._folder / f"{run_id}.headers"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
