"""What a recorder says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trajmon.snapshots.keeping import SnapshotMode

__all__ = ["RecorderState", "RecorderStatus"]

RecorderState = Literal["recording", "stopped", "refused", "closed"]


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """How recording goes."""

    state: RecorderState
    """`stopped`: training goes on without it; `refused`: it never started."""
    reason: str = ""
    """Why it does not record, or what keeps rows from the server."""
    recorded: int = 0
    """Checkpoints of the run that are stored on this machine."""
    skipped: int = 0
    """Checkpoints that this attempt could not store."""
    pending: int = 0
    """Recorded, and not yet acknowledged by the server."""
    last_stall_seconds: float = 0.0
    """How long the last checkpoint held training."""
    mode: SnapshotMode = "exact"
    """Which snapshots are kept: all, a few, or the last two."""
    agent_restarts: int = 0
    """How often a dead agent was started again."""
