"""Keep what runs beside training out of its way."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["SERVER_NICENESS", "lower_session", "yield_to_others"]

SERVER_NICENESS = 10

log = logging.getLogger("trajmon")


def yield_to_others(pid: int) -> None:
    """Let a process of this session run only where nobody else wants to (Linux: SCHED_IDLE), else at niceness 19.

    A niced process still holds a core for some milliseconds when a thread of training wakes; an idle one gives way at
    once. Nothing is raised: a priority that cannot be lowered is no reason to do without the process.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        log.debug("priority of process %d not lowered: %s", pid, error)


def lower_session(pid: int, niceness: int) -> None:
    """Lower the priority of a process that leads a session of its own.

    Both ways are needed: with Linux's automatic task groups (`sched_autogroup_enabled`) a session competes as one
    group, and the niceness of a process counts within its group only.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            group.write_text(str(niceness))
    except OSError as error:
        log.debug("priority of process %d not lowered: %s", pid, error)
