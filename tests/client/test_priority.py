"""Priorities, as the kernel has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trajmon._priority import lower_session, yield_to_others


def waiting(**options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return] # passed through


def test_a_process_gives_way_to_everybody() -> None:
    child = waiting(process_group=0)
    try:
        yield_to_others(child.pid)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    finally:
        child.communicate(b"\n", timeout=20)


def test_a_session_is_lowered_as_a_process_and_as_a_group() -> None:
    child = waiting(start_new_session=True)
    try:
        lower_session(child.pid, 10)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 10
        group = Path(f"/proc/{child.pid}/autogroup")
        if group.exists():
            assert group.read_text().split()[-1] == "10"
        lower_session(child.pid, 5)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 10
    finally:
        child.communicate(b"\n", timeout=20)


def test_a_process_that_has_gone_is_no_reason_to_fail() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    child.wait(timeout=20)
    yield_to_others(child.pid)
    lower_session(child.pid, 10)
