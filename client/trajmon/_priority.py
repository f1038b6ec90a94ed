"""Keep what runs beside training out of its way."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["AGENT_NICENESS", "SERVER_NICENESS", "lower_priority"]

AGENT_NICENESS = 19
"""A core that training wants as well goes to the agent for about one part in seventy."""
SERVER_NICENESS = 10

log = logging.getLogger("trajmon")


def lower_priority(pid: int, niceness: int) -> None:
    """Lower the priority of a process that leads a session of its own.

    Both ways are needed: with Linux's automatic task groups (`sched_autogroup_enabled`) a session competes as one
    group, and the niceness of a process counts within its group only. Nothing is raised: a priority that cannot be
    lowered is no reason to do without the process.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, pid) < niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            group.write_text(str(niceness))
    except OSError as error:
        log.debug("priority of process %d not lowered: %s", pid, error)
