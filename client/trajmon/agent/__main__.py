"""``python -m trajmon.agent RUN_DIR``: the agent of one run, started by the recorder."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TextIO

from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings, Limits
from trajmon.agent.loop import Agent
from trajmon.errors import TrajmonError
from trajmon.rundir import RunDir

__all__ = ["main"]

log = logging.getLogger("trajmon.agent")


class _BoundedLog(logging.StreamHandler[TextIO]):
    """Writes to stderr, which is the run's agent.log, and starts it over when it has grown too long."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        facts = os.fstat(sys.stderr.fileno())
        if facts.st_size > Limits().agent_log_bytes:
            os.ftruncate(sys.stderr.fileno(), 0)
        super().emit(record)


def main(arguments: list[str]) -> int:
    """0 when training is over, or another agent works on the run; 1 if the run cannot be read; 2 for usage."""
    if len(arguments) != 1:
        print("usage: python -m trajmon.agent RUN_DIR", file=sys.stderr)
        return 2
    # Ctrl-C is for training.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The end of the terminal is not the end of what is recorded.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = _BoundedLog(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    run_dir = RunDir(Path(arguments[0]).absolute())
    lock = ProcessLock(run_dir.agent_lock)
    try:
        if not lock.acquire():
            log.info("another agent works on %s", run_dir.path.name)
            return 0
        agent = Agent(run_dir, AgentSettings.from_environment())
    except (TrajmonError, OSError) as error:
        log.error("%s", error)
        return 1

    def terminate(number: int, frame: FrameType | None) -> None:
        agent.terminate()

    signal.signal(signal.SIGTERM, terminate)
    log.info("agent %d of run %s", os.getpid(), run_dir.path.name)
    log.info("ended: %s", agent.run())
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # Without the interpreter's clean-up: a call that hangs in the network would hold it up.
    os._exit(status)
