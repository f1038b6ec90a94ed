"""Several real servers on one object store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc

from support.calls import TIMEOUT_SECONDS
from support.object_store import ObjectStoreProcess
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.store.object_journal import ObjectJournal

T = TypeVar("T")

TOKEN = "t" * 40
LEASE_SECONDS = 3.0


@dataclass
class Cluster:
    """The store, and servers that share it and a token."""

    folder: Path
    count: int = 3
    lease_seconds: float = LEASE_SECONDS
    prefix: str = "one"
    store: ObjectStoreProcess = field(init=False)
    servers: list[ServerProcess] = field(default_factory=list)

    def start(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = ObjectStoreProcess(self.folder).start()
        self.servers = [self._server(number) for number in range(self.count)]
        for server in self.servers:
            server.start()
        return self

    def _server(self, number: int) -> ServerProcess:
        home = self.folder / f"server-{number}"
        home.mkdir()
        (home / "token").write_text(TOKEN)
        (home / "token").chmod(0o600)
        return ServerProcess(
            home,
            environment={
                "TRAJMON_SERVER_JOURNAL_URL": self.store.url(self.prefix),
                "TRAJMON_SERVER_OBJECT_STORE": json.dumps(self.store.options),
                "TRAJMON_SERVER_REPLICA_ID": f"server-{number}",
                "TRAJMON_SERVER_LEASE_SECONDS": str(self.lease_seconds),
                "TRAJMON_SERVER_FOLLOW_SECONDS": "0.5",
            },
        )

    def client(self, number: int) -> Client:
        return Client(self.servers[number].grpc_address, TOKEN)

    def journal(self) -> ObjectJournal:
        """Past the servers, what they have stored."""
        return ObjectJournal(self.store.open(self.prefix))

    def kill_servers(self) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.kill()

    def close(self) -> None:
        self.kill_servers()
        self.store.kill()


def routed(client: Client, run_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata of a call about a run, as agents send it."""
    return (*client.metadata, ("x-trajmon-run", run_id))


def open_run(client: Client, run: SyntheticRun) -> ingest_pb2.OpenRunResponse:
    return client.ingest.OpenRun(
        run.open_request(), metadata=routed(client, run.run_id), timeout=TIMEOUT_SECONDS
    )


def push(client: Client, run: SyntheticRun, epoch: int, checkpoint: int) -> ingest_pb2.RowReceipt:
    request = ingest_pb2.PushRowRequest(run_id=run.run_id, writer_epoch=epoch, record=run.record(checkpoint))
    return client.ingest.PushRow(
        request, metadata=routed(client, run.run_id), timeout=TIMEOUT_SECONDS
    ).receipt


def until_served(call: Callable[[], T], seconds: float, pause_seconds: float = 0.1) -> T:
    """What the call returns once it is no more refused as UNAVAILABLE."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(pause_seconds)
