"""Reading from a monitor server: runs, maps, hallmarks. What can go wrong: :mod:`trajmon._query_errors`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from trajmon._address import parse_server
from trajmon._channel import open_channel
from trajmon._handshake import explain_failure
from trajmon._query_errors import (
    AddressError,
    BrokenReplyError,
    InvalidRequestError,
    NotAuthorisedError,
    NotFoundError,
    QueryError,
    ServerFailedError,
    UnreachableError,
    UntrustedError,
    translate,
)
from trajmon.cross.result import CrossResult, result_of
from trajmon.errors import ServerAddressError
from trajmon_protos.v1 import query_pb2, query_pb2_grpc, types_pb2

__all__ = [
    "KERNELS",
    "AddressError",
    "BrokenReplyError",
    "InvalidRequestError",
    "Kernel",
    "MapResult",
    "NotAuthorisedError",
    "NotFoundError",
    "QueryClient",
    "QueryError",
    "ServerFailedError",
    "UnreachableError",
    "UntrustedError",
    "assemble",
]

Kernel = Literal["linear", "rbf", "polynomial"]
KERNELS: dict[Kernel, query_pb2.Kernel.ValueType] = {
    "linear": query_pb2.KERNEL_LINEAR,
    "rbf": query_pb2.KERNEL_RBF,
    "polynomial": query_pb2.KERNEL_POLYNOMIAL,
}

_CALL_SECONDS = 15.0
_ARRAYS_SECONDS = 120.0
_WATCH_SECONDS = 300.0
# Messages are at most 1 MiB by contract; some room for what stands around the data.
_MESSAGE_BYTES = 4 << 20
_MAX_REPLY_BYTES = 2 << 30
_MAX_ARRAYS = 256
_MAX_RUNS = 100_000
_DTYPES = ("<f8", "<f4", "<i8", "|u1")
_ERRORS = ("error", "gram_error")


@dataclass(frozen=True, slots=True)
class MapResult:
    """One trajectory map with the Gram that it was made of."""

    map: NDArray[np.float64]
    """[T, T], NaN where undefined."""
    gram: NDArray[np.float64]
    """[T, T], estimates filled in; NaN where missing."""
    checkpoint: NDArray[np.int64]
    """[T], numbers of the checkpoints, ascending."""
    step: NDArray[np.int64]
    """[T], training steps of the checkpoints."""
    mode: NDArray[np.uint8]
    """[T], 1 where only the scalars of normalisation layers were trained, 0 where everything was."""
    scope: str
    """`network`, `group:NAME` or `layer:NAME`."""
    relative_to: int | None = None
    """Checkpoint that the cosines are taken about; None: the origin."""
    kernel: Kernel = "linear"
    """What took the place of the inner product."""
    error: NDArray[np.float64] | None = None
    """[T, T], standard errors of `map`, 0 where exact, NaN where undefined. None: the Gram holds no estimate."""
    gram_error: NDArray[np.float64] | None = None
    """[T, T], standard errors of `gram`, 0 where exact. None: it holds no estimate."""

    @property
    def estimated_checkpoints(self) -> int:
        """How many checkpoints have an inner product with an earlier one that is an estimate."""
        if self.gram_error is None:
            return 0
        return int((np.tril(self.gram_error) > 0).any(axis=1).sum())


ArrayReply = query_pb2.GetMapResponse | query_pb2.GetHallmarksResponse | query_pb2.GetCrossMapResponse


def assemble(
    messages: Iterable[ArrayReply], max_bytes: int = _MAX_REPLY_BYTES
) -> dict[str, NDArray[np.generic]]:
    """Put the pieces of an array stream together: name -> array in its own dtype and shape.

    The pieces of one array come in order; arrays may alternate. Memory is bounded by `max_bytes` whatever is
    announced. Raises BrokenReplyError.
    """
    parts: dict[str, _Part] = {}
    budget = max_bytes
    for message in messages:
        chunk = message.chunk
        part = parts.get(chunk.name)
        if part is None:
            if len(parts) == _MAX_ARRAYS:
                raise BrokenReplyError(f"server sent more than {_MAX_ARRAYS} arrays in one reply")
            part = _start(chunk, budget)
            parts[chunk.name] = part
            budget -= part.data.nbytes
        elif chunk.dtype != part.dtype or tuple(chunk.shape) != part.shape:
            raise BrokenReplyError(
                f"server changed dtype or shape of array {_name(chunk)} between its pieces"
            )
        end = part.filled + len(chunk.data)
        if chunk.offset_bytes != part.filled or end > part.data.nbytes:
            raise BrokenReplyError(
                f"server sent array {_name(chunk)} out of order: {len(chunk.data)} bytes at "
                f"{chunk.offset_bytes}, with {part.filled} of {part.data.nbytes} there"
            )
        part.data[part.filled : end] = np.frombuffer(chunk.data, dtype=np.uint8)
        part.filled = end
    for name, part in parts.items():
        if part.filled != part.data.nbytes:
            raise BrokenReplyError(
                f"server sent {part.filled} of {part.data.nbytes} bytes of array {name[:80]!r}, then ended"
            )
    return {name: part.data.view(np.dtype(part.dtype)).reshape(part.shape) for name, part in parts.items()}


@dataclass(slots=True)
class _Part:
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    filled: int = 0


def _start(chunk: types_pb2.ArrayChunk, budget: int) -> _Part:
    shape = tuple(chunk.shape)
    if chunk.dtype not in _DTYPES:
        raise BrokenReplyError(f"server sent array {_name(chunk)} with unknown dtype {chunk.dtype[:20]!r}")
    if not 1 <= len(shape) <= 3:
        raise BrokenReplyError(f"server sent array {_name(chunk)} with {len(shape)} dimensions, not 1 to 3")
    nbytes = math.prod(shape) * np.dtype(chunk.dtype).itemsize
    if nbytes > budget:
        raise BrokenReplyError(
            f"server announced {nbytes} bytes for array {_name(chunk)}, more than the {budget} left for "
            "this reply; ask for a smaller range of checkpoints"
        )
    # Untouched pages cost nothing: a server that announces much and sends little takes no memory.
    return _Part(chunk.dtype, shape, np.empty(nbytes, dtype=np.uint8))


def _name(chunk: types_pb2.ArrayChunk) -> str:
    return repr(chunk.name[:80])


def _modes(arrays: dict[str, NDArray[np.generic]], count: int) -> NDArray[np.uint8]:
    """The array `mode`, put in as zeros, [count], where an older server sends none."""
    mode = arrays.setdefault("mode", np.zeros(count, dtype=np.uint8))
    if mode.dtype != np.uint8:
        raise BrokenReplyError(f"server sent array mode with dtype {mode.dtype.str}, not |u1")
    return mode.astype(np.uint8, copy=False)


class QueryClient:
    """Reads from one server. Blocking, for one thread; every call has a deadline. A context manager."""

    def __init__(self, address: str, token: str | None) -> None:
        """`address` is ``HOST:PORT`` or ``grpcs://HOST:PORT``; `token` None sends none. Connects at the first call.

        Raises AddressError.
        """
        self.address = address
        options = (("grpc.max_receive_message_length", _MESSAGE_BYTES),)
        try:
            self._server = parse_server(address)
            self._channel = open_channel(self._server, token, options)
        except ServerAddressError as error:
            raise AddressError(str(error)) from error
        self._stub = query_pb2_grpc.QueryServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up; running calls are cancelled."""
        self._channel.close()

    def serving(self) -> bool:
        """What the server's health service says; needs no token."""
        with self._stated(_CALL_SECONDS):
            reply = health_pb2_grpc.HealthStub(self._channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_CALL_SECONDS
            )
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def list_runs(self, name_contains: str = "") -> list[query_pb2.RunSummary]:
        """All runs that the token may see, newest first."""
        runs: list[query_pb2.RunSummary] = []
        page = ""
        while True:
            request = query_pb2.ListRunsRequest(page_size=1000, page_token=page, name_contains=name_contains)
            with self._stated(_CALL_SECONDS):
                reply = self._stub.ListRuns(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            runs.extend(reply.runs)
            if not reply.next_page_token:
                return runs
            if reply.next_page_token == page or not reply.runs or len(runs) > _MAX_RUNS:
                raise BrokenReplyError("server's list of runs does not come to an end")
            page = reply.next_page_token

    def get_run(self, run: str) -> query_pb2.GetRunResponse:
        """Everything about one run (name or id) but its arrays."""
        with self._stated(_CALL_SECONDS):
            return self._stub.GetRun(
                query_pb2.GetRunRequest(run=run), timeout=_CALL_SECONDS, metadata=self._metadata
            )

    def get_map(
        self,
        run: str,
        scope: str = "network",
        relative_to: int | None = None,
        kernel: Kernel = "linear",
        start: int | None = None,
        stop: int | None = None,
        include_superseded: bool = False,
    ) -> MapResult:
        """One trajectory map; `start` inclusive, `stop` exclusive, both checkpoint numbers."""
        request = query_pb2.GetMapRequest(
            run=run,
            scope=scope,
            relative_to=relative_to,
            kernel=KERNELS[kernel],
            start=start,
            stop=stop,
            include_superseded=include_superseded,
        )
        with self._stated(_ARRAYS_SECONDS):
            arrays = assemble(self._stub.GetMap(request, timeout=_ARRAYS_SECONDS, metadata=self._metadata))
        n = arrays["checkpoint"].size if "checkpoint" in arrays else 0
        mode = _modes(arrays, n)
        shapes = {"map": (n, n), "gram": (n, n), "checkpoint": (n,), "step": (n,), "mode": (n,)}
        if not arrays.keys().isdisjoint(_ERRORS):
            shapes |= dict.fromkeys(_ERRORS, (n, n))
        for name, shape in shapes.items():
            if name not in arrays:
                raise BrokenReplyError(f"server's map lacks the array {name}")
            if arrays[name].shape != shape:
                raise BrokenReplyError(
                    f"server sent array {name} with shape {arrays[name].shape} for {n} checkpoints"
                )
        return MapResult(
            map=arrays["map"].astype(np.float64, copy=False),
            gram=arrays["gram"].astype(np.float64, copy=False),
            checkpoint=arrays["checkpoint"].astype(np.int64, copy=False),
            step=arrays["step"].astype(np.int64, copy=False),
            mode=mode,
            scope=scope,
            relative_to=relative_to,
            kernel=kernel,
            **{name: arrays[name].astype(np.float64, copy=False) for name in _ERRORS if name in arrays},
        )

    def get_cross_map(
        self, run: str, other: str, scope: str = "network", *, from_initialization: bool = False
    ) -> CrossResult:
        """A map across two runs that have sketches; about their initializations if `from_initialization`.

        It may hold fewer checkpoints than the runs have: a server leaves some out evenly where there are many.
        """
        request = query_pb2.GetCrossMapRequest(
            run=run, other=other, scope=scope, from_initialization=from_initialization
        )
        with self._stated(_ARRAYS_SECONDS):
            arrays = assemble(
                self._stub.GetCrossMap(request, timeout=_ARRAYS_SECONDS, metadata=self._metadata)
            )
        try:
            return result_of(arrays, run, other, scope, from_initialization)
        except ValueError as error:
            raise BrokenReplyError(f"server's map across two runs cannot be used: {error}") from error

    def get_hallmarks(self, run: str, scope: str = "network") -> dict[str, NDArray[np.generic]]:
        """Every hallmark of a scope: name -> [T], NaN where undefined, with `checkpoint`, `step` and `mode`.

        What rests on estimates has standard errors, 0 where exact, under `error:NAME`.
        """
        request = query_pb2.GetHallmarksRequest(run=run, scope=scope)
        with self._stated(_ARRAYS_SECONDS):
            arrays = assemble(
                self._stub.GetHallmarks(request, timeout=_ARRAYS_SECONDS, metadata=self._metadata)
            )
        if "checkpoint" not in arrays:
            raise BrokenReplyError("server's hallmarks lack the array checkpoint")
        _modes(arrays, arrays["checkpoint"].size)
        if len({array.shape for array in arrays.values()}) > 1 or any(
            array.ndim != 1 for array in arrays.values()
        ):
            raise BrokenReplyError("server sent hallmarks of different lengths")
        return arrays

    def watch_run(self, run: str) -> Iterator[query_pb2.WatchRunResponse]:
        """The run's state now, and again whenever it changes, until the run or the caller ends it."""
        while True:
            heard = False
            call = self._stub.WatchRun(
                query_pb2.WatchRunRequest(run=run), timeout=_WATCH_SECONDS, metadata=self._metadata
            )
            try:
                with self._stated(_WATCH_SECONDS):
                    for reply in call:
                        heard = True
                        yield reply
                return
            except UnreachableError:
                # The deadline of a quiet but living stream: ask again.
                if not heard or call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
            finally:
                call.cancel()

    @contextmanager
    def _stated(self, seconds: float) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            problem = explain_failure(self._server, error)
            if problem:
                raise UntrustedError(problem) from error
            raise translate(error, self.address, seconds) from error
