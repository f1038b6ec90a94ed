"""Prometheus metrics: a Collector that reads the runs' state at scrape time, and counters of the server itself.

Only active runs and those that ended a short while ago are shown; a run that leaves stops being exported, so that
Prometheus marks its series stale. The number of series is capped; what was left out is counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from trajmon_protos.v1 import ingest_pb2
from trajmon_server.auth import LOCAL_TEAM
from trajmon_server.config import Address
from trajmon_server.errors import ConfigError, reason_of
from trajmon_server.hallmarks.stream import estimated_entries
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.run import Run
from trajmon_server.signals.base import AdviceState

__all__ = ["Exporter", "RunCollector"]

PER_GROUP = (
    ("mds", "trajmon_mean_directional_similarity", "Mean of all entries of the trajectory map."),
    (
        "relative_mds",
        "trajmon_relative_mean_directional_similarity",
        "Mean of all entries of the trajectory map relative to the initialization.",
    ),
    ("update_angle_degrees", "trajmon_update_angle_degrees", "Angle between the last two updates."),
    ("parameter_norm", "trajmon_parameter_norm", "Norm of the parameters."),
    (
        "distance_from_initialization",
        "trajmon_distance_from_initialization",
        "Distance from the initialization.",
    ),
    ("update_norm", "trajmon_update_norm", "Norm of the last update between checkpoints."),
)
APEX = (
    ("apex_angle_initialization_degrees", "initialization"),
    ("apex_angle_origin_degrees", "origin"),
)
_WITH_ERROR = tuple(key for key, *_ in (*PER_GROUP, *APEX))
_SERIES_PER_GROUP = len(PER_GROUP) + len(APEX)
_SNAPSHOT_MODES = {
    ingest_pb2.SNAPSHOT_MODE_EXACT: "exact",
    ingest_pb2.SNAPSHOT_MODE_ANCHORED: "anchored",
    ingest_pb2.SNAPSHOT_MODE_SKETCH: "sketch",
}
_SERIES_PER_RUN = 13 + len(AdviceState) + len(_SNAPSHOT_MODES)


class RunCollector(Collector):
    """Reads every exported run's latest state; keeps none of its own."""

    def __init__(self, registry: Registry, max_series: int, finished_seconds: float) -> None:
        self._registry = registry
        self._max_series = max_series
        self._finished_seconds = finished_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing: collecting at registration time would find no runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One sample a run and group; undefined values are left out."""
        runs, left_out = self._select()
        yield from _group_metrics(runs)
        yield from _run_metrics(runs)
        suppressed = GaugeMetricFamily(
            "trajmon_series_suppressed", "Series left out because of the cap limits.max_exported_series."
        )
        suppressed.add_metric([], left_out)
        yield suppressed
        events = CounterMetricFamily(
            "trajmon_ingest_events", "Things that ingest refused or set aside.", labels=["event"]
        )
        for event, count in sorted(self._registry.event_counts().items()):
            events.add_metric([event], count)
        yield events

    def _select(self) -> tuple[list[Run], int]:
        """The runs to export, newest rows first, and how many series do not fit."""
        now = time.time()
        shown = [
            run
            for run in self._registry.runs()
            if run.is_active or now - run.control.ended_unix_seconds < self._finished_seconds
        ]
        shown.sort(key=lambda run: -run.last_row_unix_seconds)
        kept: list[Run] = []
        used = left_out = 0
        for run in shown:
            groups = len(run.description.groups)
            series = _SERIES_PER_RUN + _SERIES_PER_GROUP * groups
            if run.sketches.spec is not None:
                series += len(_WITH_ERROR) * groups
            if used + series <= self._max_series:
                kept.append(run)
                used += series
            else:
                left_out += series
        return kept, left_out


def _label(run: Run) -> str:
    """The run's name, behind the team's where it is not the local one: names are unique within a team only."""
    team = run.description.team
    return run.description.name if team == LOCAL_TEAM else f"{team}/{run.description.name}"


def _group_metrics(runs: Sequence[Run]) -> Iterator[Metric]:
    for key, name, text in PER_GROUP:
        family = GaugeMetricFamily(name, text, labels=["run", "group"])
        for run in runs:
            for group, values in run.shown.hallmarks.items():
                if math.isfinite(values.get(key, math.nan)):
                    family.add_metric([_label(run), group], values[key])
        yield family
    apex = GaugeMetricFamily(
        "trajmon_apex_angle_degrees",
        "Angle of the cone that the trajectory spans at the vertex.",
        labels=["run", "group", "vertex"],
    )
    for key, vertex in APEX:
        for run in runs:
            for group, values in run.shown.hallmarks.items():
                if math.isfinite(values.get(key, math.nan)):
                    apex.add_metric([_label(run), group, vertex], values[key])
    yield apex
    error = GaugeMetricFamily(
        "trajmon_hallmark_standard_error",
        "Standard error of a hallmark that rests on estimates from sketches; absent where it is exact.",
        labels=["run", "group", "hallmark"],
    )
    for run in runs:
        for group, errors in run.shown.errors.items():
            for key in _WITH_ERROR:
                if math.isfinite(errors.get(key, math.nan)):
                    error.add_metric([_label(run), group, key], errors[key])
    yield error


def _run_metrics(runs: Sequence[Run]) -> Iterator[Metric]:
    info = InfoMetricFamily("trajmon_run", "Constant facts of a run.", labels=["run"])
    switch = GaugeMetricFamily(
        "trajmon_switch_advised", "1 while norm-only training is advised.", labels=["run"]
    )
    state = GaugeMetricFamily(
        "trajmon_advice_state",
        "1 for the current state of the advice, 0 for the others.",
        labels=["run", "state"],
    )
    step = GaugeMetricFamily(
        "trajmon_checkpoint_step", "Training step of the last checkpoint.", labels=["run"]
    )
    number = GaugeMetricFamily("trajmon_checkpoints", "Checkpoints on the run's path.", labels=["run"])
    last = GaugeMetricFamily(
        "trajmon_last_checkpoint_timestamp_seconds", "When the last checkpoint was recorded.", labels=["run"]
    )
    pending = GaugeMetricFamily(
        "trajmon_checkpoints_pending",
        "Recorded on the training machine, not yet acknowledged.",
        labels=["run"],
    )
    skipped = GaugeMetricFamily(
        "trajmon_checkpoints_skipped", "Not recorded, for want of disk or budget.", labels=["run"]
    )
    uncomputed = GaugeMetricFamily(
        "trajmon_checkpoints_uncomputed",
        "Recorded on the training machine, their rows not yet computed.",
        labels=["run"],
    )
    lag = GaugeMetricFamily(
        "trajmon_agent_lag_seconds",
        "Age of the oldest checkpoint that is recorded and not acknowledged, as the agents last told.",
        labels=["run"],
    )
    waiting = GaugeMetricFamily(
        "trajmon_open_checkpoints",
        "Checkpoints of which some parts have come and others have not.",
        labels=["run"],
    )
    norm_only = GaugeMetricFamily(
        "trajmon_norm_only", "1 if the last checkpoint is of norm-only training.", labels=["run"]
    )
    findings = GaugeMetricFamily(
        "trajmon_integrity_findings", "Integrity findings of the run.", labels=["run"]
    )
    estimated = GaugeMetricFamily(
        "trajmon_estimated_entries",
        "Inner products of checkpoints of the whole network that are estimates from sketches.",
        labels=["run"],
    )
    keeping = GaugeMetricFamily(
        "trajmon_snapshot_mode",
        "1 for the snapshots that the client keeps (exact: all; anchored: a few; sketch: the last two), "
        "0 for the other modes.",
        labels=["run", "mode"],
    )
    for run in runs:
        name = _label(run)
        info.add_metric(
            [name],
            {
                "run_id": run.description.run_id,
                "attempt": str(run.control.attempt),
                "fingerprint": run.description.fingerprint,
                "layers": str(len(run.description.layers)),
            },
        )
        advice = run.current_advice()
        switch.add_metric([name], float(advice.switch))
        for known in AdviceState:
            state.add_metric([name, known.value], float(advice.state is known))
        agent = run.agent
        pending.add_metric([name], agent.checkpoints_pending)
        skipped.add_metric([name], agent.checkpoints_skipped)
        uncomputed.add_metric([name], agent.checkpoints_uncomputed)
        lag.add_metric([name], agent.lag_seconds)
        waiting.add_metric([name], len(run.open))
        findings.add_metric([name], len(run.all_findings()))
        estimated.add_metric([name], int(estimated_entries(run.shown.streams[0]).sum()))
        if agent.snapshot_mode in _SNAPSHOT_MODES:
            for mode, word in _SNAPSHOT_MODES.items():
                keeping.add_metric([name, word], float(agent.snapshot_mode == mode))
        path = run.path
        number.add_metric([name], len(path))
        # One look at each: the loop goes on changing the run meanwhile.
        meta = run.metas.get(path[-1]) if path else None
        if meta is not None:
            step.add_metric([name], meta.step)
            norm_only.add_metric([name], float(meta.is_norm_only))
            last.add_metric([name], run.last_row_unix_seconds)
    yield from (info, switch, state, step, number, last, norm_only)
    yield from (pending, skipped, uncomputed, lag, waiting, findings, estimated, keeping)


class Exporter:
    """The metrics endpoint: own registry, own port, own thread."""

    def __init__(
        self,
        registry: Registry,
        max_series: int,
        finished_seconds: float,
        is_journal_healthy: Callable[[], bool],
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(RunCollector(registry, max_series, finished_seconds))
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
        self._rows = Counter("trajmon_ingest_rows", "Rows acknowledged.", ["outcome"], registry=self.registry)
        self._bytes = Counter(
            "trajmon_ingest_bytes", "Bytes of records acknowledged.", registry=self.registry
        )
        healthy = Gauge("trajmon_journal_healthy", "1 while the journal takes rows.", registry=self.registry)
        healthy.set_function(lambda: float(is_journal_healthy()))
        self._server: WSGIServer | None = None
        self.port = 0

    def observe_call(self, method: str, code: str, seconds: float) -> None:
        """A call ended; `method` is one of the served methods, so that labels are bounded."""
        short = method.rpartition("/")[2]
        self._handled.labels(short, code).inc()
        self._seconds.labels(short).observe(seconds)

    def observe_row(self, duplicate: bool, record_bytes: int) -> None:
        """A row was acknowledged."""
        self._rows.labels("duplicate" if duplicate else "stored").inc()
        self._bytes.inc(record_bytes)

    def start(self, address: Address) -> None:
        """Serve ``/metrics`` from a thread of its own; raises ConfigError if the port is taken."""
        try:
            self._server, thread = start_http_server(address.port, address.host, registry=self.registry)
        except OSError as error:
            raise ConfigError(
                f"metrics address {address}: {reason_of(error)}; give another with --metrics"
            ) from error
        self.port = self._server.server_port
        self._thread = thread

    def stop(self) -> None:
        """Close the port and end the thread."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=2.0)
            self._server = None
