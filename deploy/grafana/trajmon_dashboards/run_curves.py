"""Curves of a run: direction, norms and distances, and their standard errors."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from trajmon_dashboards.layout import Band, Section
from trajmon_dashboards.parts import Column, Panel, Query, graph, number, table_of
from trajmon_dashboards.run_queries import (
    ABSENT,
    GROUP,
    NETWORK,
    OVER_TIME,
    RUN,
    by_group,
    of_network,
    of_run,
)

__all__ = ["direction", "estimates", "size"]


def _off(metric: str, hallmark: str, sign: str) -> Query:
    """The value one standard error up or down; only where there is one."""
    error = f'trajmon_hallmark_standard_error{{{NETWORK}, hallmark="{hallmark}"}}'
    name = {"+": "one standard error up", "-": "one standard error down"}[sign]
    return Query(f"max({metric}{{{NETWORK}}} {sign} ignoring (hallmark) {error})", name)


def _with_band(title: str, text: str, metric: str, hallmark: str, unit: str = "none") -> Panel:
    """A curve of the network between its bounds; the bounds are filled, not drawn."""
    panel = graph(
        title,
        f"{text} The band is one standard error up and down; no band means exact. {OVER_TIME}",
        Query(of_network(metric), "network"),
        _off(metric, hallmark, "-"),
        _off(metric, hallmark, "+"),
        unit=unit,
    )
    bound = [dashboard.DynamicConfigValue("custom.lineWidth", 0), dashboard.DynamicConfigValue("decimals", 4)]
    upper = [
        *bound,
        dashboard.DynamicConfigValue("custom.fillBelowTo", "one standard error down"),
        dashboard.DynamicConfigValue("custom.fillOpacity", 20),
    ]
    return panel.override_by_name("one standard error down", bound).override_by_name(
        "one standard error up", upper
    )


def direction() -> Section:
    """Maps' means and angles, by group."""
    vertices = f"Of the cone that the trajectory spans. {ABSENT}"
    return Section(
        "Direction, by group",
        [
            Band(
                8,
                [
                    graph(
                        "MDS",
                        f"Mean of all entries of the trajectory map, by group. {ABSENT} {OVER_TIME}",
                        Query(by_group("trajmon_mean_directional_similarity")),
                        high=1,
                    ),
                    graph(
                        "Relative MDS",
                        "The same of the map relative to the initialization: of the way gone, without where it "
                        f"began. {ABSENT}",
                        Query(by_group("trajmon_relative_mean_directional_similarity")),
                        high=1,
                    ),
                    graph(
                        "Windowed MDS",
                        "MDS of the last 10 checkpoints. Near 1 early in training: the direction is frozen. "
                        f"{ABSENT}",
                        Query(by_group("trajmon_windowed_mean_directional_similarity")),
                        high=1,
                    ),
                ],
            ),
            Band(
                8,
                [
                    graph(
                        "Update angle",
                        "Angle between the last two updates. 0: straight on; 90: no memory; above: steps partly "
                        f"undo each other. {ABSENT}",
                        Query(by_group("trajmon_update_angle_degrees")),
                        unit="degree",
                        low=0,
                        high=180,
                    ),
                    graph(
                        "Apex angle at the initialization",
                        f"Between the first update and the way gone so far. {vertices}",
                        Query(by_group("trajmon_apex_angle_degrees", ', vertex="initialization"')),
                        unit="degree",
                        low=0,
                        high=180,
                    ),
                    graph(
                        "Apex angle at the origin",
                        f"Between the parameters now and at the initialization. {vertices}",
                        Query(by_group("trajmon_apex_angle_degrees", ', vertex="origin"')),
                        unit="degree",
                        low=0,
                        high=180,
                    ),
                ],
            ),
        ],
    )


def size() -> Section:
    """Norms and distances, by group."""
    earlier = (
        "now, over 8 checkpoints earlier on the path. 1: as large as then. Absent with fewer checkpoints."
    )
    return Section(
        "Norms and distances, by group",
        [
            Band(
                8,
                [
                    graph(
                        "Parameter norm",
                        f"Norm of the parameters; exact. {ABSENT}",
                        Query(by_group("trajmon_parameter_norm")),
                        log=True,
                    ),
                    graph(
                        "Distance from the initialization",
                        f"Norm of what training has added so far. {ABSENT}",
                        Query(by_group("trajmon_distance_from_initialization")),
                        low=0,
                    ),
                    graph(
                        "Update norm",
                        f"Norm of the last update between two checkpoints; exact. {ABSENT}",
                        Query(by_group("trajmon_update_norm")),
                        log=True,
                    ),
                ],
            ),
            Band(
                8,
                [
                    graph(
                        "Update ratio",
                        "Update norm over parameter norm: how much of itself a group changes from one checkpoint "
                        f"to the next. {ABSENT}",
                        Query(by_group("trajmon_update_ratio")),
                        log=True,
                    ),
                    graph(
                        "Growth of the parameter norm",
                        f"Norm of the parameters {earlier}",
                        Query(by_group("trajmon_parameter_norm_growth")),
                        log=True,
                    ),
                    graph(
                        "Growth of the update norm",
                        f"Norm of the last update {earlier}",
                        Query(by_group("trajmon_update_norm_growth")),
                        log=True,
                    ),
                ],
            ),
        ],
    )


def estimates() -> Section:
    """How far the numbers may be off."""
    return Section(
        "How sure this is",
        [
            Band(
                8,
                [
                    _with_band(
                        "MDS of the network, with its standard error",
                        "Mean of all entries of the trajectory map.",
                        "trajmon_mean_directional_similarity",
                        "mds",
                    ),
                    _with_band(
                        "Relative MDS of the network, with its standard error",
                        "Mean of all entries of the map relative to the initialization.",
                        "trajmon_relative_mean_directional_similarity",
                        "relative_mds",
                    ),
                    table_of(
                        "Standard errors",
                        "Of hallmarks that rest on estimates, in the hallmark's own unit, as of the newest "
                        "checkpoint. What is not here is exact, or undefined.",
                        Column(
                            "Standard error",
                            f"max by (group, hallmark) (trajmon_hallmark_standard_error{{{GROUP}}})",
                            decimals=5,
                        ),
                        names={"group": "Group", "hallmark": "Hallmark"},
                        absent="all exact",
                    ),
                ],
            ),
            Band(
                4,
                [
                    number(
                        "Estimated inner products",
                        "Entries of the network's Gram that no row holds and that sketches estimate. 0: all exact.",
                        Query(of_run("trajmon_estimated_entries"), "entries"),
                    ),
                    number(
                        "Snapshots kept",
                        "By the training machine. exact: all; anchored: a few; sketch: the last two. As the agent "
                        "last told.",
                        Query(f"max by (mode) (trajmon_snapshot_mode{{{RUN}}} == 1)", "{{mode}}"),
                        absent="not told",
                        names_only=True,
                    ),
                    number(
                        "Time between checkpoints",
                        "Median of the recorded times between the last 8 checkpoints on the path.",
                        Query(of_run("trajmon_checkpoint_interval_seconds"), "interval"),
                        unit="s",
                        absent="fewer than two",
                    ),
                ],
            ),
        ],
    )
