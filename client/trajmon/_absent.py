"""Checkpoints that other ranks have and this one does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.slot import Slot
from trajmon.snapshots.store import SnapshotStore

__all__ = ["AbsentCheckpoints"]

log = logging.getLogger("trajmon")


class AbsentCheckpoints:
    """Leaves their headers in the store: attempt, step and previous must be those of the other ranks' parts."""

    def __init__(self, run: RunDescription, store: SnapshotStore) -> None:
        self._run = run
        self._store = store
        self._waiting: list[SnapshotHeader] = []

    def find(
        self, headers: Mapping[int, SnapshotHeader], next_checkpoint: int, run_dir: RunDir, slot: Slot | None
    ) -> None:
        """Checkpoints that other ranks stored before this one died: their rows must say the same of them here.

        `headers` as the ranks agree on them, of the checkpoints before `next_checkpoint`.
        """
        shard = self._run.shard
        if shard is None:
            return
        # The slot first: the agent moves checkpoints from there to the store.
        in_slot = None if slot is None else slot.full_number()
        first = max(shard.first_checkpoint, run_dir.acked())
        for number in range(first, next_checkpoint):
            if number in headers and number != in_slot and not self._store.path(number).exists():
                # Of all times that the ranks tell, the earliest counts.
                header = replace(headers[number], time_unix_seconds=time.time())
                self.add(replace(header, checkpoint=number, fingerprint=self._store.fingerprint))

    def add(self, header: SnapshotHeader) -> None:
        """One more, to be left with the next :meth:`leave`."""
        self._waiting.append(header)

    def leave(self) -> None:
        """Write snapshots without data; those for which there is no room are tried again the next time."""
        try:
            while self._waiting:
                header = self._waiting[0]
                self._store.write(header.checkpoint, header, memoryview(b""), durable=False)
                del self._waiting[0]
        except OSError as error:
            # Tried again before the next checkpoint, which needs more room than this.
            log.debug("run %r: no room to say what was skipped: %s", self._run.name, error)
