"""What can be learned of the runs on this machine by looking at their folders, without touching them."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunFolder", "inspect_run_dir", "list_run_dirs", "lock_holder"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run directory of the client."""

    path: Path
    pending_rows: int
    """Rows that no server has acknowledged."""
    snapshots: int
    snapshot_bytes: int
    training_pid: int | None
    """Process that records into it; None: none."""
    agent_pid: int | None
    """Agent that works on it; None: none."""


def list_run_dirs(home: Path) -> list[Path]:
    """The run directories under `home`, sorted by name. Raises OSError."""
    client = home / "client"
    return sorted(path for path in client.iterdir() if path.is_dir()) if client.is_dir() else []


def inspect_run_dir(path: Path) -> RunFolder:
    """Count and look. Files may come and go meanwhile. Raises OSError."""
    sizes = _sizes(path / "snapshots", ".snap")
    return RunFolder(
        path=path,
        pending_rows=len(_sizes(path / "spool", ".row")),
        snapshots=len(sizes),
        snapshot_bytes=sum(sizes),
        training_pid=lock_holder(path / "owner.lock"),
        agent_pid=lock_holder(path / "agent.lock"),
    )


def lock_holder(path: Path) -> int | None:
    """Process that holds a POSIX lock on a file; None if there is no file or no lock.

    Only asks (F_GETLK): taking the lock for a moment could turn a starting agent away. Linux's `struct flock`.
    """
    try:
        with path.open("rb") as file:
            # A shared lock conflicts with an exclusive one, and asking for it needs no write permission.
            question = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question))
    except FileNotFoundError:
        return None
    return None if kind == fcntl.F_UNLCK else int(pid)


def _sizes(folder: Path, suffix: str) -> list[int]:
    found = []
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.endswith(suffix):
                try:
                    found.append(entry.stat().st_size)
                except FileNotFoundError:
                    # Acknowledged and removed between listing and looking.
                    continue
    return found
