"""The ingest server of these tests, with sketches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from client.recording import IngestServer, refuse  # noqa: TID251 # tests/client, on the path of the tests
from trajmon_protos.record import read_digest
from trajmon_protos.sketch_record import SketchRow, decode_sketch, is_sketch
from trajmon_protos.v1 import ingest_pb2


class SketchServer(IngestServer):
    """Takes sketches of one run, as many ahead of its rows as it is told."""

    def __init__(self, *, takes_sketches: bool = True, most_ahead: int = 4096) -> None:
        super().__init__()
        self.sketches: dict[int, bytes] = {}
        self.order: list[tuple[str, int]] = []
        """What came first, as ("sketch" or "row", checkpoint); the same again is not listed."""
        self._takes_sketches = takes_sketches
        self._most_ahead = most_ahead

    def sketch(self, checkpoint: int) -> SketchRow:
        return decode_sketch(self.sketches[checkpoint])

    def OpenRun(
        self, request: ingest_pb2.OpenRunRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.OpenRunResponse:
        reply = super().OpenRun(request, context)
        reply.takes_sketches = self._takes_sketches
        return reply

    def _store(
        self, run_id: str, epoch: int, record: bytes, context: grpc.ServicerContext
    ) -> ingest_pb2.RowReceipt:
        if not is_sketch(record):
            receipt = super()._store(run_id, epoch, record, context)
            if not receipt.duplicate:
                self.order.append(("row", receipt.checkpoint))
            return receipt
        assert self._takes_sketches, "a sketch came that nobody asked for"
        with self._lock:
            run = self._find(run_id, epoch, context)
            number = decode_sketch(record).checkpoint
            if number - run.next_checkpoint > self._most_ahead:
                refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "far ahead of the rows", "GAP")
            known = self.sketches.setdefault(number, record)
            if known != record:
                refuse(context, grpc.StatusCode.ALREADY_EXISTS, "it is stored otherwise", "ROW_CONFLICT")
            if ("sketch", number) not in self.order:
                self.order.append(("sketch", number))
            return ingest_pb2.RowReceipt(
                checkpoint=number, digest=read_digest(record), next_checkpoint=run.next_checkpoint
            )


@contextmanager
def serving(server: SketchServer) -> Iterator[SketchServer]:
    """Started, and stopped at the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
