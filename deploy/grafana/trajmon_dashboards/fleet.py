"""The dashboard of all runs of a deployment: which of them want to be looked at."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard

from trajmon_dashboards.layout import Band, Section, arrange
from trajmon_dashboards.parts import Column, Panel, Query, bars, number, property_, table_of, timeline
from trajmon_dashboards.shared import (
    RUN_DASHBOARD,
    advice_code,
    advice_words,
    alerts,
    begin,
    job_variable,
    page_variables,
    run_links,
)
from trajmon_dashboards.variables import datasource, one_of

__all__ = ["UID", "fleet_dashboard"]

UID = "trajmon-fleet"
_JOB = 'job="$job"'
_ACTIVE = f"max by (run) (trajmon_run_active{{{_JOB}}}) == 1"
_RUNNING = "Runs that are training; those that have ended are left out."


def _active(expr: str) -> str:
    """Of the runs that are training."""
    return f"{expr} and on (run) ({_ACTIVE})"


def _of_run(metric: str, labels: str = "") -> str:
    return f"max by (run) ({metric}{{{_JOB}{labels}}})"


def _of_network(metric: str) -> str:
    return _of_run(metric, ', group="network"')


def _age(metric: str) -> str:
    return f"(time() - {_of_run(metric)})"


def _now() -> Section:
    by_state = f"max by (run, state) (trajmon_advice_state{{{_JOB}}}) and on (run) ({_ACTIVE})"
    return Section(
        "Now",
        [
            Band(
                5,
                [
                    number(
                        "Number of runs",
                        "Runs that are training, by the servers' word.",
                        Query(f'sum(trajmon_runs{{{_JOB}, state="active"}})', "training"),
                        absent="no server",
                    ),
                    number(
                        "Runs left out",
                        "Runs that limits.max_exported_series keeps out of the metrics: nothing else on this page, and "
                        "no alert, knows of them.",
                        Query(f"sum(trajmon_runs_suppressed{{{_JOB}}})", "runs"),
                        colors=((None, "text"), (1, "orange")),
                        absent="no server",
                    ),
                    number(
                        "Switch advised",
                        f"Runs for which norm-only training is advised now. {_RUNNING}",
                        Query(f"sum({_active(_of_run('trajmon_switch_advised'))}) or vector(0)", "runs"),
                        colors=((None, "text"), (1, "green")),
                    ),
                    bars(
                        "Runs by advice",
                        f"How many runs are in each state. {_RUNNING}",
                        Query(f"sum by (state) ({by_state})", "{{state}}"),
                        decimals=0,
                    ),
                    alerts(
                        "Alerts",
                        "Alerts of Prometheus about trajmon, firing or pending, and for how long their condition has "
                        "held. Empty is good, if Prometheus has trajmon's rules (deploy/prometheus).",
                        'alertname=~"Trajmon.*", job="$job"',
                        of_run=False,
                    ),
                ],
                (3, 3, 3, 6, 9),
            )
        ],
    )


def _table() -> Panel:
    colored = property_("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    return table_of(
        "Runs that train",
        f"{_RUNNING} A click on a name opens the run's dashboard. An empty cell is undefined, or not told yet.",
        Column(
            "Advice",
            _active(advice_code(_JOB)),
            properties=(property_("mappings", advice_words()), colored),
        ),
        Column("Held for", _active(_age("trajmon_advice_since_timestamp_seconds")), "s"),
        Column("MDS", _active(_of_network("trajmon_mean_directional_similarity")), decimals=4),
        Column(
            "Standard error",
            _active(
                f'max by (run) (trajmon_hallmark_standard_error{{{_JOB}, group="network", hallmark="mds"}})'
            ),
            decimals=4,
        ),
        Column("Update angle", _active(_of_network("trajmon_update_angle_degrees")), "degree", 1),
        Column("Step", _active(_of_run("trajmon_checkpoint_step"))),
        Column("Last checkpoint", _active(_age("trajmon_last_checkpoint_timestamp_seconds")), "s"),
        Column("Lag", _active(_of_run("trajmon_agent_lag_seconds")), "s"),
        Column("Waiting", _active(_of_run("trajmon_checkpoints_pending"))),
        Column("Findings", _active(_of_run("trajmon_integrity_findings"))),
        names={"run": "Run"},
        absent="",
        labels={"Run": [property_("links", run_links())]},
    )


def _top(
    title: str, text: str, expr: str, unit: str, decimals: int | None = None, *, low: bool = False
) -> Panel:
    """The runs with the largest values, or the smallest."""
    pick, order = ("bottomk", "sort") if low else ("topk", "sort_desc")
    target = (
        build.DashboardLink("Dashboard of this run")
        .type(dashboard.DashboardLinkType.LINK)
        .url(f"{RUN_DASHBOARD}&var-run=${{__field.labels.run:percentencode}}")
    )
    return bars(
        title,
        f"{text} {_RUNNING}",
        Query(f"{order}({pick}($top, {_active(expr)}))", "{{run}}"),
        unit=unit,
        decimals=decimals,
        low=None if low else 0,
        links=[target],
    )


def _tops() -> list[Band]:
    return [
        Band(
            8,
            [
                _top(
                    "Longest without a row",
                    "Time since the server last got a row of the run.",
                    _age("trajmon_last_heard_timestamp_seconds"),
                    "s",
                ),
                _top(
                    "Largest lag",
                    "Age of the oldest checkpoint that is recorded and not acknowledged, as the agents last told.",
                    _of_run("trajmon_agent_lag_seconds"),
                    "s",
                ),
                _top(
                    "Most of their quota",
                    "Bytes of the run in the journal, over limits.max_run_bytes.",
                    f"max by (run) (trajmon_run_journal_bytes{{{_JOB}}} / on (instance) group_left () "
                    f"trajmon_run_quota_bytes{{{_JOB}}})",
                    "percentunit",
                    2,
                ),
            ],
        ),
        Band(
            8,
            [
                _top(
                    "Largest update angles",
                    "Angle between the last two updates of the network. Near 180: steps undo each other.",
                    _of_network("trajmon_update_angle_degrees"),
                    "degree",
                    1,
                ),
                _top(
                    "Fastest growth of a norm",
                    "Parameter norm over that of 8 checkpoints earlier, of the group of the run that grows most.",
                    _of_run("trajmon_parameter_norm_growth"),
                    "none",
                    3,
                ),
                _top(
                    "Lowest MDS",
                    "Mean of all entries of the network's trajectory map: the runs that turned most.",
                    _of_network("trajmon_mean_directional_similarity"),
                    "none",
                    4,
                    low=True,
                ),
            ],
        ),
    ]


def fleet_dashboard(web: str) -> build.Dashboard:
    """The dashboard of all runs; `web` is the address of trajmon's web page as readers' browsers see it."""
    target = begin(
        "trajmon / fleet",
        UID,
        "All runs of one deployment: advice, age, lag, alerts.",
        "${web}/",
        "All runs on the web page",
    ).variables(
        [
            datasource(),
            job_variable(),
            one_of(
                "top", "Runs per list", "How many runs the lists at the end show.", ["5", "10", "20", "50"]
            ),
            *page_variables(web),
        ]
    )
    over_time = timeline(
        "Advice over time",
        f"One line a run. {_RUNNING}",
        Query(_active(advice_code(_JOB)), "{{run}}"),
        mappings=advice_words(),
    )
    return arrange(
        target,
        [
            _now(),
            Section("Runs", [Band(12, [_table()]), Band(10, [over_time])]),
            Section("Which to look at first", _tops()),
        ],
    )
