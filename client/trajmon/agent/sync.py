"""Handing in what an agent left behind, in the foreground."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.rundir import RunDir
from trajmon.snapshots.store import SnapshotStore

__all__ = ["sync"]

_POLL_SECONDS = 0.1
_LINGER_SECONDS = 15.0


def sync(run_dir: Path, settings: AgentSettings | None = None) -> int:
    """Send what a run has not handed in; returns how many checkpoints the server still lacks.

    Gives up after 15 s without an acknowledgement. If an agent works on the run already, waits for that one.
    Raises DamagedRunError, OSError.
    """
    where = RunDir(run_dir.absolute())
    chosen = replace(settings or AgentSettings(linger_seconds=_LINGER_SECONDS), until_drained=True)
    lock = ProcessLock(where.agent_lock)
    left, since = _left(where), time.monotonic()
    while not lock.acquire():
        now_left = _left(where)
        if now_left < left:
            left, since = now_left, time.monotonic()
        if now_left == 0 or time.monotonic() - since > chosen.linger_seconds:
            return now_left
        time.sleep(_POLL_SECONDS)
    try:
        # A slot that is still there may hold one more checkpoint; a sketch may have stayed behind its row.
        if _left(where) or where.slot_file.exists() or any(where.spool.glob("*.sketch")):
            agent = Agent(where, chosen)
            try:
                agent.run()
            finally:
                agent.release()
        return _left(where)
    finally:
        lock.release()


def _left(run_dir: RunDir) -> int:
    """Checkpoints that are recorded and not acknowledged."""
    store = SnapshotStore(run_dir.snapshots, "", 0, writer="sync")
    # Rows that were made of existing checkpoints have no snapshots.
    spooled = (int(file.stem) for file in run_dir.spool.glob("*.row") if file.stem.isdecimal())
    return max(0, max([*store.numbers(), *spooled], default=-1) + 1 - run_dir.first_unacked())
