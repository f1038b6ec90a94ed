"""A real server process for tests: started on free ports, stopped or killed by its own pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from trajmon_protos.v1.ingest_pb2_grpc import IngestServiceStub
from trajmon_protos.v1.query_pb2_grpc import QueryServiceStub

START_SECONDS = 60.0


@dataclass
class ServerProcess:
    """`trajmon-server serve` over one home directory; can be started again after a kill."""

    home: Path
    grpc_address: str = "127.0.0.1:0"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    @property
    def log(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")

    def command(self, *options: str) -> list[str]:
        """The command line; later options win."""
        ports = ["--grpc", self.grpc_address, "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        return [
            sys.executable,
            "-m",
            "trajmon_server",
            "serve",
            "--data-dir",
            str(self.data_dir),
            *ports,
            *options,
        ]

    def start(self, *options: str) -> ServerProcess:
        """Start, and wait until it has said where it listens."""
        self.home.mkdir(parents=True, exist_ok=True)
        announced = self.home / "server.json"
        announced.unlink(missing_ok=True)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*options),
                env={**os.environ, "TRAJMON_HOME": str(self.home), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not announced.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"server did not start:\n{self.log[-3000:]}")
            time.sleep(0.02)
        self.addresses = json.loads(announced.read_text())
        # The next start takes the same port, as a supervised server would.
        self.grpc_address = self.addresses["grpc"]
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"server did not stop:\n{self.log[-3000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(number)

    def scrape(self) -> str:
        """Its metrics, as Prometheus asks for them."""
        with urllib.request.urlopen(f"http://{self.addresses['metrics']}/metrics", timeout=20) as answer:
            return bytes(answer.read()).decode()

    def rss_bytes(self) -> int:
        """Resident memory now."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Client:
    """Plain stubs with a token, for tests that speak the protocol themselves."""

    def __init__(self, address: str, token: str | None) -> None:
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", 4 << 20),
                ("grpc.max_reconnect_backoff_ms", 500),
                # A connection of its own, as another process would have.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.metadata: tuple[tuple[str, str | bytes], ...] = (
            (("authorization", f"Bearer {token}"),) if token is not None else ()
        )
        self.ingest = IngestServiceStub(self.channel)
        self.query = QueryServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
