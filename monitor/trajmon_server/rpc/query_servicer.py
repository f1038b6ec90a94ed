"""QueryService: messages to and from the query core."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from numpy.typing import NDArray

from trajmon_protos.v1 import query_pb2, query_pb2_grpc, types_pb2
from trajmon_server.config import Limits
from trajmon_server.errors import Exhausted, InvalidRequest, Violation
from trajmon_server.hallmarks.stream import estimated_entries
from trajmon_server.ingest.quota import ByteBudget
from trajmon_server.query.core import Kernel, MapQuery, Query
from trajmon_server.query.cross import SIDE_CHECKPOINTS as CROSS_CHECKPOINTS
from trajmon_server.query.cross import CrossQuery
from trajmon_server.query.overview import group_outlooks
from trajmon_server.rpc.gate import caller
from trajmon_server.rpc.messages import array_chunks, hallmark_messages, outlook_messages, run_summary
from trajmon_server.runs.run import Run

__all__ = ["QueryServicer"]

MAX_PAGE = 1000
LAST_CHECKPOINTS = 1000
FIRST_OPEN = 100
WATCH_INTERVAL_SECONDS = 0.25
"""At most one message in so long: a watcher must not multiply a fast run."""

MAPS_AT_ONCE = 4
"""So many of the largest maps may be on their way; more smaller ones."""

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_KERNELS: dict[int, Kernel] = {
    query_pb2.KERNEL_UNSPECIFIED: "linear",
    query_pb2.KERNEL_LINEAR: "linear",
    query_pb2.KERNEL_RBF: "rbf",
    query_pb2.KERNEL_POLYNOMIAL: "polynomial",
}


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """What readers call."""

    def __init__(self, query: Query, cross: CrossQuery, limits: Limits) -> None:
        self._query = query
        self._cross = cross
        self._watchers = 0
        # Watching calls last for days: they must never take all the places of the server.
        self._max_watchers = limits.max_concurrent_rpcs // 2
        self._limits = limits
        self._budget = ByteBudget(MAPS_AT_ONCE * _map_bytes(limits.max_map_checkpoints), "maps")

    async def ListRuns(
        self, request: query_pb2.ListRunsRequest, context: Context
    ) -> query_pb2.ListRunsResponse:
        """A page of runs, newest first."""
        size = min(request.page_size or 100, MAX_PAGE)
        runs = self._query.runs(caller(), request.name_contains)
        start = _decode_page_token(request.page_token)
        page = runs[start : start + size]
        more = start + size < len(runs)
        return query_pb2.ListRunsResponse(
            runs=[run_summary(run) for run in page],
            next_page_token=_encode_page_token(start + size) if more else "",
        )

    async def GetRun(self, request: query_pb2.GetRunRequest, context: Context) -> query_pb2.GetRunResponse:
        """Everything about one run but its maps."""
        run = self._query.require(request.run, caller())
        return query_pb2.GetRunResponse(
            summary=run_summary(run),
            layout=run.description.layout_message(),
            hallmarks=hallmark_messages(run.shown.hallmarks, run.shown.errors),
            findings=[
                types_pb2.IntegrityFinding(kind=a.kind, checkpoint=a.checkpoint, text=a.text)
                for a in run.all_findings()
            ],
            agent=run.agent.to_message(),
            checkpoints=_checkpoint_details(run),
            open=_open_checkpoints(run),
            outlooks=outlook_messages(group_outlooks(run.shown.settling)),
        )

    async def GetMap(
        self, request: query_pb2.GetMapRequest, context: Context
    ) -> AsyncIterator[query_pb2.GetMapResponse]:
        """One map in pieces."""
        if request.kernel not in _KERNELS:
            raise InvalidRequest.from_violations(
                [Violation("kernel", f"{request.kernel} is not a known kernel")]
            )
        query = MapQuery(
            scope=request.scope,
            relative_to=request.relative_to if request.HasField("relative_to") else None,
            kernel=_KERNELS[request.kernel],
            start=request.start if request.HasField("start") else None,
            stop=request.stop if request.HasField("stop") else None,
            include_superseded=request.include_superseded,
        )
        run = self._query.require(request.run, caller())
        count = min(run.num_checkpoints, self._limits.max_map_checkpoints)
        with self._budget.reserve(_map_bytes(count, has_sketches=run.sketches.spec is not None)):
            answer = await self._query.map(request.run, query, caller())
            arrays: dict[str, NDArray[Any]] = {
                "map": answer.map,
                "gram": answer.gram,
                "checkpoint": answer.checkpoint,
                "step": answer.step,
                "mode": answer.mode,
            }
            if answer.error is not None and answer.gram_error is not None:
                arrays |= {"error": answer.error, "gram_error": answer.gram_error}
            for name, array in arrays.items():
                for chunk in array_chunks(name, array):
                    yield query_pb2.GetMapResponse(chunk=chunk)

    async def GetCrossMap(
        self, request: query_pb2.GetCrossMapRequest, context: Context
    ) -> AsyncIterator[query_pb2.GetCrossMapResponse]:
        """A map across two runs in pieces."""
        with self._budget.reserve(_map_bytes(CROSS_CHECKPOINTS)):
            answer = await self._cross.map(
                request.run,
                request.other,
                request.scope,
                caller(),
                from_initialization=request.from_initialization,
            )
            for name, array in answer.arrays().items():
                for chunk in array_chunks(name, array):
                    yield query_pb2.GetCrossMapResponse(chunk=chunk)

    async def GetHallmarks(
        self, request: query_pb2.GetHallmarksRequest, context: Context
    ) -> AsyncIterator[query_pb2.GetHallmarksResponse]:
        """Every hallmark over the checkpoints."""
        arrays = await self._query.hallmarks(request.run, request.scope, caller())
        for name, array in arrays.items():
            for chunk in array_chunks(name, array):
                yield query_pb2.GetHallmarksResponse(chunk=chunk)

    async def WatchRun(
        self, request: query_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[query_pb2.WatchRunResponse]:
        """The run's state now and after each change."""
        run = self._query.require(request.run, caller())
        if self._watchers >= self._max_watchers:
            raise Exhausted(
                "TOO_MANY_WATCHERS",
                f"{self._watchers} calls watch runs, this server has room for {self._max_watchers} "
                "(half of limits.max_concurrent_rpcs); ask with GetRun, or try again",
                retry_seconds=30.0,
            )
        self._watchers += 1
        try:
            async for response in _states(run):
                yield response
        finally:
            self._watchers -= 1


