"""How far a run on this machine is from being handed in, as its files tell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trajmon.errors import DamagedRunError, SnapshotError
from trajmon.numerics.errors import LayoutError
from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.store import SnapshotStore

__all__ = ["Behind", "behind", "duration"]

_LATE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a run on this machine is from being handed in."""

    checkpoints: int
    """That no server has acknowledged."""
    uncomputed: int
    """Of those, the ones without a row."""
    oldest_seconds: float | None
    """Age of the oldest; None: nothing waits, or its snapshot cannot be read."""

    @property
    def is_late(self) -> bool:
        """Whether it has waited for longer than a busy agent should take."""
        return self.oldest_seconds is not None and self.oldest_seconds > _LATE_SECONDS

    def __str__(self) -> str:
        """In words.

        >>> print(Behind(3, 1, 400.0))
        3 checkpoints wait, the oldest for 6.7 min, 1 without a row
        """
        text = f"{self.checkpoints} checkpoints wait"
        if self.oldest_seconds is not None:
            text += f", the oldest for {duration(self.oldest_seconds)}"
        return f"{text}, {self.uncomputed} without a row" if self.uncomputed else text


def behind(path: Path) -> Behind:
    """How far the run in this folder is behind, from its files alone: it may have no agent to tell. Raises OSError."""
    run_dir = RunDir(path)
    try:
        shard = RunDescription.read(run_dir).shard
    except (DamagedRunError, LayoutError):
        # Its agent says so; here the files are counted as they are.
        shard = None
    # Earlier checkpoints of a shard are another cut's to hand in.
    start = max(run_dir.acked(), 0 if shard is None else shard.first_checkpoint)
    recorded = {number for number in _numbers(run_dir.snapshots, ".snap") if number >= start}
    computed = {number for number in _numbers(run_dir.spool, ".row") if number >= start}
    oldest = None
    store = SnapshotStore(run_dir.snapshots, "", 0, writer="doctor")
    for number in sorted(recorded):
        try:
            oldest = store.header(number).time_unix_seconds
            break
        except SnapshotError:
            # Damaged, or being replaced: the next one is as old as can be told.
            continue
    age_seconds = None if oldest is None else max(0.0, time.time() - oldest)
    return Behind(len(recorded | computed), len(recorded - computed), age_seconds)


def _numbers(folder: Path, suffix: str) -> list[int]:
    if not folder.is_dir():
        return []
    stems = (file.stem for file in folder.iterdir() if file.suffix == suffix)
    return [int(stem) for stem in stems if stem.isdecimal()]


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(42.0), duration(400.0), duration(9000.0)
    ('42 s', '6.7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
