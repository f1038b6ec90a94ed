"""Prometheus metrics: the runs' series, those of the server itself, and the port where both are read.

Only active runs and those that ended a short while ago are shown; a run that leaves stops being exported, so that
Prometheus marks its series stale. The number of runs' series is capped; what was left out is counted.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from trajmon_server.config import Address, Limits
from trajmon_server.export.endpoint import Endpoint
from trajmon_server.export.page import RunPage
from trajmon_server.export.server import ServerFacts, ServerMetrics
from trajmon_server.runs.registry import Registry

__all__ = ["Exporter"]


class Exporter:
    """Everything that is exported, on its own port and threads."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        finished_seconds: float,
        data_dir: Path,
        is_journal_healthy: Callable[[], bool],
    ) -> None:
        self._runs = RunPage(registry, limits.max_exported_series, finished_seconds)
        facts = ServerFacts(
            version=version("trajmon"),
            data_dir=data_dir,
            min_free_disk_bytes=limits.min_free_disk_bytes,
            max_run_bytes=limits.max_run_bytes,
        )
        self._server = ServerMetrics(registry, facts, is_journal_healthy)
        self.observe_call = self._server.observe_call
        self.observe_row = self._server.observe_row
        self._endpoint: Endpoint | None = None
        self.port = 0

    def page(self, is_open_metrics: bool) -> list[bytes]:
        """The whole exposition, in pieces. Safe from any thread."""
        make = openmetrics.generate_latest if is_open_metrics else generate_latest
        # Last: in OpenMetrics it ends with the mark of the end.
        return [*self._runs.text(is_open_metrics), make(self._server.registry)]

    def show_certificate(self, expires: Callable[[], float]) -> None:
        """Export when the server's certificate ends, in Unix seconds."""
        self._server.show_certificate(expires)

    def start(self, address: Address, context: ssl.SSLContext | None = None) -> None:
        """Serve ``/metrics`` from threads of its own; raises ConfigError if the port is taken."""
        self._endpoint = Endpoint(address, self.page, context)
        self.port = self._endpoint.port

    def stop(self) -> None:
        """Close the port and end the thread."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
