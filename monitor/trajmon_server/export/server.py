"""What is exported of the server itself: calls, rows, events, disk, limits, the process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from trajmon_server.runs.registry import Registry

__all__ = ["EVENTS", "ServerFacts", "ServerMetrics"]

EVENTS = (
    "analysis_failed",
    "conflicting_rows",
    "damaged_rows",
    "early_failed",
    "following_failed",
    "lease_lost",
    "lease_not_renewed",
    "lease_released",
    "lease_taken",
    "rebuilt_controls",
    "refused_broken",
    "refused_disk_full",
    "refused_read_only",
    "refused_unavailable",
    "sums_not_stored",
    "unreadable_answers",
    "unreadable_runs",
    "unsettled_rows",
)
"""Shown from 0 on: the first of a kind is a rise, too."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change while the server runs."""

    version: str
    data_dir: Path
    min_free_disk_bytes: int
    max_run_bytes: int


class _ServerState(Collector):
    """Read at each scrape; what cannot be read is absent."""

    def __init__(self, registry: Registry, facts: ServerFacts) -> None:
        self._registry = registry
        self._facts = facts

    def describe(self) -> list[Metric]:
        """Nothing: collecting at registration would ask the disk."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Facts, runs by state, events, disk and limits."""
        facts, counts = self._facts, self._registry.event_counts()
        build = InfoMetricFamily("trajmon_build", "The server's version.")
        build.add_metric([], {"version": facts.version})
        yield build
        events = CounterMetricFamily(
            "trajmon_ingest_events", "Things that ingest refused or set aside.", labels=["event"]
        )
        for event in sorted({*EVENTS, *counts}):
            events.add_metric([event], counts.get(event, 0))
        yield events
        active = [run.is_active for run in self._registry.runs() if run.is_ours]
        runs = GaugeMetricFamily("trajmon_runs", "Runs that this server holds.", labels=["state"])
        runs.add_metric(["active"], sum(active))
        runs.add_metric(["finished"], len(active) - sum(active))
        runs.add_metric(["unreadable"], self._registry.num_unreadable)
        yield runs
        try:
            disk = shutil.disk_usage(facts.data_dir)
        except OSError:
            disk = None
        if disk is not None:
            yield _gauge("trajmon_disk_free_bytes", "Free on the disk of the data directory.", disk.free)
            yield _gauge("trajmon_disk_size_bytes", "Size of the disk of the data directory.", disk.total)
        yield _gauge(
            "trajmon_disk_reserve_bytes",
            "Rows are refused while less is free: limits.min_free_disk_bytes.",
            facts.min_free_disk_bytes,
        )
        yield _gauge(
            "trajmon_run_quota_bytes",
            "Most journal bytes of a run: limits.max_run_bytes.",
            facts.max_run_bytes,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class ServerMetrics:
    """Counters that others raise, and what is read at each scrape, in a registry of their own."""

    def __init__(
        self, registry: Registry, facts: ServerFacts, is_journal_healthy: Callable[[], bool]
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_ServerState(registry, facts))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._handled = Counter(
            "trajmon_grpc_server_handled",
            "Calls that ended, by method and status code.",
            ["grpc_method", "grpc_code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "trajmon_grpc_server_handling_seconds",
            "How long calls took.",
            ["grpc_method"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry=self.registry,
        )
        rows = Counter("trajmon_ingest_rows", "Rows acknowledged.", ["outcome"], registry=self.registry)
        self._stored, self._duplicates = rows.labels("stored"), rows.labels("duplicate")
        self._bytes = Counter(
            "trajmon_ingest_bytes", "Bytes of records acknowledged.", registry=self.registry
        )
        healthy = Gauge("trajmon_journal_healthy", "1 while the journal takes rows.", registry=self.registry)
        healthy.set_function(lambda: float(is_journal_healthy()))

    def show_certificate(self, expires: Callable[[], float]) -> None:
        """Export when the server's certificate ends."""
        Gauge(
            "trajmon_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that the server shows ends.",
            registry=self.registry,
        ).set_function(expires)

    def observe_call(self, method: str, code: str, seconds: float) -> None:
        """A call ended; `method` is one of the served methods, so that labels are bounded."""
        short = method.rpartition("/")[2]
        self._handled.labels(short, code).inc()
        self._seconds.labels(short).observe(seconds)

    def observe_row(self, duplicate: bool, record_bytes: int) -> None:
        """A row was acknowledged."""
        (self._duplicates if duplicate else self._stored).inc()
        self._bytes.inc(record_bytes)
