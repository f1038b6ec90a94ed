"""What more than one dashboard has: the words of an advice, alerts, links."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard

from trajmon_dashboards.parts import ADVICE, Column, Panel, property_, table_of, words
from trajmon_dashboards.variables import constant, labels_of

__all__ = [
    "RUN_DASHBOARD",
    "advice_code",
    "advice_words",
    "alerts",
    "begin",
    "job_variable",
    "page_variables",
    "run_links",
]

RUN_DASHBOARD = "/d/trajmon-run?${__url_time_range}&var-datasource=${datasource}&var-job=${job:percentencode}"


def advice_words() -> list[dashboard.ValueMapping]:
    """Codes of :func:`advice_code` as words in their colours."""
    return words(dict(enumerate(ADVICE.items())))


def advice_code(selector: str) -> str:
    """An expression for the place of the current state in :data:`~trajmon_dashboards.parts.ADVICE`, by run."""
    states = " or ".join(
        f'(trajmon_advice_state{{{selector}, state="{state}"}} == 1) * {code}'
        for code, state in enumerate(ADVICE)
    )
    return f"max by (run) ({states})"


def alerts(title: str, description: str, selector: str, *, of_run: bool) -> Panel:
    """Alerts of Prometheus that fire, or are about to, and for how long their condition has held."""
    kept = "alertname, severity, group" if of_run else "alertname, severity, run, group, instance"
    age = f"time() - max by ({kept}) (ALERTS_FOR_STATE{{{selector}}})"
    known = f"max by ({kept}, alertstate) (ALERTS{{{selector}}})"
    names = {
        "alertname": "Alert",
        "severity": "Severity",
        "alertstate": "State",
        "run": "Run",
        "group": "Group",
        "instance": "Server",
    }
    if of_run:
        del names["run"], names["instance"]
    severity = _colored_words({"critical": "red", "warning": "orange", "info": "blue"})
    state = _colored_words({"firing": "red", "pending": "yellow"})
    colored = property_("custom.cellOptions", {"type": "color-text"})
    return table_of(
        title,
        description,
        Column("For", f"{known} * on ({kept}) group_left () ({age})", "s"),
        names=names,
        absent="no alerts",
        labels={
            "Severity": [colored, property_("mappings", severity)],
            "State": [colored, property_("mappings", state)],
            **({} if of_run else {"Run": [property_("links", run_links())]}),
        },
    )


def run_links() -> list[dict[str, object]]:
    """Links of a cell that holds a run's name to the dashboard of that run."""
    url = f"{RUN_DASHBOARD}&var-run=${{__value.raw:percentencode}}"
    return [{"title": "Dashboard of this run", "url": url, "targetBlank": False}]


def _colored_words(colors: dict[str, str]) -> list[dashboard.ValueMapping]:
    """Texts that are shown in a colour."""
    return [
        dashboard.ValueMap(
            {
                text: dashboard.ValueMappingResult(text=text, color=color, index=index)
                for index, (text, color) in enumerate(colors.items())
            }
        )
    ]


def job_variable() -> build.QueryVariable:
    """Which deployment."""
    return labels_of("job", "job", "trajmon_build_info", "Job of Prometheus: one deployment of trajmon.")


def page_variables(web: str, pictures: str | None = None) -> list[build.ConstantVariable]:
    """Addresses as readers' browsers see them."""
    found = [constant("web", "Address of trajmon's web page as browsers see it.", web)]
    if pictures is not None:
        found.append(constant("pictures", "Where browsers find the pictures of maps.", pictures))
    return found


def begin(title: str, uid: str, description: str, page: str, page_title: str) -> build.Dashboard:
    """A dashboard without panels, with links to the others and to the web page."""
    others = (
        build.DashboardLink("trajmon")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags(["trajmon"])
        .as_dropdown(False)
        .include_vars(False)
        .keep_time(True)
    )
    web = (
        build.DashboardLink(page_title)
        .type(dashboard.DashboardLinkType.LINK)
        .icon("external link")
        .url(page)
        .target_blank(True)
        .tooltip("trajmon's own page: maps, layers, curves over steps")
    )
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["trajmon"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .links([others, web])
    )