async def _states(run: Run) -> AsyncIterator[query_pb2.WatchRunResponse]:
    while True:
        changed = run.next_change()
        yield query_pb2.WatchRunResponse(
            summary=run_summary(run),
            hallmarks=hallmark_messages(run.shown.hallmarks, run.shown.errors),
        )
        if not run.is_active and run.analysed >= run.num_checkpoints:
            return
        await changed.wait()
        await asyncio.sleep(WATCH_INTERVAL_SECONDS)


def _map_bytes(count: int, has_sketches: bool = False) -> int:
    """What an answer with `count` checkpoints holds, at most: map, Gram and one more such array meanwhile.

    With sketches also the standard errors of both, the Gram of the sketches, and what these are worked out with.
    """
    return (8 if has_sketches else 3) * 8 * count * count


def _checkpoint_details(run: Run) -> list[query_pb2.CheckpointDetail]:
    on_path = set(run.path)
    names = [layer.name for layer in run.description.layers]
    analysis = run.analysis
    # Of the network; rows that were superseded are not part of any hallmark.
    estimated = dict(zip(analysis.path, estimated_entries(analysis.streams[0]).tolist(), strict=True))
    return [
        query_pb2.CheckpointDetail(
            checkpoint=number,
            attempt=meta.attempt,
            superseded=number not in on_path,
            info=meta.info_message(),
            non_finite_layers=[names[index] for index in meta.non_finite_layers[:100]],
            estimated=estimated.get(number, 0),
        )
        for number, meta in sorted(run.metas.items())[-LAST_CHECKPOINTS:]
    ]


def _open_checkpoints(run: Run) -> list[query_pb2.OpenCheckpoint]:
    return [
        query_pb2.OpenCheckpoint(
            checkpoint=number,
            attempt=known.attempt,
            num_parts=known.num_parts,
            missing_parts=known.missing(),
        )
        for number, known in sorted(run.open.items())[:FIRST_OPEN]
    ]


def _encode_page_token(start: int) -> str:
    return base64.urlsafe_b64encode(f"v1:{start}".encode()).decode()


def _decode_page_token(token: str) -> int:
    if not token:
        return 0
    try:
        version, _, start = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if version != "v1" or not start.isascii() or not start.isdecimal():
            raise ValueError(token)
        return int(start)
    except ValueError as error:
        raise InvalidRequest.from_violations(
            [Violation("page_token", f"{token[:40]!r} is not a token that this server gave")]
        ) from error
