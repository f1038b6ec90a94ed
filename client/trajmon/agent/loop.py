"""The agent's main thread: slot to store, snapshots to rows, and the end of life."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import Literal

from trajmon._files import ProcessLock, lock_holder
from trajmon._settings import AgentSettings
from trajmon.agent.progress import Progress, Seen
from trajmon.agent.rows import RowMaker
from trajmon.agent.sender import Sender
from trajmon.agent.spool import Spool
from trajmon.agent.transport import printable
from trajmon.errors import SnapshotError
from trajmon.numerics.gram import compile_kernels
from trajmon.rundir import AgentNote, RecorderNote, RunDescription, RunDir
from trajmon.snapshots.slot import Slot, SlotState
from trajmon.snapshots.store import SnapshotStore

__all__ = ["Agent", "Ending"]

log = logging.getLogger("trajmon.agent")

Ending = Literal["settled", "refused", "lingered", "terminated"]

_TROUBLE_SECONDS = 1.0
_MAX_UNREADABLE = 100


class Agent:
    """One agent; the caller holds the agent lock. Raises DamagedRunError if the run cannot be read."""

    def __init__(self, run_dir: RunDir, settings: AgentSettings) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._run = RunDescription.read(run_dir)
        note = RecorderNote.read(run_dir) or RecorderNote(attempt=1)
        layout = self._run.layout
        self._store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="agent")
        self._store.remove_leftovers()
        self._owner = ProcessLock(run_dir.owner_lock)
        self._slot: Slot | None = None
        self._spool = Spool(run_dir.spool)
        self._progress = Progress(run_dir, AgentNote(pid=0, state="working"))
        self._rows = RowMaker(self._run, self._store, note.threads)
        self._sender = Sender(self._run, run_dir, self._spool, self._progress, settings)
        self._terminated = threading.Event()
        self._over_since: float | None = None
        self._folder_seen: tuple[int, int, int] = (-1, 0, 0)
        self._rows_computed = 0

    def terminate(self) -> None:
        """End after the row that is being computed. May be called from a signal handler."""
        self._terminated.set()

    def run(self) -> Ending:
        """Work until training is over and everything is handed in, or as far as the settings say."""
        # The word of an earlier agent must not be taken for this one's.
        self._progress.note(lambda known: replace(known, pid=os.getpid()))
        self._sender.start()
        pause, longest = self._settings.poll_seconds
        try:
            # Before the first row is asked for; with a filled cache it takes no time.
            compile_kernels()
            while not self._terminated.is_set():
                busy = self._work()
                ending = self._ending(busy)
                if ending is not None:
                    return ending
                pause = self._settings.poll_seconds[0] if busy else min(longest, pause * 1.5)
                if not busy:
                    self._terminated.wait(pause)
            return "terminated"
        finally:
            self._progress.stop()
            self._progress.note(lambda known: replace(known, state="gone"))

    def _work(self) -> bool:
        """One look at the slot, one row; True if there was something to do."""
        try:
            drained = self._drain()
            computed = self._next_row()
        except Exception as error:
            # A full disk, most of all. Whatever it is, nothing is lost: slot and store keep what they have.
            problem = printable(f"the agent cannot work: {str(error) or type(error).__name__}")
            log.warning("%s; trying again", problem, exc_info=not isinstance(error, OSError))
            self._progress.note(lambda known: replace(known, problem=problem))
            self._terminated.wait(_TROUBLE_SECONDS)
            return False
        return drained or computed

    def _drain(self) -> bool:
        """Bring what is in the slot into the store; True if there was something. Raises OSError."""
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
            self._slot = Slot.find(self._run_dir.slot_file, self._run.layout.nbytes)
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

    def _next_row(self) -> bool:
        """Compute the next row into the spool; False if there is none, or no room for it. Raises OSError."""
        checkpoint = self._spool.first_missing(self._progress.acked)
        recorded, _ = self._look()
        if checkpoint >= recorded or self._spool.total_bytes >= self._settings.spool_cap_bytes:
            return False
        if self._store.path(checkpoint).exists():
            self._store.make_durable(checkpoint)
        elif not self._is_lost(checkpoint):
            return False
        record = self._rows.make(checkpoint)
        self._spool.put(checkpoint, record)
        self._progress.wake()
        self._rows_computed += 1
        computed, unreadable = self._rows_computed, self._rows.unreadable[:_MAX_UNREADABLE]
        self._progress.note(lambda known: replace(known, rows_computed=computed, unreadable=unreadable))
        return True

    def _is_lost(self, checkpoint: int) -> bool:
        """Whether a checkpoint below the last one is neither in the store nor in the slot.

        The slot is asked before the store is asked again: its content may be older than a file, and moves
        from there to here, never back.
        """
        slot = self._find_slot()
        try:
            in_slot = slot is not None and slot.full_number() == checkpoint
        except SnapshotError:
            in_slot = False
        if in_slot or self._store.path(checkpoint).exists():
            return False
        log.error(
            "checkpoint %d is gone from the store; its row says that nothing is known of it", checkpoint
        )
        return True

    def _look(self) -> tuple[int, int]:
        """Checkpoints in the store, and their bytes; lists the folder only when it has changed."""
        changed_ns = self._run_dir.snapshots.stat().st_mtime_ns
        # A folder that changed within the clock's resolution may change again without showing it.
        is_fresh = time.time_ns() - changed_ns < 1_000_000_000
        if is_fresh or changed_ns != self._folder_seen[0]:
            recorded = max(self._store.numbers(), default=-1) + 1
            self._folder_seen = (changed_ns, recorded, self._store.used_bytes())
        return self._folder_seen[1:]

    def _ending(self, busy: bool) -> Ending | None:
        """Tell the sender how things stand; how the agent ends, if it does."""
        recorded, snapshot_bytes = self._look()
        slot = self._find_slot()
        waiting = slot is not None and slot.state != SlotState.FREE
        alive = lock_holder(self._run_dir.owner_lock) is not None
        over = not alive and not busy
        self._progress.see(Seen(recorded + int(waiting), snapshot_bytes, training_over=over and not waiting))
        if not over:
            self._over_since = None
            if self._settings.until_drained and not busy:
                return self._ending_of_sync(recorded)
            return None
        now = time.monotonic()
        self._over_since = self._over_since or now
        if self._progress.settled:
            ending: Ending = "settled"
        elif self._progress.refused:
            ending = "refused"
        elif min(now - self._over_since, self._progress.seconds_since_ack) > self._settings.linger_seconds:
            ending = "lingered"
        else:
            return None
        return ending if self._let_go() else None

    def _ending_of_sync(self, recorded: int) -> Ending | None:
        """While training goes on: everything so far is handed in, or nothing moves any more."""
        if self._progress.acked >= recorded:
            return "settled"
        if self._progress.refused:
            return "refused"
        return "lingered" if self._progress.seconds_since_ack > self._settings.linger_seconds else None

    def release(self) -> None:
        """Let a new training own the run; for an agent whose process goes on."""
        self._owner.release()

    def _let_go(self) -> bool:
        """Keep a new training out, and make sure that nothing came in; then remove the slot."""
        if not self._owner.acquire():
            return False
        slot = self._find_slot()
        if slot is not None and slot.state == SlotState.FULL:
            try:
                self._drain()
            except OSError as error:
                # Its content stays where it is, for the next agent.
                log.warning("a checkpoint stays in the slot: %s", error)
                return True
            self._owner.release()
            return False
        if self._look()[0] > self._progress.seen.recorded:
            self._owner.release()
            return False
        if slot is not None:
            slot.unlink(self._run_dir.slot_file)
            slot.close()
        return True
