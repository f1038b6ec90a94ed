"""The local server: found through ``server.json`` below the home folder, started if need be."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trajmon._files import read_json
from trajmon._priority import SERVER_NICENESS, lower_session

__all__ = ["ensure_local_server", "find_page", "find_server"]

START_SECONDS = 30.0
_PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Announced:
    address: str
    page: str
    """Its HTTP address; empty if it is not told."""
    pid: int
    tls: bool


def find_server(home: Path) -> str | None:
    """gRPC address of the local server, as `parse_server` takes it; None if none is running."""
    announced = _living(home)
    if announced is None:
        return None
    return f"grpcs://{announced.address}" if announced.tls else announced.address


def find_page(home: Path) -> str | None:
    """Address of the local server's page, such as ``http://127.0.0.1:8080/``; None if none is running."""
    announced = _living(home)
    if announced is None or not announced.page:
        return None
    return f"{'https' if announced.tls else 'http'}://{announced.page}/"


def ensure_local_server(home: Path) -> str | None:
    """gRPC address of the local server, which is started if none is running.

    None if the server package is not installed, or if it does not come up within 30 s; its log
    ``server.log`` then says why. Waits; never called in a training process.
    """
    found = find_server(home)
    if found is not None or importlib.util.find_spec("trajmon_server") is None:
        return found
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / "server.start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+") as lock:
        # Two agents that look at the same time must not start two servers.
        deadline = time.monotonic() + START_SECONDS
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                return find_server(home)
            time.sleep(0.1)
        return find_server(home) or _start(home, deadline)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(home: Path, deadline: float) -> str | None:
    command = [sys.executable, "-m", "trajmon_server", "serve", "--data-dir", str(home / "data")]
    for name in ("grpc", "http", "metrics"):
        command += [f"--{name}", "127.0.0.1:0"]
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Nobody will stop it: it ends when nobody has called for an hour, and is started again when needed.
            env={"TRAJMON_SERVER_EXIT_WHEN_IDLE_SECONDS": "3600", **os.environ, "TRAJMON_HOME": str(home)},
        )
    lower_session(process.pid, SERVER_NICENESS)
    while time.monotonic() < deadline:
        found = find_server(home)
        # A poll that says "ended" may also mean that another server holds the data directory.
        if found is not None or process.poll() is not None:
            break
        time.sleep(0.05)
    # It outlives whoever started it: no warning that it still runs.
    process.returncode = process.poll() or 0
    return find_server(home)


def _announced(home: Path) -> _Announced | None:
    value = read_json(home / "server.json") or {}
    address, pid = value.get("grpc"), value.get("pid")
    if not isinstance(address, str) or not isinstance(pid, int) or pid <= 0:
        return None
    page = value.get("http")
    return _Announced(address, page if isinstance(page, str) else "", pid, value.get("tls") is True)


def _living(home: Path) -> _Announced | None:
    """The local server, if it runs."""
    announced = _announced(home)
    if announced is None or not _lives(announced.pid) or not _accepts(announced.address):
        return None
    return announced


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _accepts(address: str) -> bool:
    """A process id may be another program's by now; only a server listens at the address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
            return True
    except (OSError, ValueError):
        return False
