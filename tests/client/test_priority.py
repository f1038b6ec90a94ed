"""The agent's priority, as the kernel has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trajmon._priority import AGENT_NICENESS, lower_priority


def test_a_session_is_lowered_as_a_process_and_as_a_group() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        lower_priority(child.pid, AGENT_NICENESS)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == AGENT_NICENESS
        group = Path(f"/proc/{child.pid}/autogroup")
        if group.exists():
            assert group.read_text().split()[-1] == str(AGENT_NICENESS)
        lower_priority(child.pid, 5)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == AGENT_NICENESS
    finally:
        child.communicate(b"\n", timeout=20)


def test_a_process_that_has_gone_is_no_reason_to_fail() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    child.wait(timeout=20)
    lower_priority(child.pid, AGENT_NICENESS)
