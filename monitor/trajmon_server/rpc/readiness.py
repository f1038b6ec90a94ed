"""Whether the server takes rows, said over HTTP and by the gRPC health service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

__all__ = ["Readiness"]

log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.5


class Readiness:
    """Knows whether the journal has been read and takes rows. Used on the event loop."""

    def __init__(self, is_broken: Callable[[], bool]) -> None:
        self._is_broken = is_broken
        self._recovered = False
        self.further: Callable[[], str] = lambda: ""
        """Any other reason; empty for none."""

    def problem(self) -> str:
        """Why no rows are taken; empty if they are."""
        if self._is_broken():
            return "the disk refused a write: check it, then start the server again"
        return self.further() if self._recovered else "the journal is being read"

    @contextlib.contextmanager
    def watched(self, health: health_aio.HealthServicer, services: Sequence[str]) -> Iterator[None]:
        """From here rows are taken; once the journal breaks, `services` are told as not serving."""
        self._recovered = True
        task = asyncio.get_running_loop().create_task(self._watch(health, services))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, health: health_aio.HealthServicer, services: Sequence[str]) -> None:
        while not self._is_broken():
            await asyncio.sleep(WATCH_SECONDS)
        log.error("journal is broken: no rows are taken", problem=self.problem())
        for service in services:
            await health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
