"""The agent's main thread: snapshots to rows, and the end of life."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import Literal

from trajmon._files import ProcessLock, lock_holder
from trajmon._settings import AgentSettings
from trajmon.agent.backlog import Backlog
from trajmon.agent.drain import Drain, DrainThread
from trajmon.agent.progress import Progress
from trajmon.agent.rows import RowMaker
from trajmon.agent.sender import Sender
from trajmon.agent.spool import Spool
from trajmon.agent.transport import printable
from trajmon.numerics.gram import compile_kernels
from trajmon.rundir import AgentNote, RecorderNote, RunDescription, RunDir
from trajmon.snapshots.slot import SlotState
from trajmon.snapshots.store import SnapshotStore

__all__ = ["Agent", "Ending"]

log = logging.getLogger("trajmon.agent")

Ending = Literal["settled", "refused", "lingered", "terminated"]

_TROUBLE_SECONDS = 1.0
_MAX_UNREADABLE = 100
_MUCH_TO_READ_BYTES = 8 << 30
"""Stored snapshots that take a second or so to read: a row against them is announced by its sketch."""


class Agent:
    """One agent; the caller holds the agent lock. Raises DamagedRunError if the run cannot be read."""

    def __init__(self, run_dir: RunDir, settings: AgentSettings) -> None:
        self._run_dir = run_dir
        self._settings = settings
        run = RunDescription.read(run_dir)
        note = RecorderNote.read(run_dir) or RecorderNote(attempt=1)
        layout = run.snapshot_layout
        self._store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="agent")
        self._store.remove_leftovers()
        self._owner = ProcessLock(run_dir.owner_lock)
        self._drain = Drain(run_dir, self._store, layout.nbytes, self._owner)
        self._spool = Spool(run_dir.spool)
        self._sketches = Spool.of_sketches(run_dir.spool)
        self._progress = Progress(run_dir, AgentNote(pid=0, state="working"))
        self._rows = RowMaker(run_dir, run, self._store, note.threads)
        self._sender = Sender(run, run_dir, self._spool, self._sketches, self._progress, settings)
        first = 0 if run.shard is None else run.shard.first_checkpoint
        self._backlog = Backlog(self._store, self._spool, self._progress, first)
        self._wake = threading.Event()
        self._terminated = False
        self._over_since: float | None = None
        self._worked_to = 0
        self._thinned: tuple[int, str, int] = (-1, "exact", 0)
        self._rows_computed = 0

    def terminate(self) -> None:
        """End after the rows that are being computed. May be called from a signal handler."""
        # No lock here: the thread that the signal interrupts may hold it.
        self._terminated = True

    def run(self) -> Ending:
        """Work until training is over and everything is handed in, or as far as the settings say."""
        # The word of an earlier agent must not be taken for this one's.
        self._progress.note(lambda known: replace(known, pid=os.getpid()))
        draining = DrainThread(
            self._drain, self._settings.poll_seconds, self._wake.set, self._backlog.update, self._trouble
        )
        draining.start()
        self._sender.start()
        pause, longest = self._settings.poll_seconds
        try:
            # Before the first row is asked for; with a filled cache it takes no time.
            compile_kernels()
            while not self._terminated:
                busy = self._work()
                ending = self._ending(busy)
                if ending is not None:
                    return ending
                pause = self._settings.poll_seconds[0] if busy else min(longest, pause * 1.5)
                if not busy:
                    self._pause(pause)
            return "terminated"
        finally:
            draining.stop()
            self._progress.stop()
            self._progress.note(lambda known: replace(known, state="gone"))

    def _pause(self, seconds: float) -> None:
        """Until a checkpoint is drained, at most so long."""
        self._wake.wait(seconds)
        self._wake.clear()

    def _work(self) -> bool:
        """Rows of what waits; True if there was something to do."""
        try:
            return self._next_rows()
        except Exception as error:
            # A full disk, most of all. Whatever it is, nothing is lost: the store keeps what it has.
            self._trouble(error)
            until = time.monotonic() + _TROUBLE_SECONDS
            while not self._terminated and time.monotonic() < until:
                self._pause(self._settings.poll_seconds[1])
            return False

    def _trouble(self, error: Exception) -> None:
        """Report what keeps the agent from working."""
        problem = printable(f"the agent cannot work: {str(error) or type(error).__name__}")
        log.warning("%s; trying again", problem, exc_info=None if isinstance(error, OSError) else error)
        self._progress.note(lambda known: replace(known, problem=problem))

    def _next_rows(self) -> bool:
        """Compute the rows that are due into the spool; False if there is none, or no room. Raises OSError."""
        self._worked_to = self._drain.look().recorded
        self._mend_sketches()
        due = self._due(self._worked_to)
        if not due:
            self._thin()
        if not due or not self._rows.gather():
            return False
        note = RecorderNote.read(self._run_dir) or RecorderNote(attempt=1)
        if note.sketching or note.keeping != "exact":
            self._rows.sketch_from_here(self._sketches)
            self._rows.sketch_up_to(due[0])
            if self._rows.num_kept * self._store.data_bytes >= _MUCH_TO_READ_BYTES:
                # Estimates are there at once; the exact row takes its time.
                self._rows.sketch_up_to(due[-1] + 1)
                self._progress.wake()
        for checkpoint, record in self._rows.make_many(due):
            self._spool.put(checkpoint, record)
            self._progress.wake()
            self._rows_computed += 1
        self._thin()
        computed, unreadable = self._rows_computed, self._rows.unreadable[:_MAX_UNREADABLE]
        self._progress.note(lambda known: replace(known, rows_computed=computed, unreadable=unreadable))
        return True

    def _mend_sketches(self) -> None:
        """Make records anew that were damaged in the spool; those of rows are due again by themselves."""
        for checkpoint in self._sketches.damaged:
            self._rows.sketch_from_here(self._sketches)
            self._rows.sketch_again(checkpoint, self._spool.get(checkpoint))
            self._sketches.forget_damaged(checkpoint)
            self._progress.wake()

    def _thin(self) -> None:
        """Give up snapshots that are not to be kept: after rows, and where somebody was killed before. Raises OSError.

        Not only after rows: training whose budget is used up records none before there is room.
        """
        start = self._backlog.start
        newest = self._spool.first_missing(start) - 1
        note = RecorderNote.read(self._run_dir) or RecorderNote(attempt=1)
        wanted = (newest, note.keeping, note.keep)
        if newest < self._backlog.first or wanted == self._thinned:
            return
        if note.keeping != "exact":
            if not self._rows.gather():
                return
            self._rows.sketch_from_here(self._sketches)
            self._rows.sketch_up_to(newest + 1)
            self._rows.thin(newest, note.keeping, note.keep)
        self._thinned = wanted

    def _due(self, recorded: int) -> list[int]:
        """Consecutive checkpoints whose rows come next, as many as are worked on together. Raises OSError."""
        start = self._spool.first_missing(self._backlog.start)
        room = self._settings.spool_cap_bytes - self._spool.total_bytes - self._sketches.total_bytes
        due: list[int] = []
        for checkpoint in range(start, min(recorded, start + self._rows.most_together(start))):
            if room <= 0 or checkpoint in self._spool:
                break
            if self._store.path(checkpoint).exists():
                self._store.make_durable(checkpoint)
            elif self._drain.is_coming(checkpoint):
                break
            else:
                log.error(
                    "checkpoint %d is gone from the store; its row says that nothing is known of it",
                    checkpoint,
                )
            due.append(checkpoint)
            room -= self._rows.row_bytes(checkpoint)
        return due

    def _ending(self, busy: bool) -> Ending | None:
        """Tell the sender how things stand; how the agent ends, if it does."""
        # First whether training lives, then what there is: nothing comes after its end.
        alive = lock_holder(self._run_dir.owner_lock) is not None
        looked = self._drain.look()
        busy = busy or looked.recorded > self._worked_to
        # Rows of checkpoints that other programs wrote have no snapshots.
        looked = replace(looked, recorded=max(looked.recorded, self._spool.stop))
        over = not alive and not busy
        self._backlog.update(looked, over=over)
        if not over:
            self._over_since = None
            if self._settings.until_drained and not busy and looked.slot != SlotState.FULL:
                return self._ending_of_sync(looked.recorded)
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
        return ending if self._drain.let_go(looked.recorded) else None

    def _ending_of_sync(self, recorded: int) -> Ending | None:
        """While training goes on: everything so far is handed in, or nothing moves any more."""
        if self._backlog.start >= recorded and not self._sender.has_sketches:
            return "settled"
        if self._progress.refused:
            return "refused"
        return "lingered" if self._progress.seconds_since_ack > self._settings.linger_seconds else None

    def release(self) -> None:
        """Let a new training own the run; for an agent whose process goes on."""
        self._owner.release()
