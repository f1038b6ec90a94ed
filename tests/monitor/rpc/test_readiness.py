"""What the health service says while the journal is read, and once it is broken."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from trajmon_server.rpc.readiness import Readiness

Status = health_pb2.HealthCheckResponse


def test_a_broken_journal_is_said_and_queries_still_serve() -> None:
    broken = [False]
    service = Readiness(lambda: broken[0])
    assert service.problem() == "the journal is being read"

    async def status_of(health: health_aio.HealthServicer, name: str) -> int:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), None)
        status: int = answer.status
        return status

    async def scenario() -> None:
        health = health_aio.HealthServicer()
        for name in ("", "ingest", "query"):
            await health.set(name, Status.SERVING)
        with service.watched(health, ("", "ingest")):
            assert service.problem() == ""
            broken[0] = True
            while await status_of(health, "") == Status.SERVING:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            assert await status_of(health, "ingest") == Status.NOT_SERVING
            assert await status_of(health, "query") == Status.SERVING

    asyncio.run(scenario())
    assert service.problem() == "the disk refused a write: check it, then start the server again"
