"""What the snapshots of a run take on disk, and may take."""

from __future__ import annotations

from trajmon.errors import SnapshotError
from trajmon.snapshots.keeping import FEWEST_ANCHORED, is_nearly_used, most_anchored
from trajmon.snapshots.slot import Slot
from trajmon.snapshots.store import SnapshotStore

__all__ = ["SnapshotBudget"]


class SnapshotBudget:
    """Counts the snapshots that are written; those that the agent gives up only when there is no room."""

    def __init__(self, store: SnapshotStore, used_bytes: int, total_bytes: int) -> None:
        """`used_bytes`: what the snapshots take that are there already, those with their data."""
        self.used_bytes = used_bytes
        self.total_bytes = total_bytes
        self._store = store

    def add(self, file_bytes: int) -> None:
        """Count a snapshot that was written."""
        self.used_bytes += file_bytes

    def has_room(self, file_bytes: int) -> bool:
        """Whether one more fits, by what was counted."""
        return self.used_bytes + file_bytes <= self.total_bytes

    def look_for_room(self, file_bytes: int, slot: Slot | None) -> bool:
        """Whether one more fits; if not by what was counted, by what is there now.

        The slot is not kept: its memory has to go with the session's own hold of it.
        """
        if not self.has_room(file_bytes):
            self.used_bytes = self._store.kept_bytes() + self._bytes_in_slot(file_bytes, slot)
        return self.has_room(file_bytes)

    def keep_from_here(self) -> int | None:
        """How many snapshots can be kept in mode ``anchored``, once it is time to begin with it; else None."""
        nbytes = self._store.data_bytes
        keep = most_anchored(self.total_bytes, nbytes)
        if keep >= FEWEST_ANCHORED and is_nearly_used(self.used_bytes, self.total_bytes, nbytes):
            return keep
        return None

    def _bytes_in_slot(self, file_bytes: int, slot: Slot | None) -> int:
        """What the checkpoint in the slot will take in the store, where it is not yet."""
        try:
            number = None if slot is None else slot.full_number()
        except SnapshotError:
            # It cannot be told what it is: the agent gives it up.
            number = None
        return 0 if number is None or self._store.path(number).exists() else file_bytes
