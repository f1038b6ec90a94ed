"""A real HAProxy in front of real servers, with the configuration that users get."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.server import ServerProcess

__all__ = ["CONFIG", "HaProxy", "proxied"]

CONFIG = Path(__file__).parents[2] / "deploy" / "proxy" / "haproxy.cfg"
START_SECONDS = 30.0
SOCKET = "haproxy.sock"


@dataclass(frozen=True, slots=True)
class HaProxy:
    """A proxy that runs, and where."""

    grpc: str
    http: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_up(self, count: int) -> None:
        """Wait until `count` replicas take calls, by the proxy's own count on its management socket."""
        deadline = time.monotonic() + START_SECONDS
        while (up := self.states().count("UP")) != count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{up} of {count} replicas are up:\n{self.log[-3000:]}")
            time.sleep(0.1)

    def states(self) -> list[str]:
        """Of each replica of the backend `grpc`: UP, DOWN, or on its way, as `DOWN 1/2`."""
        # By way of an open folder: a socket's path has room for some hundred characters only.
        folder = os.open(self.log_path.parent, os.O_RDONLY)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            try:
                connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            finally:
                os.close(folder)
            connection.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
        names, *lines = (line.split(",") for line in answer.splitlines() if line)
        rows = [dict(zip(names, line, strict=False)) for line in lines]
        return [
            row["status"] for row in rows if row["# pxname"] == "grpc" and row["svname"].startswith("replica")
        ]


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def proxied(
    servers: Sequence[ServerProcess],
    folder: Path,
    config: Path = CONFIG,
    environment: dict[str, str] | None = None,
) -> Iterator[HaProxy]:
    """A proxy before these three servers, which keep their addresses when they are started again."""
    assert len(servers) == 3
    grpc, http = _free_address(), _free_address()
    settings = {"TRAJMON_PROXY_GRPC": grpc, "TRAJMON_PROXY_HTTP": http}
    for index, server in enumerate(servers):
        settings[f"TRAJMON_REPLICA_{index}_GRPC"] = server.addresses["grpc"]
        settings[f"TRAJMON_REPLICA_{index}_HTTP"] = server.addresses["http"]
    log_path = folder / "haproxy.log"
    # A second file: what users get stays as it is.
    watching = folder / "haproxy-stats.cfg"
    watching.write_text(f"global\n    stats socket unix@{SOCKET} mode 600\n")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-f", str(config), "-f", watching.name],
            cwd=folder,
            env={**os.environ, **settings, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    proxy = HaProxy(grpc, http, process, log_path)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / SOCKET).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"haproxy did not start:\n{proxy.log[-3000:]}")
            time.sleep(0.05)
        yield proxy
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
