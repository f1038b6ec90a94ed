"""The dashboard of one run: where its direction goes, how sure that is, and how recording goes."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from trajmon_dashboards.layout import Band, Section, arrange
from trajmon_dashboards.parts import Query, graph, html, number, timeline, words
from trajmon_dashboards.run_curves import direction, estimates, size
from trajmon_dashboards.run_queries import RUN, age, of_network, of_run
from trajmon_dashboards.shared import advice_code, advice_words, alerts, begin, job_variable, page_variables
from trajmon_dashboards.variables import datasource, hidden_number, labels_of

__all__ = ["UID", "run_dashboard"]

UID = "trajmon-run"


def _now() -> Section:
    newest = "As of the newest checkpoint."
    return Section(
        "Now",
        [
            Band(
                4,
                [
                    number(
                        "Advice",
                        "The server's current word on the run. unknown: too few, missing, stale or non-finite "
                        "data.",
                        Query(advice_code(RUN), "advice"),
                        mappings=advice_words(),
                        absent="not exported",
                    ),
                    number(
                        "Held for",
                        "Time since the checkpoint was recorded at which this advice began. That time is by the "
                        "training machine's clock, now is by Prometheus's: a difference of the clocks is in it.",
                        Query(age("trajmon_advice_since_timestamp_seconds"), "held"),
                        unit="s",
                        absent="no advice yet",
                    ),
                    number(
                        "MDS of the network",
                        f"Mean of all entries of the trajectory map. Near 1: one direction. {newest}",
                        Query(of_network("trajmon_mean_directional_similarity"), "MDS"),
                        decimals=4,
                    ),
                    number(
                        "Its standard error",
                        "Of the MDS of the network. exact: it rests on no estimate.",
                        Query(
                            of_network("trajmon_hallmark_standard_error", ', hallmark="mds"'),
                            "standard error",
                        ),
                        decimals=4,
                        absent="exact",
                    ),
                    number(
                        "Update angle of the network",
                        f"Angle between the last two updates. Above 90 degrees steps partly undo each other. {newest}",
                        Query(of_network("trajmon_update_angle_degrees"), "angle"),
                        unit="degree",
                        decimals=1,
                    ),
                    number(
                        "Last checkpoint",
                        "Time since it was recorded, by the training machine's clock.",
                        Query(age("trajmon_last_checkpoint_timestamp_seconds"), "age"),
                        unit="s",
                        absent="none yet",
                    ),
                ],
            ),
            Band(
                4,
                [
                    number(
                        "Training",
                        "Whether it runs. A run that has ended is exported for finished_export_seconds more.",
                        Query(of_run("trajmon_run_active"), "training"),
                        mappings=words({0: ("ended", "text"), 1: ("running", "green")}),
                        absent="not exported",
                    ),
                    number(
                        "Step",
                        f"Training step. {newest}",
                        Query(of_run("trajmon_checkpoint_step"), "step"),
                        absent="none yet",
                    ),
                    number(
                        "Checkpoints on the path",
                        "Those that lead to the newest one; superseded ones are not counted.",
                        Query(of_run("trajmon_checkpoints"), "checkpoints"),
                    ),
                    number(
                        "Kind of training",
                        f"Whether all parameters are trained, or those of normalisation layers alone. {newest}",
                        Query(of_run("trajmon_norm_only"), "kind"),
                        mappings=words({0: ("full", "text"), 1: ("norm-only", "green")}),
                        absent="none yet",
                    ),
                    number(
                        "Non-finite layers",
                        f"Layers that hold NaN or Inf. {newest}",
                        Query(of_run("trajmon_nonfinite_layers"), "layers"),
                        colors=((None, "text"), (1, "red")),
                    ),
                    number(
                        "Integrity findings",
                        "What no training would have produced: identical checkpoints, an origin that is not the "
                        "initialization, a point far off its neighbours, non-finite values. The web page lists "
                        "them.",
                        Query(of_run("trajmon_integrity_findings"), "findings"),
                        colors=((None, "text"), (1, "orange")),
                    ),
                ],
            ),
            Band(
                7,
                [
                    timeline(
                        "Advice over time",
                        "explore, candidate, switch, resume, unknown. The length of a piece is how long it held, "
                        "by the time of the scrapes.",
                        Query(advice_code(RUN), "{{run}}"),
                        mappings=advice_words(),
                    ),
                    alerts(
                        "Alerts of this run",
                        "Alerts of Prometheus that carry this run's name, firing or pending, and for how long their "
                        "condition has held. Empty is good, if Prometheus has trajmon's rules (deploy/prometheus).",
                        'alertname=~"Trajmon.*", job="$job", run="$run"',
                        of_run=True,
                    ),
                ],
                (14, 10),
            ),
        ],
    )


def _map() -> Section:
    text = (
        "The newest map of the whole network, drawn by the server, whatever time range is chosen here. How Grafana "
        "gets it, and what that needs: docs/guide-grafana.md. A click opens the web page."
    )

    def picture(about: str, query: str) -> str:
        # Every checkpoint's number is below `newest`: none is left out. When a row has come the address is another one,
        # and only for another address does a browser ask again.
        address = f"${{pictures}}/api/v1/runs/${{run_id}}/map?format=png&amp;stop=${{newest}}{query}"
        page = "${web}/runs/${run_id}"
        return (
            f'<a href="{page}" target="_blank">'
            f'<img src="{address}" alt="The map {about} is not there: see docs/guide-grafana.md, Pictures of maps" '
            'width="100%"></a>'
        )

    return Section(
        "Trajectory map",
        [
            Band(
                20,
                [
                    html("About the origin", text, picture("about the origin", "")),
                    html(
                        "About the initialization",
                        f"{text} Empty before the second checkpoint.",
                        picture("about the initialization", "&amp;relative_to=0"),
                    ),
                ],
            )
        ],
    )


def _recording() -> Section:
    told = "As the run's agents last told; absent until one has."
    return Section(
        "Recording",
        [
            Band(
                8,
                [
                    graph(
                        "Checkpoints on their way",
                        f"Not yet acknowledged, and of these not yet computed; {told} Open: some parts have come, "
                        "others not. Not analysed: in the journal, not yet in what is shown.",
                        Query(of_run("trajmon_checkpoints_pending"), "not acknowledged"),
                        Query(of_run("trajmon_checkpoints_uncomputed"), "not computed"),
                        Query(of_run("trajmon_open_checkpoints"), "open"),
                        Query(of_run("trajmon_unanalysed_checkpoints"), "not analysed"),
                        low=0,
                    ),
                    graph(
                        "Lag",
                        "Age of the oldest checkpoint that is recorded and not acknowledged, and time since an agent "
                        f"last reported and since the last row came. {told}",
                        Query(of_run("trajmon_agent_lag_seconds"), "oldest not acknowledged"),
                        Query(age("trajmon_agent_last_report_timestamp_seconds"), "since the last report"),
                        Query(age("trajmon_last_heard_timestamp_seconds"), "since the last row"),
                        unit="s",
                        low=0,
                    ),
                    number(
                        "Checkpoints skipped",
                        f"Not recorded, for want of disk or budget. {told}",
                        Query(of_run("trajmon_checkpoints_skipped"), "skipped"),
                        colors=((None, "text"), (1, "orange")),
                        absent="not told",
                    ),
                    number(
                        "Journal of the run",
                        "Bytes of the run in the server's journal.",
                        Query(of_run("trajmon_run_journal_bytes"), "size"),
                        unit="bytes",
                    ),
                ],
                (8, 8, 4, 4),
            )
        ],
    )


def run_dashboard(web: str, pictures: str) -> build.Dashboard:
    """The dashboard of one run.

    `web` is the address of trajmon's web page as readers' browsers see it; `pictures` that below which they find the
    pictures of maps.
    """
    target = begin(
        "trajmon / run",
        UID,
        "One training run: direction, norms, advice, and how sure all of it is.",
        "${web}/runs/${run_id}",
        "This run on the web page",
    ).variables(
        [
            datasource(),
            job_variable(),
            labels_of(
                "run",
                "run",
                'trajmon_checkpoints{job="$job"}',
                "The run, behind its team unless it is the local one.",
            ),
            labels_of(
                "group",
                "group",
                f"trajmon_parameter_norm{{{RUN}}}",
                "Groups of layers that are shown.",
                many=True,
            ),
            labels_of(
                "run_id", "run_id", f"trajmon_run_info{{{RUN}}}", "The run's id, for addresses.", hidden=True
            ),
            hidden_number(
                "newest",
                # The second part is for runs that have left the metrics: they have a map all the same.
                f"round(1000 * max(trajmon_last_heard_timestamp_seconds{{{RUN}}})) or vector(1000000000000)",
                "When the newest row came, in milliseconds; larger than every checkpoint's number.",
            ),
            *page_variables(web, pictures),
        ]
    )
    return arrange(target, [_now(), direction(), size(), estimates(), _map(), _recording()])
