"""A folder that a trainer fills: which checkpoints in it are new, and which are complete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trajmon.checkpoints.finding import Candidate, candidates
from trajmon.checkpoints.naming import natural_key
from trajmon.errors import CheckpointFileError

__all__ = ["FolderWatcher", "Look", "Signature"]

Signature = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and mtime in nanoseconds of each file of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Look:
    """The folder as it is now."""

    ready: tuple[tuple[Candidate, Signature], ...] = ()
    """New, and still for long enough; those whose names give a step by step, then the others by name."""
    changing: tuple[Candidate, ...] = ()
    """New, and not still for long enough."""
    lost: tuple[Candidate, ...] = ()
    """Seen as new before, and gone since without being dealt with."""


class FolderWatcher:
    """Tells new checkpoints from those that are dealt with; opens none of them."""

    def __init__(self, folder: Path, settle_seconds: float) -> None:
        self._folder = folder
        self._settle_seconds = settle_seconds
        self._since: dict[Path, tuple[Signature, float]] = {}
        self._waiting: dict[Path, Candidate] = {}

    def look(self, done: Mapping[str, Signature], now: float | None = None) -> Look:
        """Look once. `done`: by path relative to the folder, what is dealt with; `now`: a monotonic clock.

        A checkpoint comes after those of smaller steps that are still changing, so that a large file does not
        lose its place to a small one that is complete earlier. Raises OSError.
        """
        now = time.monotonic() if now is None else now
        ready, changing = [], []
        waiting: dict[Path, Candidate] = {}
        seen: dict[Path, tuple[Signature, float]] = {}
        for candidate in self._candidates():
            signature = signature_of(candidate.path)
            if signature is None or done.get(self.key(candidate)) == signature:
                continue
            known = self._since.get(candidate.path)
            since = known[1] if known is not None and known[0] == signature else now
            seen[candidate.path] = (signature, since)
            waiting[candidate.path] = candidate
            if now - since >= self._settle_seconds:
                ready.append((candidate, signature))
            else:
                changing.append(candidate)
        lost = [
            candidate
            for path, candidate in self._waiting.items()
            if path not in waiting and self.key(candidate) not in done
        ]
        self._since, self._waiting = seen, waiting
        first_changing = min((c.name_step for c in changing if c.name_step is not None), default=None)
        ready = [
            (candidate, signature)
            for candidate, signature in ready
            if first_changing is None or candidate.name_step is None or candidate.name_step < first_changing
        ]
        ready.sort(key=lambda pair: _order(pair[0]))
        return Look(tuple(ready), tuple(sorted(changing, key=_order)), tuple(sorted(lost, key=_order)))

    def key(self, candidate: Candidate) -> str:
        """What a checkpoint is called in `done`."""
        return candidate.path.relative_to(self._folder).as_posix()

    def _candidates(self) -> list[Candidate]:
        try:
            return candidates(self._folder)
        except CheckpointFileError:
            # Nothing there yet, or not even the folder.
            return []


def signature_of(path: Path) -> Signature | None:
    """The files of a checkpoint as they are now; None if one goes away meanwhile, or none is there."""
    try:
        if not path.is_dir():
            return (_facts("", path),)
        found = []
        for entry in path.iterdir():
            if entry.is_dir():
                # A folder of shards inside; checkpoints of their own in it change nothing but wait a little.
                found += [
                    _facts(f"{entry.name}/{file.name}", file) for file in entry.iterdir() if file.is_file()
                ]
            else:
                found.append(_facts(entry.name, entry))
        return tuple(sorted(found)) or None
    except FileNotFoundError:
        return None


def _facts(name: str, path: Path) -> tuple[str, int, int, int]:
    facts = path.stat()
    return (name, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _order(candidate: Candidate) -> tuple[bool, int, tuple[tuple[int, int, str], ...]]:
    step = candidate.name_step
    return (step is None, step or 0, natural_key(candidate.label))
