"""Calls to the server, and what their failures mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from trajmon._address import parse_server
from trajmon._channel import open_channel
from trajmon._handshake import explain_failure
from trajmon.errors import ServerAddressError
from trajmon.rundir import RunDescription
from trajmon_protos.v1 import ingest_pb2, ingest_pb2_grpc, types_pb2

__all__ = [
    "CHANGES_HANDS",
    "CannotConnectError",
    "Connection",
    "Failure",
    "Opened",
    "classify",
    "printable",
    "writer_of",
]

NOT_HERE: Final = "NOT_HERE"
"""Reason of a server that does not write the run: another does. Nothing was done."""
CHANGES_HANDS: Final = (NOT_HERE, "LEASE_LOST")
"""Reasons after which some server will write the run in a moment."""
STREAM_FROM_BYTES = 900 << 10
"""Larger records go in pieces: a message may have 1 MiB."""
_PIECE_BYTES = 256 << 10
_CLIENT_VERSION = "0.1.0"

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "trajmon_protos.v1.IngestService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A request that does not fit into this buffer is silently never retried; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", 2 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Servers answer more frequent pings by hanging up.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", 1 << 20),
)

RUN_KEY = "x-trajmon-run"
"""Metadata of every call: the run's id."""

_Reply = TypeVar("_Reply")
FailureKind = Literal["again", "later", "reopen", "refused"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that was not served, and what follows from it."""

    kind: FailureKind
    """Try again soon; after somebody mended something; after opening the run anew; never."""
    text: str
    """In the server's words, without control characters."""
    reason: str = ""
    """Machine-readable, where the server gave it."""
    retry_seconds: float | None = None
    """When the server asked to try again."""
    uncertain: bool = False
    """The server may have done what was asked, or may still do it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that the server takes rows for."""

    attempt: int
    writer_epoch: int
    next_checkpoint: int
    """First checkpoint that the server has not acknowledged."""
    max_record_bytes: int
    takes_sketches: bool = False


class CannotConnectError(grpc.RpcError):
    """No call gets through until somebody mends the address, the TLS files or the server's TLS; the text says what."""


class Connection:
    """One channel to one server. Connects at the first call; every call has a deadline.

    Every call names its run in the metadata too, so that a proxy in front can send it where the run is.
    """

    def __init__(self, address: str, token: str | None, call_seconds: float) -> None:
        """Raises CannotConnectError."""
        self.address = address
        self.token = token
        self._seconds = call_seconds
        try:
            self._server = parse_server(address)
            self._channel = open_channel(self._server, token, _OPTIONS)
        except ServerAddressError as error:
            raise CannotConnectError(str(error)) from error
        self._stub = ingest_pb2_grpc.IngestServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def open_run(self, run: RunDescription, attempt: int) -> Opened:
        """Register the run or continue it. Raises grpc.RpcError, as all calls here."""
        layout = run.layout
        request = ingest_pb2.OpenRunRequest(
            run_id=run.run_id,
            name=run.name,
            tags=run.tags,
            attempt=attempt,
            layout=types_pb2.Layout(
                layers=[types_pb2.Layer(name=a.name, shape=a.shape, dtype=a.dtype) for a in layout.layers],
                groups=[types_pb2.Group(name=a.name, layers=a.layers) for a in layout.groups],
                fingerprint=layout.fingerprint,
            ),
            client_version=_CLIENT_VERSION,
        )
        if run.shard is not None:
            request.part, request.num_parts = run.shard.part, run.shard.num_parts
            request.writer, request.first_checkpoint = run.shard.writer, run.shard.first_checkpoint
        reply = self._call(self._stub.OpenRun, request, run.run_id)
        return Opened(
            attempt,
            reply.writer_epoch,
            reply.next_checkpoint,
            reply.max_record_bytes,
            reply.takes_sketches,
        )

    def push(self, run: RunDescription, writer_epoch: int, record: bytes) -> ingest_pb2.RowReceipt:
        """Hand in a row, or this writer's part of it; once this returns, it is durable on the server."""
        run_id, writer = run.run_id, writer_of(run)
        if len(record) < STREAM_FROM_BYTES:
            request = ingest_pb2.PushRowRequest(
                run_id=run_id, writer_epoch=writer_epoch, record=record, writer=writer
            )
            return self._call(self._stub.PushRow, request, run_id).receipt
        header = ingest_pb2.PushRowStreamRequest.Header(
            run_id=run_id, writer_epoch=writer_epoch, record_bytes=len(record), writer=writer
        )
        pieces = _pieces(header, record)
        return self._call(self._stub.PushRowStream, pieces, run_id).receipt

    def report(self, request: ingest_pb2.ReportStatusRequest) -> ingest_pb2.ReportStatusResponse:
        """Tell how the agent does, hear the latest advice."""
        return self._call(self._stub.ReportStatus, request, request.run_id)

    def _call(self, method: Callable[..., _Reply], request: object, run_id: str) -> _Reply:
        try:
            metadata = (*self._metadata, (RUN_KEY, run_id))
            return method(request, timeout=self._seconds, metadata=metadata)
        except grpc.RpcError as error:
            problem = explain_failure(self._server, error)
            if problem:
                raise CannotConnectError(problem) from error
            raise

    def close(self) -> None:
        """Give the channel up; a call that is under way in another thread ends."""
        self._channel.close()


def writer_of(run: RunDescription) -> str:
    """Who hands in the rows of this folder; empty for whole rows."""
    return "" if run.shard is None else run.shard.writer


def _pieces(
    header: ingest_pb2.PushRowStreamRequest.Header, record: bytes
) -> Iterator[ingest_pb2.PushRowStreamRequest]:
    yield ingest_pb2.PushRowStreamRequest(header=header)
    for start in range(0, len(record), _PIECE_BYTES):
        yield ingest_pb2.PushRowStreamRequest(data=record[start : start + _PIECE_BYTES])


def classify(error: grpc.RpcError) -> Failure:
    """What a failed call means for the sender."""
    if isinstance(error, CannotConnectError):
        # An earlier call over a connection that has ended since may have been heard.
        return Failure("later", printable(str(error)), uncertain=True)
    code, text = error.code(), printable(error.details() or "")
    reason, retry_seconds = _details(error)
    text = f"{code.name}: {text}"
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind: FailureKind = "later" if reason and retry_seconds is None else "again"
        return Failure(kind, text, reason, retry_seconds)
    if code in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    ):
        return Failure("later", text, reason, retry_seconds)
    if code == grpc.StatusCode.NOT_FOUND or reason in ("GAP", "FENCED"):
        return Failure("reopen", text, reason, retry_seconds)
    if code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    ):
        return Failure("refused", text, reason)
    return Failure("again", text, reason, retry_seconds, uncertain=reason != NOT_HERE)


def _details(error: grpc.RpcError) -> tuple[str, float | None]:
    """Reason and retry delay out of the rich error, where there is one."""
    reason, retry_seconds = "", None
    try:
        status = rpc_status.from_call(error)
    except (ValueError, AttributeError):
        # Not a rich error, or one that contradicts its status: the status stands.
        status = None
    for detail in [] if status is None else status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = printable(info.reason)
        elif detail.Unpack(retry):
            retry_seconds = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    return reason, retry_seconds


def printable(text: str) -> str:
    """A text from outside for logs and terminals: at most 500 characters, none of them a control character.

    >>> printable("a\\x1b[31mb")
    'a?[31mb'
    """
    return "".join(a if a.isprintable() else "?" for a in text[:500])
