"""What a server has and uses: disk, series, leases, memory."""

from __future__ import annotations

from trajmon_dashboards.layout import Band, Section
from trajmon_dashboards.parts import Column, Query, graph, table_of
from trajmon_dashboards.server_queries import AT, INSTANCE, here, rate

__all__ = ["disk", "process", "runs"]


def disk() -> Section:
    """The journal and the disk that it is on."""
    return Section(
        "Journal and disk",
        [
            Band(
                8,
                [
                    graph(
                        "Free disk",
                        "Below the reserve (limits.min_free_disk_bytes) rows are refused; agents keep them and try "
                        "again.",
                        Query(here("trajmon_disk_free_bytes"), f"{INSTANCE} free"),
                        Query(here("trajmon_disk_reserve_bytes"), f"{INSTANCE} reserve"),
                        unit="bytes",
                        low=0,
                    ),
                    graph(
                        "Journals of exported runs",
                        "Bytes of the runs in the metrics together; runs that have left them take disk as well.",
                        Query(f"sum by (instance) (trajmon_run_journal_bytes{{{AT}}})", INSTANCE),
                        unit="bytes",
                        low=0,
                    ),
                    table_of(
                        "Largest journals",
                        "Of exported runs, and the part of limits.max_run_bytes that they take.",
                        Column(
                            "Size",
                            f"topk(20, max by (run) (trajmon_run_journal_bytes{{{AT}}}))",
                            "bytes",
                        ),
                        Column(
                            "Of its quota",
                            f"topk(20, max by (run) (trajmon_run_journal_bytes{{{AT}}} / on (instance) group_left () "
                            f"trajmon_run_quota_bytes{{{AT}}}))",
                            "percentunit",
                            2,
                        ),
                        names={"run": "Run"},
                        absent="no runs",
                    ),
                ],
            )
        ],
    )


def runs() -> Section:
    """Runs, their series, and who holds them."""
    return Section(
        "Runs and metrics",
        [
            Band(
                8,
                [
                    graph(
                        "Runs by state",
                        "Runs that the server holds, by state; those in the metrics, and those that the cap keeps "
                        "out. unreadable: the journal of the run could not be read at the start.",
                        Query(
                            f"sum by (instance, state) (trajmon_runs{{{AT}}})", f"{INSTANCE} {{{{state}}}}"
                        ),
                        Query(here("trajmon_exported_runs"), f"{INSTANCE} exported"),
                        Query(here("trajmon_runs_suppressed"), f"{INSTANCE} left out"),
                        low=0,
                    ),
                    graph(
                        "Series",
                        "Samples of a scrape, all told, and the cap on those of runs (limits.max_exported_series).",
                        Query(here("scrape_samples_scraped"), f"{INSTANCE} samples"),
                        Query(here("trajmon_series_limit"), f"{INSTANCE} cap"),
                        low=0,
                    ),
                    graph(
                        "Time of a scrape",
                        "As Prometheus saw it.",
                        Query(here("scrape_duration_seconds"), INSTANCE),
                        unit="s",
                        low=0,
                    ),
                    table_of(
                        "Leases",
                        "Leases of runs taken, lost and released since the server started. All 0 with one server on a "
                        "local disk.",
                        Column(
                            "Times",
                            "sum by (instance, event) (trajmon_ingest_events_total{"
                            + AT
                            + ', event=~"lease_.*"})',
                        ),
                        names={"event": "What", "instance": "Server"},
                        absent="none",
                    ),
                ],
            )
        ],
    )


def process() -> Section:
    """The server as a process."""
    return Section(
        "Process",
        [
            Band(
                8,
                [
                    graph(
                        "CPU",
                        "Processor cores in use.",
                        Query(rate("process_cpu_seconds_total", "instance"), INSTANCE),
                        unit="none",
                        low=0,
                    ),
                    graph(
                        "Resident memory",
                        "Memory of the process, files that it maps included.",
                        Query(here("process_resident_memory_bytes"), INSTANCE),
                        unit="bytes",
                        low=0,
                    ),
                    graph(
                        "Open files",
                        "File descriptors, connections included, and how many there may be.",
                        Query(here("process_open_fds"), f"{INSTANCE} open"),
                        Query(here("process_max_fds"), f"{INSTANCE} limit"),
                        log=True,
                    ),
                    graph(
                        "Garbage collections",
                        "Collections of Python's garbage collector a second, by generation.",
                        Query(
                            rate("python_gc_collections_total", "instance, generation"),
                            f"{INSTANCE} generation {{{{generation}}}}",
                        ),
                        unit="ops",
                        low=0,
                    ),
                ],
            )
        ],
    )
