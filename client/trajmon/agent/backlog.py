"""How far the agent is behind: what is recorded, and has no row yet, or no acknowledgement."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from trajmon.agent.drain import Looked
from trajmon.agent.progress import Progress, Seen
from trajmon.agent.spool import Spool
from trajmon.errors import SnapshotError
from trajmon.snapshots.slot import SlotState
from trajmon.snapshots.store import SnapshotStore

__all__ = ["Backlog"]

# A lag that only grows is written down again each time it has grown by so much, and not at each look.
_LAG_STEP = 0.1
_LAG_STEP_SECONDS = 1.0
# So many checkpoints without a readable header are stepped over to find the oldest one's time.
_MOST_HEADERS = 64


class Backlog:
    """Turns looks into what the sender and the run's folder say of the agent. Any thread may call."""

    def __init__(self, store: SnapshotStore, spool: Spool, progress: Progress, first_checkpoint: int) -> None:
        """`first_checkpoint`: earlier ones have no row to make here."""
        self._store = store
        self._spool = spool
        self._progress = progress
        self.first = first_checkpoint
        self._lock = threading.Lock()
        self._oldest: tuple[int, float] = (-1, 0.0)

    @property
    def start(self) -> int:
        """First checkpoint that is not acknowledged and has a row to make here."""
        return max(self.first, self._progress.acked)

    def update(self, looked: Looked, *, over: bool | None = None) -> None:
        """Tell what a look has found; `over`: training is over, and no row can be computed. None: not known."""
        with self._lock:
            known = self._progress.seen
            if over is None:
                if looked.recorded < known.recorded:
                    return
                over = known.training_over and looked.recorded == known.recorded
            start = self.start
            uncomputed = self._spool.count_missing(start, looked.recorded)
            oldest = self._time_of_oldest(start, looked.recorded)
            free = looked.slot == SlotState.FREE
            self._progress.see(
                Seen(looked.recorded, looked.snapshot_bytes, looked.kept, over and free, uncomputed, oldest)
            )
            lag_seconds = max(0.0, time.time() - oldest) if oldest else 0.0
            self._progress.note(
                lambda note: replace(
                    note, uncomputed=uncomputed, lag_seconds=_coarse(note.lag_seconds, lag_seconds)
                )
            )

    def _time_of_oldest(self, start: int, recorded: int) -> float:
        """When the first checkpoint that is not acknowledged was recorded; 0 if there is none that can be read."""
        if start >= recorded:
            return 0.0
        if self._oldest[0] != start:
            for number in range(start, min(recorded, start + _MOST_HEADERS)):
                try:
                    self._oldest = (start, self._store.header(number).time_unix_seconds)
                    break
                except SnapshotError:
                    # In the slot still, lost, or never recorded here: the next one is as old as can be told.
                    continue
            else:
                return 0.0
        return self._oldest[1]


def _coarse(told: float, now: float) -> float:
    """What to say of a lag after `told` was said.

    >>> _coarse(0.0, 0.5), _coarse(60.0, 63.0), _coarse(60.0, 67.0), _coarse(60.0, 0.0)
    (0.0, 60.0, 67.0, 0.0)
    """
    if now > 0.0 and abs(now - told) < max(_LAG_STEP_SECONDS, _LAG_STEP * told):
        return told
    return now
