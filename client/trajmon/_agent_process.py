"""Starting the agent from the training process, and starting it again when it has died."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from trajmon._files import lock_holder
from trajmon._priority import yield_to_others
from trajmon._settings import Limits, TlsFiles
from trajmon.rundir import RunDir

__all__ = ["AgentProcess"]


class _Child(subprocess.Popen[bytes]):
    """A child that is meant to outlive us: without the warning that it still runs."""

    def __del__(self) -> None:
        """Leave it alone."""


class AgentProcess:
    """The agent of a run, as training sees it."""

    def __init__(self, run_dir: RunDir, limits: Limits) -> None:
        self._run_dir = run_dir
        self._limits = limits
        self._child: _Child | None = None
        self._started = -float("inf")
        self._starts = 0

    @property
    def restarts(self) -> int:
        """How often a dead agent was started again."""
        return max(0, self._starts - 1)

    def alive(self) -> bool:
        """Whether an agent works on the run, started here or by an earlier training. Raises OSError."""
        if self._child is not None and self._child.poll() is None:
            return True
        return lock_holder(self._run_dir.agent_lock) is not None

    def ensure(self, *, at_once: bool = False) -> bool:
        """Start the agent if there is none and the last start is long enough ago; True if it was started.

        `at_once` starts it however short ago the last start was. Raises OSError.
        """
        is_recent = time.monotonic() - self._started < self._limits.agent_restart_seconds
        if self.alive() or (is_recent and not at_once):
            return False
        self._started = time.monotonic()
        self._start()
        self._starts += 1
        return True

    def _start(self) -> None:
        log_file = self._run_dir.agent_log
        if log_file.exists() and log_file.stat().st_size > self._limits.agent_log_bytes:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as log:
            self._child = _Child(
                # -P: files in the working directory must not shadow modules.
                [sys.executable, "-P", "-m", "trajmon.agent", str(self._run_dir.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._run_dir.path,
                # Ctrl-C in the terminal is for training alone. Not a session of its own: with Linux's automatic task
                # groups that would compete with training as its equal, whatever its priority.
                process_group=0,
                env={
                    **os.environ,
                    # It has another working directory.
                    **TlsFiles.from_environment().to_environment(),
                    "GRPC_ENABLE_FORK_SUPPORT": "0",
                },
            )
        # From here, not by the agent itself: starting up is a good part of what it costs.
        yield_to_others(self._child.pid)
