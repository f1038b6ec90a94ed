"""The server that records the experiments: shared by all who work in one folder, stopped by the last of them."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._files import read_json

from trajmon.local_server import ensure_local_server, find_server

__all__ = ["shared_server"]

STARTED_WITHIN_SECONDS = 180.0
STOPPED_WITHIN_SECONDS = 20.0


@contextmanager
def shared_server(home: Path) -> Iterator[str]:
    """Address of the server with this home folder, started if need be. Raises RuntimeError if it does not start."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "users.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        # If all who could stop it are killed, it ends by itself.
        os.environ.setdefault("TRAJMON_SERVER_EXIT_WHEN_IDLE_SECONDS", "900")
        address = _start(home)
        try:
            yield address
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # Somebody else still records there, and will stop it.
            else:
                _stop(home)


def _start(home: Path) -> str:
    address = ensure_local_server(home)
    # It starts at low priority: beside trainings that take a while.
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while address is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start; {home / 'server.log'} says why")
        time.sleep(0.2)
        address = find_server(home)
    return address


def _stop(home: Path) -> None:
    if find_server(home) is None:
        return
    number: int = read_json(home / "server.json")["pid"]
    os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + STOPPED_WITHIN_SECONDS
    while _runs(number) and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(number: int) -> bool:
    """Whether a process is there and has not ended; it may be a child that nobody has waited for."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
