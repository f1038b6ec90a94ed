"""The slot's other side: checkpoints go from the slot into the snapshot store, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trajmon._files import ProcessLock, lock_holder
from trajmon.errors import SnapshotError
from trajmon.rundir import RunDir
from trajmon.snapshots.slot import Slot, SlotState
from trajmon.snapshots.store import SnapshotStore

__all__ = ["Drain", "DrainThread", "Looked"]

log = logging.getLogger("trajmon.agent")

_TROUBLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What is in the slot and the store."""

    recorded: int
    """Number of the last checkpoint in either, plus 1."""
    snapshot_bytes: int
    """In the store."""
    kept: int
    """Snapshots in the store that have their data."""
    slot: SlotState
    """Free if there is no slot."""


class Drain:
    """Moves checkpoints from the slot to the store. Any thread may call any method; one works at a time.

    A checkpoint moves from the slot to the store and never back: who asks the slot first and the store second
    cannot miss it.
    """

    def __init__(self, run_dir: RunDir, store: SnapshotStore, data_bytes: int, owner: ProcessLock) -> None:
        """`data_bytes`: of a snapshot; `owner`: of the training's lock, not held."""
        self._run_dir = run_dir
        self._store = store
        self._data_bytes = data_bytes
        self._owner = owner
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._closed = False
        self._folder_seen: tuple[int, int, int, int] = (-1, 0, 0, 0)

    def step(self) -> bool:
        """Bring what is in the slot into the store; True if there was something. Raises OSError."""
        with self._lock:
            return not self._closed and self._step()

    def look(self) -> Looked:
        """Ask the slot, then the store. Raises OSError."""
        with self._lock:
            return self._look()

    def is_coming(self, checkpoint: int) -> bool:
        """Whether a checkpoint may still come: it is in the slot, or in the store since somebody asked there."""
        with self._lock:
            slot = self._find_slot()
            try:
                # Being written: nobody can say yet which one it is.
                writing = slot is not None and slot.state == SlotState.WRITING
                in_slot = writing or (slot is not None and slot.full_number() == checkpoint)
            except SnapshotError:
                in_slot = False
            return in_slot or self._store.path(checkpoint).exists()

    def let_go(self, recorded: int) -> bool:
        """Keep a new training out, make sure that there are no more than `recorded`, and remove the slot.

        False if a new training is there, or another checkpoint. After True nothing is drained any more.
        """
        with self._lock:
            if not self._owner.acquire():
                return False
            slot = self._find_slot()
            if slot is not None and slot.state == SlotState.FULL:
                try:
                    self._step()
                except OSError as error:
                    # Its content stays where it is, for the next agent.
                    log.warning("a checkpoint stays in the slot: %s", error)
                    self._closed = True
                    return True
                self._owner.release()
                return False
            if self._look().recorded > recorded:
                self._owner.release()
                return False
            if slot is not None:
                slot.unlink(self._run_dir.slot_file)
                slot.close()
                self._slot = None
            self._closed = True
            return True

    def _step(self) -> bool:
        slot = self._find_slot()
        if slot is None or slot.state == SlotState.FREE:
            return False
        if slot.state == SlotState.WRITING:
            return self._discard_half_copy(slot)
        try:
            header = slot.header()
        except SnapshotError as error:
            log.error("the slot was given up: %s", error)
            slot.set_state(SlotState.FREE)
            return True
        # With a file already there, an agent was killed between writing it and freeing the slot.
        if not self._store.path(header.checkpoint).exists():
            # Not synced here: the slot must be free for the next checkpoint soon, and a machine that crashes takes
            # the slot with it anyway. The row waits for the sync.
            self._store.write(header.checkpoint, header, slot.data, durable=False)
        slot.set_state(SlotState.FREE)
        return True

    def _find_slot(self) -> Slot | None:
        """The slot as it is now: a training that resumes may have made another."""
        if self._slot is not None and not self._slot.is_current():
            self._slot.close()
            self._slot = None
        if self._slot is None:
            self._slot = Slot.find(self._run_dir.slot_file, self._data_bytes)
        return self._slot

    def _discard_half_copy(self, slot: Slot) -> bool:
        """Free a slot whose training was killed while it copied."""
        # As the owner: a training that is just starting must not be halfway into its first copy.
        if lock_holder(self._run_dir.owner_lock) is not None or not self._owner.acquire():
            return False
        try:
            if slot.state == SlotState.WRITING:
                log.warning("half a checkpoint of a training that is gone was given up")
                slot.set_state(SlotState.FREE)
        finally:
            self._owner.release()
        return True

    def _look(self) -> Looked:
        slot = self._find_slot()
        state = SlotState.FREE if slot is None else slot.state
        in_slot = 0
        if slot is not None and state == SlotState.FULL:
            try:
                in_slot = slot.header().checkpoint + 1
            except SnapshotError:
                # The next step gives it up, and says so.
                in_slot = 0
        recorded, snapshot_bytes, kept = self._look_at_store()
        return Looked(max(recorded, in_slot), snapshot_bytes, kept, state)

    def _look_at_store(self) -> tuple[int, int, int]:
        """Checkpoints in the store, their bytes, and how many are kept; lists the folder only when it has changed."""
        changed_ns = self._run_dir.snapshots.stat().st_mtime_ns
        # A folder that changed within the clock's resolution may change again without showing it.
        is_fresh = time.time_ns() - changed_ns < 1_000_000_000
        if is_fresh or changed_ns != self._folder_seen[0]:
            recorded = max(self._store.numbers(), default=-1) + 1
            used_bytes, kept = self._store.usage()
            self._folder_seen = (changed_ns, recorded, used_bytes, kept)
        return self._folder_seen[1:]


class DrainThread(threading.Thread):
    """Drains until told to stop, whatever else the agent does meanwhile."""

    def __init__(
        self,
        drain: Drain,
        poll_seconds: tuple[float, float],
        drained: Callable[[], None],
        looked: Callable[[Looked], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`drained` is called after each checkpoint, `looked` now and then, `failed` with what went wrong."""
        # A daemon: only a whole program that ends without a word leaves it running.
        super().__init__(name="drain", daemon=True)
        self._drain = drain
        self._poll_seconds = poll_seconds
        self._drained = drained
        self._looked = looked
        self._failed = failed
        self._stopping = threading.Event()

    def run(self) -> None:
        """Drain. No failure ends it: what is in the slot stays there until it is in the store."""
        first, longest = self._poll_seconds
        pause, next_look = first, 0.0
        while not self._stopping.is_set():
            try:
                busy = self._drain.step()
                if busy:
                    self._drained()
                if busy or time.monotonic() >= next_look:
                    self._looked(self._drain.look())
                    next_look = time.monotonic() + longest
            except Exception as error:
                # A full disk, most of all.
                self._failed(error)
                self._stopping.wait(_TROUBLE_SECONDS)
                continue
            pause = first if busy else min(longest, pause * 1.5)
            if not busy:
                self._stopping.wait(pause)

    def stop(self) -> None:
        """End, once the checkpoint that is being written is there; returns when it has."""
        self._stopping.set()
        self.join()
