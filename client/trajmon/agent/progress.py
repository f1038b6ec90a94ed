"""What the threads of an agent know together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trajmon._files import write_json
from trajmon.rundir import AgentNote, RunDir

__all__ = ["Progress", "Seen"]

log = logging.getLogger("trajmon.agent")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the agent last saw of the training."""

    recorded: int = 0
    """Checkpoints in the store and the slot."""
    snapshot_bytes: int = 0
    kept: int = 0
    """Snapshots that are stored with their data."""
    training_over: bool = False
    """Nobody holds the owner lock, and every row that can be computed is in the spool."""
    uncomputed: int = 0
    """Checkpoints that are recorded, not acknowledged and not in the spool."""
    oldest_unacked_unix_seconds: float = 0.0
    """When the oldest checkpoint that is not acknowledged was recorded; 0: there is none."""


class Progress:
    """Shared by all threads of the agent; every method may be called from any."""

    def __init__(self, run_dir: RunDir, note: AgentNote) -> None:
        self._run_dir = run_dir
        self._changed = threading.Condition()
        self._acked = run_dir.acked()
        self._acked_at = time.monotonic()
        self._seen = Seen()
        self._settled = False
        self._refused = False
        self._stopping = False
        self._note = note

    @property
    def acked(self) -> int:
        """First checkpoint that the server has not acknowledged."""
        with self._changed:
            return self._acked

    @property
    def seconds_since_ack(self) -> float:
        """Since the last acknowledgement, or since the agent started."""
        with self._changed:
            return time.monotonic() - self._acked_at

    @property
    def seen(self) -> Seen:
        """What was last seen."""
        with self._changed:
            return self._seen

    @property
    def settled(self) -> bool:
        """Training is over, the server has every row and has heard so."""
        with self._changed:
            return self._settled

    @property
    def refused(self) -> bool:
        """The server will not take the rows, whatever is tried."""
        with self._changed:
            return self._refused

    @property
    def stopping(self) -> bool:
        """The agent is about to end."""
        with self._changed:
            return self._stopping

    def advance(self, next_checkpoint: int) -> None:
        """The server has everything below this number; it may have less than was thought. Durable. Raises OSError."""
        if next_checkpoint != self.acked:
            write_json(self._run_dir.acked_file, {"acked": next_checkpoint}, durable=True)
        with self._changed:
            self._acked = next_checkpoint
            self._acked_at = time.monotonic()
            self._changed.notify_all()

    def see(self, seen: Seen) -> None:
        """Somebody looked again."""
        with self._changed:
            if seen != self._seen:
                self._seen = seen
                self._changed.notify_all()
            if not seen.training_over:
                self._settled = False

    def settle(self) -> None:
        """The server has heard the last word."""
        with self._changed:
            self._settled = self._seen.training_over
            self._changed.notify_all()

    def refuse(self, refused: bool) -> None:
        """The server will not take the rows; or it may, after all."""
        with self._changed:
            self._refused = refused
            self._changed.notify_all()

    def wake(self) -> None:
        """There is a new row."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """End all threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something changes, at most so long."""
        with self._changed:
            if not self._stopping:
                self._changed.wait(seconds)

    def sleep(self, seconds: float) -> None:
        """So long, whatever changes; shorter only if the agent ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def note(self, change: Callable[[AgentNote], AgentNote]) -> None:
        """Change the agent's word on disk. It informs, nothing rests on it: a full disk costs no more than that."""
        with self._changed:
            changed = change(self._note)
            if changed == self._note:
                return
            self._note = changed
            try:
                changed.write(self._run_dir)
            except OSError as error:
                log.warning("agent.json: %s", error)
