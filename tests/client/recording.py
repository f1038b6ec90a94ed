"""A real ingest server in this process, runs on disk, agents: what the tests of the client share."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from trajmon.numerics.layout import Group, Layer, Layout
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import Row, decode, read_digest
from trajmon_protos.v1 import ingest_pb2, ingest_pb2_grpc, types_pb2

TOKEN = "a token of the tests"


@dataclass
class StoredRun:
    """One run as the server has it."""

    request: ingest_pb2.OpenRunRequest
    epoch: int = 0
    records: dict[int, bytes] = field(default_factory=dict)
    reports: list[ingest_pb2.ReportStatusRequest] = field(default_factory=list)
    duplicates: int = 0

    @property
    def next_checkpoint(self) -> int:
        return len(self.records)

    @property
    def rows(self) -> list[Row]:
        return [decode(self.records[number]) for number in sorted(self.records)]


class IngestServer(ingest_pb2_grpc.IngestServiceServicer):
    """IngestService with its storage in memory. Refuses what the contract refuses, and fails on demand."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.port = free_port()
        self.token: str | None = TOKEN
        self.calls: list[str] = []
        self.refusal: tuple[grpc.StatusCode, str, str] | None = None
        """Answer to every PushRow: status, text, machine-readable reason."""
        self.unavailable = 0
        """So many further calls are answered UNAVAILABLE."""
        self.lose_answers = 0
        """So many further rows are stored, and the acknowledgement is lost."""
        self.advice: types_pb2.AdviceState.ValueType = types_pb2.ADVICE_STATE_EXPLORE
        """What every report is answered with."""
        self._running = threading.Event()
        self._running.set()
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(self.address) == self.port
        self._server.start()

    def stop(self) -> None:
        self._running.set()
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def hang(self) -> None:
        """Accept calls and never answer them."""
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def fence(self) -> None:
        """As if another agent had opened every run."""
        with self._lock:
            for run in self.runs.values():
                run.epoch += 1

    def run(self, name: str) -> StoredRun:
        found = [run for run in self.runs.values() if run.request.name == name]
        assert len(found) == 1, f"{len(found)} runs are named {name}"
        return found[0]

    def OpenRun(
        self, request: ingest_pb2.OpenRunRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.OpenRunResponse:
        self._enter("OpenRun", context)
        with self._lock:
            run = self.runs.setdefault(request.run_id, StoredRun(request))
            if run.request.layout.fingerprint != request.layout.fingerprint:
                refuse(context, grpc.StatusCode.ALREADY_EXISTS, "the run has another layout", "OTHER_LAYOUT")
            run.request.attempt = max(run.request.attempt, request.attempt)
            run.epoch += 1
            return ingest_pb2.OpenRunResponse(
                writer_epoch=run.epoch, next_checkpoint=run.next_checkpoint, max_record_bytes=64 << 20
            )

    def PushRow(
        self, request: ingest_pb2.PushRowRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.PushRowResponse:
        self._enter("PushRow", context)
        receipt = self._store(request.run_id, request.writer_epoch, request.record, context)
        return ingest_pb2.PushRowResponse(receipt=receipt)

    def PushRowStream(
        self, request_iterator: Iterator[ingest_pb2.PushRowStreamRequest], context: grpc.ServicerContext
    ) -> ingest_pb2.PushRowStreamResponse:
        self._enter("PushRowStream", context)
        header = next(request_iterator).header
        record = b"".join(message.data for message in request_iterator)
        assert len(record) == header.record_bytes
        receipt = self._store(header.run_id, header.writer_epoch, record, context)
        return ingest_pb2.PushRowStreamResponse(receipt=receipt)

    def ReportStatus(
        self, request: ingest_pb2.ReportStatusRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.ReportStatusResponse:
        self._enter("ReportStatus", context)
        with self._lock:
            run = self._find(request.run_id, request.writer_epoch, context)
            run.reports.append(request)
            checkpoints = run.next_checkpoint
            advice = types_pb2.Advice(
                state=self.advice,
                checkpoint=max(0, checkpoints - 1),
                evidence={"rows": float(checkpoints)},
                reason="the test server always explores",
                policy="test/1",
            )
            hallmarks = [types_pb2.GroupHallmarks(group="network", values={"mds": 1.0 / (1 + checkpoints)})]
            return ingest_pb2.ReportStatusResponse(
                advice=advice, hallmarks=hallmarks, checkpoint=checkpoints - 1 if checkpoints else None
            )

    def _enter(self, call: str, context: grpc.ServicerContext) -> None:
        self.calls.append(call)
        self._running.wait()
        if self.token is not None:
            sent = dict(context.invocation_metadata()).get("authorization")
            if sent != f"Bearer {self.token}":
                refuse(context, grpc.StatusCode.UNAUTHENTICATED, "token is missing or wrong", "BAD_TOKEN")
        with self._lock:
            if self.unavailable:
                self.unavailable -= 1
                refuse(context, grpc.StatusCode.UNAVAILABLE, "try later", "")

    def _find(self, run_id: str, epoch: int, context: grpc.ServicerContext) -> StoredRun:
        run = self.runs.get(run_id)
        if run is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such run", "NO_SUCH_RUN")
        if run.epoch != epoch:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"writer epoch {epoch} is over", "FENCED")
        return run

    def _store(
        self, run_id: str, epoch: int, record: bytes, context: grpc.ServicerContext
    ) -> ingest_pb2.RowReceipt:
        with self._lock:
            if self.refusal is not None:
                refuse(context, *self.refusal)
            run = self._find(run_id, epoch, context)
            header = decode(record).header
            number = header.checkpoint
            assert (header.run_id, header.fingerprint) == (run_id, run.request.layout.fingerprint)
            assert 1 <= header.attempt <= run.request.attempt
            stored = run.records.get(number)
            if stored is None and number != run.next_checkpoint:
                refuse(
                    context,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"checkpoint {number} came, {run.next_checkpoint} is expected",
                    "GAP",
                )
            if stored is not None and stored != record:
                refuse(
                    context,
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"checkpoint {number} is stored otherwise",
                    "ROW_CONFLICT",
                )
            run.duplicates += stored is not None
            run.records[number] = record
            if self.lose_answers:
                self.lose_answers -= 1
                refuse(context, grpc.StatusCode.INTERNAL, "the answer is lost", "")
            return ingest_pb2.RowReceipt(
                checkpoint=number,
                digest=read_digest(record),
                duplicate=stored is not None,
                next_checkpoint=run.next_checkpoint,
            )


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, text: str, reason: str) -> NoReturn:
    """Abort with the rich error that the contract asks for."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=text)
    if reason:
        info = any_pb2.Any()
        info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="trajmon"))
        status.details.append(info)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returns to nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def names(folder: Path) -> list[str]:
    """What is in a folder, sorted."""
    return sorted(file.name for file in folder.iterdir())


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Wait for something that another process does; fails with its name after a generous time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "conv.weight": ((64, 33), "float32"),
    "norm.weight": ((7,), "float32"),
    "head.weight": ((10, 101), "float64"),
}


@dataclass(frozen=True)
class RecordedRun:
    """A run on disk as a training would have left it, with the parameters that went into it."""

    run_dir: RunDir
    description: RunDescription
    store: SnapshotStore
    parameters: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def add(self, step: int, previous: int | None, attempt: int = 1) -> int:
        """Record one more checkpoint with random parameters; returns its number."""
        number = len(self.parameters)
        random = np.random.default_rng(number)
        values = {name: random.normal(size=shape).astype(dtype) for name, (shape, dtype) in SHAPES.items()}
        self.parameters.append(values)
        header = SnapshotHeader(
            number, attempt, step, self.description.layout.fingerprint, previous, time_unix_seconds=1e9 + step
        )
        self.store.write(number, header, snapshot_of(self.description.layout, values), durable=False)
        return number

    def expected_gram(self, rows: int) -> NDArray[np.float64]:
        """[layers, rows, rows], computed in float64 from the parameters."""
        stacked = [
            np.stack([values[name].astype(np.float64).ravel() for values in self.parameters[:rows]])
            for name in SHAPES
        ]
        return np.stack([a @ a.T for a in stacked])


def snapshot_of(layout: Layout, values: dict[str, NDArray[Any]]) -> memoryview:
    """Parameters laid out as a snapshot's data."""
    data = np.zeros(layout.nbytes, dtype=np.uint8)
    for layer, start in zip(layout.layers, layout.offsets_bytes, strict=True):
        raw = values[layer.name].tobytes()
        data[start : start + len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    return data.data


def make_layout() -> Layout:
    layers = [Layer(name, shape, dtype) for name, (shape, dtype) in SHAPES.items()]  # type: ignore[arg-type] # a table of literals
    return Layout(tuple(layers), (Group("network", (0, 1, 2)), Group("norm", (1,))))


def record_run(home: Path, address: str | None, checkpoints: int, name: str = "run") -> RecordedRun:
    """A run of one attempt whose training has ended, with a checkpoint each ten steps."""
    run_dir = RunDir.of(home, name)
    run_dir.create()
    description = RunDescription(name.encode().hex().rjust(32, "0")[-32:], name, ("tag",), make_layout(), 1e9)
    description.write(run_dir)
    RecorderNote(attempt=1, state="finished", server=address, threads=2).write(run_dir)
    layout = description.layout
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="training")
    recorded = RecordedRun(run_dir, description, store)
    for number in range(checkpoints):
        recorded.add(step=10 * number, previous=number - 1 if number else None)
    return recorded


def run_agent(run_dir: RunDir, timeout_seconds: float = 60.0) -> int:
    """A whole agent process, from start to end; its exit status."""
    command = [sys.executable, "-P", "-m", "trajmon.agent", str(run_dir.path)]
    return subprocess.run(
        command, check=False, timeout=timeout_seconds, capture_output=True, cwd=run_dir.path
    ).returncode


def start_agent(run_dir: RunDir) -> subprocess.Popen[bytes]:
    """An agent process that goes on; whoever starts it ends it."""
    with run_dir.agent_log.open("ab") as log:
        command = [sys.executable, "-P", "-m", "trajmon.agent", str(run_dir.path)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def assert_rows_equal(stored: StoredRun, recorded: RecordedRun) -> None:
    """Every row is there once, and right."""
    rows = stored.rows
    gram = recorded.expected_gram(len(rows))
    norms = np.sqrt(np.einsum("lii->li", gram))
    for number, row in enumerate(rows):
        assert row.header.checkpoint == number
        scale = norms[:, number, None] * norms[:, : number + 1]
        assert (np.abs(row.gram - gram[:, number, : number + 1]) <= 1e-13 * scale).all()
