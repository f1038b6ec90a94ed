"""The dashboard of the servers: whether rows come in, are durable, and are answered in time."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from trajmon_dashboards.layout import Band, Section, arrange
from trajmon_dashboards.parts import Column, Query, graph, number, table_of, words
from trajmon_dashboards.server_queries import AT, INSTANCE, here, rate
from trajmon_dashboards.server_resources import disk, process, runs
from trajmon_dashboards.shared import begin, job_variable, page_variables
from trajmon_dashboards.variables import datasource, labels_of

__all__ = ["UID", "server_dashboard"]

UID = "trajmon-server"


def _failed(codes: str) -> str:
    return rate("trajmon_grpc_server_handled_total", "instance", f", {codes}")


_CALLS = rate("trajmon_grpc_server_handled_total", "instance")
_FAILURES = 'grpc_code!="OK"'
_FAULTS = 'grpc_code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS"'


def _quantile(part: float, by: str) -> str:
    return f"histogram_quantile({part}, {rate('trajmon_grpc_server_handling_seconds_bucket', f'le, {by}')})"


def _now() -> Section:
    yes_no = words({0: ("no", "red"), 1: ("yes", "green")})
    return Section(
        "Now",
        [
            Band(
                4,
                [
                    number(
                        "Answers",
                        "Whether Prometheus could scrape the server the last time.",
                        Query(here("up"), INSTANCE),
                        mappings=yes_no,
                        absent="no server",
                    ),
                    number(
                        "Journal takes rows",
                        "no: a sync to the disk failed, and the server has to be started again.",
                        Query(here("trajmon_journal_healthy"), INSTANCE),
                        mappings=yes_no,
                        absent="no server",
                    ),
                    number(
                        "Up for",
                        "Time since the process started.",
                        Query(f"time() - {here('process_start_time_seconds')}", INSTANCE),
                        unit="s",
                        absent="no server",
                    ),
                    number(
                        "Disk left",
                        "Free on the disk of the journal, over its size.",
                        Query(
                            f"{here('trajmon_disk_free_bytes')} / {here('trajmon_disk_size_bytes')}",
                            INSTANCE,
                        ),
                        unit="percentunit",
                        colors=((None, "red"), (0.05, "orange"), (0.15, "green")),
                        absent="not told",
                    ),
                    number(
                        "Series left out",
                        "Series of runs that limits.max_exported_series keeps out of the metrics. Alerts and "
                        "dashboards do not see those runs.",
                        Query(here("trajmon_series_suppressed"), INSTANCE),
                        colors=((None, "text"), (1, "orange")),
                        absent="no server",
                    ),
                    number(
                        "Certificate ends in",
                        "Of the certificate that the server shows, by Prometheus's clock.",
                        Query(
                            f"{here('trajmon_tls_certificate_expiry_timestamp_seconds')} - time()", INSTANCE
                        ),
                        unit="s",
                        colors=((None, "red"), (7 * 86400, "orange"), (21 * 86400, "green")),
                        absent="no TLS",
                    ),
                    table_of(
                        "Versions",
                        "What runs where.",
                        Column("Value", f"max by (instance, version) (trajmon_build_info{{{AT}}})"),
                        names={"instance": "Server", "version": "Version"},
                        hidden=("Value",),
                        absent="no server",
                    ),
                ],
                (3, 3, 4, 3, 3, 4, 4),
            )
        ],
    )


def _ingest() -> Section:
    return Section(
        "Rows in",
        [
            Band(
                8,
                [
                    graph(
                        "Rows",
                        "Rows, and parts of rows, acknowledged. duplicate: sent again and stored once.",
                        Query(
                            rate("trajmon_ingest_rows_total", "instance, outcome"),
                            f"{INSTANCE} {{{{outcome}}}}",
                        ),
                        unit="ops",
                        low=0,
                    ),
                    graph(
                        "Bytes",
                        "Bytes of acknowledged records.",
                        Query(rate("trajmon_ingest_bytes_total", "instance"), INSTANCE),
                        unit="Bps",
                        low=0,
                    ),
                    table_of(
                        "Refused and set aside",
                        "What ingest refused, set aside or could not do, and how often since the server started.",
                        Column(
                            "Times",
                            f'sum by (instance, event) (trajmon_ingest_events_total{{{AT}, event!~"lease_.*"}}) > 0',
                        ),
                        names={"event": "What", "instance": "Server"},
                        absent="nothing",
                    ),
                ],
            ),
            Band(
                8,
                [
                    graph(
                        "On their way",
                        "Checkpoints of exported runs: recorded and not acknowledged, and acknowledged and not yet in "
                        "what is shown.",
                        Query(
                            f"sum by (instance) (trajmon_checkpoints_pending{{{AT}}})",
                            f"{INSTANCE} not acknowledged",
                        ),
                        Query(
                            f"sum by (instance) (trajmon_unanalysed_checkpoints{{{AT}}})",
                            f"{INSTANCE} not analysed",
                        ),
                        low=0,
                    ),
                    graph(
                        "Largest lag of an agent",
                        "Age of the oldest checkpoint of any exported run that is recorded and not acknowledged, as "
                        "the agents last told.",
                        Query(here("trajmon_agent_lag_seconds"), INSTANCE),
                        unit="s",
                        low=0,
                    ),
                    graph(
                        "Checkpoints skipped",
                        "Not recorded on training machines for want of disk or budget: of exported runs, since they "
                        "began.",
                        Query(f"sum by (instance) (trajmon_checkpoints_skipped{{{AT}}})", INSTANCE),
                        low=0,
                    ),
                ],
            ),
        ],
    )


def _calls() -> Section:
    long = "Calls that wait by design (Watch, streams) are as long as they were held."
    return Section(
        "Calls",
        [
            Band(
                8,
                [
                    graph(
                        "Calls by method",
                        "gRPC calls that ended.",
                        Query(rate("trajmon_grpc_server_handled_total", "grpc_method"), "{{grpc_method}}"),
                        unit="reqps",
                        low=0,
                    ),
                    graph(
                        "Calls that failed",
                        "gRPC calls that ended with another code than OK, by method and code. Empty when none failed.",
                        Query(
                            rate(
                                "trajmon_grpc_server_handled_total",
                                "grpc_method, grpc_code",
                                ', grpc_code!="OK"',
                            ),
                            "{{grpc_method}} {{grpc_code}}",
                        ),
                        unit="reqps",
                        low=0,
                    ),
                    graph(
                        "Part of the calls that failed",
                        "Of all gRPC calls that ended. Undefined while there are none.",
                        Query(
                            f"({_failed(_FAULTS)} or 0 * {_CALLS}) / {_CALLS}",
                            f"{INSTANCE} by the server's fault",
                        ),
                        Query(f"({_failed(_FAILURES)} or 0 * {_CALLS}) / {_CALLS}", f"{INSTANCE} in all"),
                        unit="percentunit",
                        low=0,
                        high=1,
                    ),
                ],
            ),
            Band(
                8,
                [
                    graph(
                        "Time of a PushRow",
                        "Quantiles over the calls of the window, interpolated in the histogram's buckets: as exact as "
                        "these are wide. A row is durable when its call ends.",
                        *(
                            Query(
                                f"histogram_quantile({part}, "
                                + rate(
                                    "trajmon_grpc_server_handling_seconds_bucket",
                                    "le, instance",
                                    ', grpc_method="PushRow"',
                                )
                                + ")",
                                f"{INSTANCE} {name}",
                            )
                            for part, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
                        ),
                        unit="s",
                        low=0,
                    ),
                    graph(
                        "Median time, by method",
                        f"Interpolated in the histogram's buckets. {long}",
                        Query(_quantile(0.5, "grpc_method"), "{{grpc_method}}"),
                        unit="s",
                        low=0,
                    ),
                    graph(
                        "99 % of calls end within, by method",
                        f"Interpolated in the histogram's buckets; 10 s stands for anything longer. {long}",
                        Query(_quantile(0.99, "grpc_method"), "{{grpc_method}}"),
                        unit="s",
                        low=0,
                    ),
                ],
            ),
        ],
    )


def server_dashboard(web: str) -> build.Dashboard:
    """The dashboard of the servers; `web` is the address of trajmon's web page as readers' browsers see it."""
    target = begin(
        "trajmon / server",
        UID,
        "The servers of one deployment: rows, calls, journal, disk, metrics, process.",
        "${web}/",
        "trajmon's web page",
    ).variables(
        [
            datasource(),
            job_variable(),
            labels_of(
                "instance", "instance", 'trajmon_build_info{job="$job"}', "Servers that are shown.", many=True
            ),
            *page_variables(web),
        ]
    )
    return arrange(target, [_now(), _ingest(), _calls(), disk(), runs(), process()])
