"""IngestService: messages to and from the ingest core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from trajmon_protos.v1 import ingest_pb2, ingest_pb2_grpc
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, Unavailable, Violation
from trajmon_server.ingest import quota
from trajmon_server.ingest.service import Ingest, Receipt
from trajmon_server.rpc.gate import caller
from trajmon_server.rpc.messages import advice_message, hallmark_messages
from trajmon_server.runs.run import Run

__all__ = ["IngestServicer"]

STREAM_SECONDS = 60.0
"""A record that takes longer to arrive is given up: a stalled sender must not hold its place."""

RECORDS_AT_ONCE = 4
"""So many of the largest records may be under way in pieces; more smaller ones."""

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """What agents call."""

    def __init__(self, ingest: Ingest, limits: Limits) -> None:
        self._ingest = ingest
        self._limits = limits
        self._budget = quota.ByteBudget(RECORDS_AT_ONCE * limits.max_record_bytes, "records")

    async def OpenRun(
        self, request: ingest_pb2.OpenRunRequest, context: Context
    ) -> ingest_pb2.OpenRunResponse:
        """Register a run, or continue one."""
        run = await self._ingest.open_run(request, caller())
        writer = run.control.writer(request.writer)
        assert writer is not None  # it has just opened the run
        return ingest_pb2.OpenRunResponse(
            writer_epoch=writer.epoch,
            next_checkpoint=run.next_for(request.writer),
            max_record_bytes=self._limits.max_record_bytes,
            takes_sketches=True,
        )

    async def PushRow(
        self, request: ingest_pb2.PushRowRequest, context: Context
    ) -> ingest_pb2.PushRowResponse:
        """Take in one row."""
        receipt = await self._ingest.push(
            request.run_id, request.writer_epoch, request.record, caller(), request.writer
        )
        run = self._ingest.require(request.run_id, caller())
        return ingest_pb2.PushRowResponse(receipt=_receipt_message(receipt, run))

    async def PushRowStream(
        self, request_iterator: AsyncIterator[ingest_pb2.PushRowStreamRequest], context: Context
    ) -> ingest_pb2.PushRowStreamResponse:
        """Take in one row in pieces."""
        with contextlib.ExitStack() as held:
            try:
                async with asyncio.timeout(STREAM_SECONDS):
                    header, record = await self._assemble(request_iterator, held)
            except TimeoutError as error:
                raise Unavailable(
                    "STREAM_TOO_SLOW",
                    f"the record did not arrive within {STREAM_SECONDS:.0f} s; send it again",
                    retry_seconds=5.0,
                ) from error
            receipt = await self._ingest.push(
                header.run_id, header.writer_epoch, record, caller(), header.writer
            )
        run = self._ingest.require(header.run_id, caller())
        return ingest_pb2.PushRowStreamResponse(receipt=_receipt_message(receipt, run))

    async def _assemble(
        self, messages: AsyncIterator[ingest_pb2.PushRowStreamRequest], held: contextlib.ExitStack
    ) -> tuple[ingest_pb2.PushRowStreamRequest.Header, bytes]:
        header: ingest_pb2.PushRowStreamRequest.Header | None = None
        record = bytearray()
        async for message in messages:
            part = message.WhichOneof("part")
            if part == "header" and header is None:
                header = message.header
                quota.check_record_size(header.record_bytes, self._limits)
                self._ingest.require(header.run_id, caller())
                held.enter_context(self._budget.reserve(header.record_bytes))
            elif part == "data" and header is not None:
                record += message.data
                if len(record) > header.record_bytes:
                    raise _stream_violation(f"more than the announced {header.record_bytes} bytes came")
            else:
                raise _stream_violation("a header must come first and once, then data")
        if header is None:
            raise _stream_violation("the stream was empty; a header must come first")
        if len(record) != header.record_bytes:
            raise _stream_violation(
                f"stream ended after {len(record)} of {header.record_bytes} bytes; send the record again"
            )
        return header, bytes(record)

    async def ReportStatus(
        self, request: ingest_pb2.ReportStatusRequest, context: Context
    ) -> ingest_pb2.ReportStatusResponse:
        """Hear how the agent does, answer with what is known of the run."""
        run = await self._ingest.report(request, caller())
        return ingest_pb2.ReportStatusResponse(
            advice=advice_message(run.current_advice()),
            hallmarks=hallmark_messages(run.shown.hallmarks, run.shown.errors),
            checkpoint=run.shown.path[-1] if run.shown.path else None,
        )


def _receipt_message(receipt: Receipt, run: Run) -> ingest_pb2.RowReceipt:
    return ingest_pb2.RowReceipt(
        checkpoint=receipt.checkpoint,
        digest=receipt.digest,
        duplicate=receipt.duplicate,
        next_checkpoint=receipt.next_checkpoint,
        advice=advice_message(run.current_advice()),
    )


def _stream_violation(text: str) -> InvalidRequest:
    return InvalidRequest("BAD_STREAM", f"stream: {text}", (Violation("stream", text),))
