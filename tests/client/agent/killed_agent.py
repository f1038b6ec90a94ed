"""An agent that is killed at a chosen moment: ``python killed_agent.py RUN_DIR N``.

kill -9 comes just before the N-th renaming or removal of a file, which is where something becomes durable or goes.
The notes that inform only are not counted: how often they are written depends on time.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from trajmon.agent.__main__ import main

UNCOUNTED = ("agent.json", "answer.json", "slot.json")


def kill_before(nth: int, folder: str) -> None:
    """Kill this process before the `nth` change below `folder`."""
    changes = itertools.count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("os.rename", "os.remove"):
            return
        target = os.fsdecode(arguments[1] if event == "os.rename" else arguments[0])
        if target.startswith(folder) and not target.endswith(UNCOUNTED) and next(changes) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    kill_before(int(sys.argv[2]), sys.argv[1])
    status = main(sys.argv[1:2])
    os._exit(status)
