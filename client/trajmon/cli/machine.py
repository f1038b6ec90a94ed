"""What can be learned of the runs on this machine by looking at their folders, without touching them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trajmon._files import lock_holder
from trajmon.rundir import AgentNote, RecorderNote, RunDir

__all__ = ["RunFolder", "inspect_run_dir", "list_run_dirs"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run directory of the client."""

    path: Path
    waiting: int
    """Checkpoints that no server has acknowledged."""
    snapshots: int
    snapshot_bytes: int
    training_pid: int | None
    """Process that records into it; None: none."""
    agent_pid: int | None
    """Agent that works on it; None: none."""
    recording: str
    """`running`, `stopped` or `finished`, as training left it; empty if it left no word."""
    reason: str
    """Why recording stopped."""
    agent_problem: str
    """What the last agent complained about; empty if nothing."""


def list_run_dirs(home: Path) -> list[Path]:
    """The run directories under `home`, sorted by name. Raises OSError."""
    client = home / "client"
    return sorted(path for path in client.iterdir() if path.is_dir()) if client.is_dir() else []


def inspect_run_dir(path: Path) -> RunFolder:
    """Count and look. Files may come and go meanwhile. Raises OSError."""
    run_dir = RunDir(path)
    note = RecorderNote.read(run_dir)
    snapshots = _sizes(run_dir.snapshots, ".snap")
    rows = _sizes(run_dir.spool, ".row")
    first = run_dir.first_unacked()
    return RunFolder(
        path=path,
        # Snapshots that the agent has not come to yet have no row, but wait all the same.
        waiting=sum(number >= first for number in rows.keys() | snapshots.keys()),
        snapshots=len(snapshots),
        snapshot_bytes=sum(snapshots.values()),
        training_pid=lock_holder(run_dir.owner_lock),
        agent_pid=lock_holder(run_dir.agent_lock),
        recording=note.state if note else "",
        reason=note.reason if note else "",
        agent_problem=AgentNote.problem_of(run_dir),
    )


def _sizes(folder: Path, suffix: str) -> dict[int, int]:
    """Size in bytes of each ``NUMBER.suffix`` in a folder."""
    found = {}
    if folder.is_dir():
        for entry in os.scandir(folder):
            number = entry.name.removesuffix(suffix)
            if entry.name.endswith(suffix) and number.isdecimal():
                try:
                    found[int(number)] = entry.stat().st_size
                except FileNotFoundError:
                    # Acknowledged and removed between listing and looking.
                    continue
    return found
