"""A server of its own for a benchmark: a process on free ports, over a folder that goes with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trajmon.local_server import find_server

__all__ = ["Server", "running_server"]

START_SECONDS = 120.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """What :func:`trajmon.watch` takes."""

    address: str
    home: Path


@contextmanager
def running_server(folder: Path, policy: str) -> Iterator[Server]:
    """A fresh `trajmon-server serve` that advises by `policy`; it and its data end with the block.

    RuntimeError, with its log, if it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="server-", dir=folder) as home_name:
        home = Path(home_name)
        command = [sys.executable, "-m", "trajmon_server", "serve", "--data-dir", str(home / "data")]
        for name in ("grpc", "http", "metrics"):
            command += [f"--{name}", "127.0.0.1:0"]
        with (home / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "TRAJMON_HOME": str(home),
                    "TRAJMON_SERVER_SIGNALS__POLICY": policy,
                    # In case that nobody is left to end it.
                    "TRAJMON_SERVER_EXIT_WHEN_IDLE_SECONDS": "3600",
                },
            )
        try:
            yield Server(_address(home, process), home)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(home: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while (found := find_server(home)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (home / "server.log").read_text(errors="replace")
            raise RuntimeError(f"the server did not start:\n{log[-3000:]}")
        time.sleep(0.05)
    return found
