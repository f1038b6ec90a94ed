"""Variables that stand above a dashboard, and those that only its panels see."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.common import DataSourceRef

__all__ = ["DATASOURCE", "DATASOURCE_UID", "constant", "datasource", "hidden_number", "labels_of", "one_of"]

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
DATASOURCE_UID = "trajmon-prometheus"
"""The data source of provisioning/datasources; elsewhere Grafana takes the first Prometheus that it has."""
_ALL = dashboard.VariableOption(selected=True, text="All", value="$__all")


def datasource() -> build.DatasourceVariable:
    """Which Prometheus. The source of pictures has its type too, and is none."""
    return (
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the trajmon servers.")
        .type("prometheus")
        .regex("/^(?!trajmon pictures$).*/")
        .current(dashboard.VariableOption(selected=True, text="trajmon Prometheus", value=DATASOURCE_UID))
    )


def labels_of(
    name: str, label: str, metric: str, text: str, *, many: bool = False, hidden: bool = False
) -> build.QueryVariable:
    """The values of the label `label` of a metric, in the time range that is looked at."""
    query = f"label_values({metric}, {label})"
    variable = (
        build.QueryVariable(name)
        .label(name.replace("_", " ").capitalize())
        .description(text)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": f"variable-{name}"})
        .definition(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.NATURAL_ASC)
    )
    if many:
        variable = variable.multi(True).include_all(True).all_value(".*").current(_ALL)
    if hidden:
        variable = variable.hide(dashboard.VariableHide.HIDE_VARIABLE)
    return variable


def hidden_number(name: str, expr: str, text: str) -> build.QueryVariable:
    """The whole number that an expression has now, for panels alone."""
    query = f"query_result({expr})"
    return (
        build.QueryVariable(name)
        .label(name.replace("_", " ").capitalize())
        .description(text)
        .datasource(DATASOURCE)
        .query({"qryType": 3, "query": query, "refId": f"variable-{name}"})
        .definition(query)
        # Grafana writes a result as: labels, value, time.
        .regex("/ ([0-9]+) /")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .hide(dashboard.VariableHide.HIDE_VARIABLE)
    )


def one_of(name: str, label: str, text: str, values: list[str]) -> build.CustomVariable:
    """One of a few fixed values; the first is the default."""
    options = [
        dashboard.VariableOption(selected=number == 0, text=value, value=value)
        for number, value in enumerate(values)
    ]
    return (
        build.CustomVariable(name)
        .label(label)
        .description(text)
        .values(",".join(values))
        .options(options)
        .current(options[0])
    )


def constant(name: str, text: str, value: str) -> build.ConstantVariable:
    """A value that is set when the dashboard is generated. Unlike a text field's, no address can change it."""
    variable = build.ConstantVariable(name).description(text).value(value)
    # The builder has no word for it.
    variable.build().skip_url_sync = True
    return variable
