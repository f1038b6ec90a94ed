"""Panels, each with what it asks for. Every panel has a title, a description and a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

from trajmon_dashboards.variables import DATASOURCE

__all__ = [
    "ADVICE",
    "Column",
    "Panel",
    "Query",
    "bars",
    "graph",
    "html",
    "number",
    "property_",
    "steps",
    "table_of",
    "timeline",
    "words",
]

ADVICE = {
    "unknown": "#8e8e8e",
    "explore": "#5794f2",
    "candidate": "#e0b400",
    "switch": "#37872d",
    "resume": "#e0752d",
}
"""States of the advice, each with its colour, in the order of their codes 0, 1, ..."""
_REF_IDS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


Panel: TypeAlias = (
    timeseries.Panel | stat.Panel | statetimeline.Panel | bargauge.Panel | table.Panel | text.Panel
)


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the name of its series."""

    expr: str
    legend: str = "{{group}}"


@dataclass(frozen=True, slots=True)
class Column:
    """One expression of a table; the rows of all columns are joined by the labels that they have in common."""

    title: str
    expr: str
    unit: str = "none"
    decimals: int | None = None
    properties: tuple[dashboard.DynamicConfigValue, ...] = ()
    """More about how the cells look."""


def property_(name: str, value: object) -> dashboard.DynamicConfigValue:
    """One setting of an override."""
    return dashboard.DynamicConfigValue(name, value)


def words(of: Mapping[int, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    """Numbers that are shown as a word in a colour."""
    return [
        dashboard.ValueMap(
            {
                str(value): dashboard.ValueMappingResult(text=word, color=color, index=index)
                for index, (value, (word, color)) in enumerate(of.items())
            }
        )
    ]


def steps(*of: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Colours from a value on; the first value is None: from below."""
    return (
        build.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in of])
    )


_PLAIN = ((None, "text"),)


def _targets(queries: Sequence[Query], *, instant: bool) -> list[prometheus.Dataquery]:
    targets = []
    for ref_id, query in zip(_REF_IDS, queries, strict=False):
        target = (
            prometheus.Dataquery()
            .datasource(DATASOURCE)
            .expr(query.expr)
            .legend_format(query.legend)
            .ref_id(ref_id)
        )
        targets.append(target.instant() if instant else target.range())
    return targets


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "none",
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    fill: float = 0,
    stacked: bool = False,
) -> timeseries.Panel:
    """Curves over time. They are joined by steps: between two checkpoints nothing is known to change."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets(list(_targets(queries, instant=False)))
        .unit(unit)
        .draw_style(models.GraphDrawStyle.LINE)
        .line_interpolation(models.LineInterpolation.STEP_AFTER)
        .line_width(1)
        .fill_opacity(fill)
        .show_points(models.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(models.LegendDisplayMode.LIST)
            .placement(models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
        .tooltip(
            common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING)
        )
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if low is not None:
        panel = panel.min(low)
    if high is not None:
        panel = panel.max(high)
    if log:
        panel = panel.scale_distribution(
            common.ScaleDistributionConfig().type(models.ScaleDistribution.LOG).log(10)
        )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))
    return panel


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "none",
    decimals: int | None = None,
    colors: Sequence[tuple[float | None, str]] = _PLAIN,
    mappings: list[dashboard.ValueMapping] | None = None,
    absent: str = "undefined",
    names_only: bool = False,
) -> stat.Panel:
    """Large numbers as of now; `absent` stands there when there is none."""
    mode = models.BigValueTextMode.NAME if names_only else models.BigValueTextMode.AUTO
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets(list(_targets(queries, instant=True)))
        .unit(unit)
        .no_value(absent)
        .thresholds(steps(*colors))
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .color_mode(models.BigValueColorMode.VALUE)
        .graph_mode(models.BigValueGraphMode.NONE)
        .text_mode(mode)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel if mappings is None else panel.mappings(mappings)


def timeline(
    title: str, description: str, *queries: Query, mappings: list[dashboard.ValueMapping]
) -> statetimeline.Panel:
    """Which word held when, one line a series."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets(list(_targets(queries, instant=False)))
        .unit("none")
        .mappings(mappings)
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.FIXED).fixed_color("text"))
        .merge_values(True)
        .show_value(models.VisibilityMode.AUTO)
        .align_value(models.TimelineValueAlignment.LEFT)
        .row_height(0.8)
        .per_page(25)
        .fill_opacity(80)
        .line_width(0)
        .legend(common.VizLegendOptions().show_legend(False))
    )


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "none",
    decimals: int | None = None,
    low: float | None = 0,
    links: list[cog.Builder[dashboard.DashboardLink]] | None = None,
) -> bargauge.Panel:
    """A few numbers beside each other, as of now; bars begin at `low`, or at the least of them."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets(list(_targets(queries, instant=True)))
        .unit(unit)
        .no_value("none")
        .thresholds(steps((None, "blue")))
        .display_mode(models.BarGaugeDisplayMode.BASIC)
        .orientation(models.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    )
    if low is not None:
        panel = panel.min(low)
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel if links is None else panel.data_links(links)


def table_of(
    title: str,
    description: str,
    *columns: Column,
    names: Mapping[str, str],
    absent: str = "none",
    hidden: Sequence[str] = (),
    labels: Mapping[str, Sequence[dashboard.DynamicConfigValue]] | None = None,
) -> table.Panel:
    """One row for each set of labels. `names` are the labels' titles, in order; `hidden` ones are not shown.

    `labels` says more of how a label's cells look, by its title.
    """
    targets = []
    for ref_id, column in zip(_REF_IDS, columns, strict=False):
        target = prometheus.Dataquery().datasource(DATASOURCE).expr(column.expr).ref_id(ref_id)
        targets.append(target.format(PromQueryFormat.TABLE).instant())
    # With one query its column is called Value, with several Value #A, Value #B, ...
    values = ["Value"] if len(columns) == 1 else [f"Value #{ref_id}" for ref_id in _REF_IDS[: len(columns)]]
    shown = [*names, *values]
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .targets(list(targets))
        .unit("none")
        .no_value(absent)
        .filterable(True)
        .with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", *hidden), True),
                    "indexByName": {field: place for place, field in enumerate(shown)},
                    "renameByName": {
                        **names,
                        **{field: column.title for field, column in zip(values, columns, strict=True)},
                    },
                },
            )
        )
    )
    for field, column in zip(values, columns, strict=True):
        if field in hidden:
            continue
        properties = [property_("unit", column.unit)]
        if column.decimals is not None:
            properties.append(property_("decimals", column.decimals))
        panel = panel.override_by_name(column.title, [*properties, *column.properties])
    for label, looks in (labels or {}).items():
        panel = panel.override_by_name(label, list(looks))
    return panel


def html(title: str, description: str, content: str) -> text.Panel:
    """A piece of HTML; no query, no script."""
    return text.Panel().title(title).description(description).mode(TextMode.HTML).content(content)
