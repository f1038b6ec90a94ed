"""Calls that many integration tests make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from support.rows import Cut, SyntheticRun
from support.server import Client
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

TIMEOUT_SECONDS = 30.0


def open_run(client: Client, run: SyntheticRun, attempt: int = 1) -> ingest_pb2.OpenRunResponse:
    return client.ingest.OpenRun(run.open_request(attempt), metadata=client.metadata, timeout=TIMEOUT_SECONDS)


def push(
    client: Client, run: SyntheticRun, epoch: int, record: bytes, run_id: str | None = None
) -> ingest_pb2.RowReceipt:
    request = ingest_pb2.PushRowRequest(run_id=run_id or run.run_id, writer_epoch=epoch, record=record)
    return client.ingest.PushRow(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS).receipt


def open_part(
    client: Client, run: SyntheticRun, cut: Cut, part: int, first_checkpoint: int = 0
) -> ingest_pb2.OpenRunResponse:
    request = run.part_request(cut, part, first_checkpoint)
    return client.ingest.OpenRun(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)


def push_part(
    client: Client, run: SyntheticRun, cut: Cut, part: int, epoch: int, record: bytes
) -> ingest_pb2.RowReceipt:
    request = ingest_pb2.PushRowRequest(
        run_id=run.run_id, writer_epoch=epoch, record=record, writer=cut.writer(part)
    )
    return client.ingest.PushRow(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS).receipt


def push_all(client: Client, run: SyntheticRun, stop: int | None = None) -> int:
    """Open the run and push its first rows; returns the writer epoch."""
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(run.num_checkpoints if stop is None else stop):
        push(client, run, epoch, run.record(checkpoint))
    return epoch


def report(client: Client, run: SyntheticRun, epoch: int, phase: ingest_pb2.RunPhase.ValueType) -> None:
    request = ingest_pb2.ReportStatusRequest(run_id=run.run_id, writer_epoch=epoch, phase=phase)
    client.ingest.ReportStatus(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)


def get_map(client: Client, run: str, scope: str = "network", **options: Any) -> dict[str, NDArray[Any]]:
    request = query_pb2.GetMapRequest(run=run, scope=scope, **options)
    stream = client.query.GetMap(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)
    return assemble(answer.chunk for answer in stream)


def get_hallmarks(client: Client, run: str, scope: str = "network") -> dict[str, NDArray[Any]]:
    request = query_pb2.GetHallmarksRequest(run=run, scope=scope)
    stream = client.query.GetHallmarks(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)
    return assemble(answer.chunk for answer in stream)


def get_run(client: Client, run: str) -> query_pb2.GetRunResponse:
    request = query_pb2.GetRunRequest(run=run)
    return client.query.GetRun(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)


def assemble(chunks: Iterator[types_pb2.ArrayChunk]) -> dict[str, NDArray[Any]]:
    data: dict[str, bytearray] = {}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for chunk in chunks:
        assert chunk.offset_bytes == len(data.setdefault(chunk.name, bytearray()))
        data[chunk.name] += chunk.data
        kinds[chunk.name] = (chunk.dtype, tuple(chunk.shape))
    return {
        name: np.frombuffer(bytes(data[name]), dtype=dtype).reshape(shape)
        for name, (dtype, shape) in kinds.items()
    }


def refused(code: grpc.StatusCode, reason: str | None, text: str, call: Callable[[], object]) -> grpc.Call:
    """The call fails so, and says so."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is code, error
    assert text in (error.details() or "")
    if reason is not None:
        status = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain) == (reason, "trajmon")
    return error
