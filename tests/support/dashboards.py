"""Grafana's dashboards as they are checked in: what must hold of the files, and the expressions in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from support.promql import grouping_labels, selectors

__all__ = [
    "FOLDER",
    "NAMES",
    "Expression",
    "expressions",
    "generate",
    "load",
    "problems",
    "substitute",
    "unexported",
]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana"
NAMES = ("trajmon-run", "trajmon-fleet", "trajmon-server")
Dashboard = dict[str, Any]

# Panels of Grafana 10 and later that need no plugin; graph, singlestat, table-old and their like are gone.
PANEL_TYPES = {"row", "stat", "timeseries", "state-timeline", "table", "bargauge", "text"}
UNITS = {"none", "s", "bytes", "Bps", "ops", "reqps", "degree", "percentunit"}
OF_PROMETHEUS = {
    "ALERTS": {"alertname", "alertstate", "severity", "run", "group", "job"},
    "ALERTS_FOR_STATE": {"alertname", "severity", "run", "group", "job"},
    "up": set(),
    "scrape_samples_scraped": set(),
    "scrape_duration_seconds": set(),
}
"""What Prometheus itself makes, with labels beyond those of the target. An alert has those of its rule."""
OF_TARGET = {"job", "instance"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression of a dashboard."""

    dashboard: str
    panel: str
    ref: str
    text: str
    unit: str
    """Of what it shows; empty for a variable's."""

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.dashboard} / {self.panel} / {self.ref}"


def generate(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the generator; its files come into `out`."""
    return subprocess.run(
        [sys.executable, "-m", "trajmon_dashboards", "--out", str(out), *options],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def load(name: str) -> Dashboard:
    """A dashboard as it is checked in."""
    content: Dashboard = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def expressions(dashboard: Dashboard) -> Iterator[Expression]:
    """Every expression of panels, and those inside of the queries of variables."""
    uid = dashboard["uid"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            unit = _unit_of(panel, target["refId"])
            yield Expression(uid, panel["title"], target["refId"], target["expr"], unit)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            inside = re.fullmatch(r"(?:label_values\((.*), \w+\)|query_result\((.*)\))", query)
            assert inside is not None, query
            yield Expression(uid, "variables", variable["name"], inside[1] or inside[2], "")


def substitute(text: str, values: Mapping[str, str]) -> str:
    """An expression with its variables filled in; KeyError for one that has no value."""
    return re.sub(r"\$(?:(\w+)|\{(\w+)(?::\w+)?\})", lambda found: values[found[1] or found[2]], text)


def _unit_of(panel: Dashboard, ref_id: str) -> str:
    unit = str(panel["fieldConfig"]["defaults"].get("unit", ""))
    if panel["type"] != "table":
        return unit
    renamed = {}
    for transformation in panel["transformations"]:
        renamed.update(transformation["options"].get("renameByName", {}))
    title = renamed.get(f"Value #{ref_id}", renamed.get("Value"))
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": title}:
            unit = next((p["value"] for p in override["properties"] if p["id"] == "unit"), unit)
    return unit


def problems(dashboard: Dashboard) -> list[str]:
    """Everything that is wrong with a dashboard as a file of Grafana's classic format."""
    found = [] if re.fullmatch(r"trajmon-[a-z]+", dashboard.get("uid", "")) else ["uid is not trajmon-..."]
    found += [] if "id" not in dashboard else ["id is set: it is Grafana's to give"]
    found += [] if dashboard.get("schemaVersion", 0) >= 39 else ["schemaVersion is below 39"]
    found += [] if dashboard.get("tags") == ["trajmon"] else ["tags are not [trajmon]"]
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    found += [f"panel id {number} twice" for number in sorted({a for a in ids if ids.count(a) > 1})]
    titles = [panel["title"] for panel in panels]
    found += [f"title {title!r} twice" for title in sorted({a for a in titles if titles.count(a) > 1})]
    found += _grid_problems(panels)
    for panel in panels:
        found += [f"{panel['title']!r}: {text}" for text in _panel_problems(panel)]
    found += _variable_problems(dashboard)
    found += _link_problems(dashboard)
    return found


def _grid_problems(panels: list[Dashboard]) -> Iterator[str]:
    for panel in panels:
        at = panel["gridPos"]
        if at["w"] < 1 or at["h"] < 1 or at["x"] < 0 or at["y"] < 0 or at["x"] + at["w"] > 24:
            yield f"{panel['title']!r} stands outside of the grid"
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        if not (beside or below):
            yield f"{one['title']!r} and {other['title']!r} overlap"


def _panel_problems(panel: Dashboard) -> Iterator[str]:
    if panel["type"] not in PANEL_TYPES:
        yield f"panel type {panel['type']!r} is not one of {sorted(PANEL_TYPES)}"
        return
    if not panel["title"]:
        yield "no title"
    if panel["type"] == "row":
        if panel["panels"]:
            yield "panels inside of an open row"
        return
    if len(panel.get("description", "")) < 15:
        yield "no description"
    if panel["type"] == "text":
        if panel.get("targets"):
            yield "a text with queries: newer Grafanas then shut it off from the page"
        return
    if panel["datasource"] != SOURCE:
        yield "data source is not the variable"
    if not panel.get("targets"):
        yield "no queries"
    refs = [target["refId"] for target in panel["targets"]]
    if len(set(refs)) != len(refs):
        yield "two queries with one refId"
    for target in panel["targets"]:
        if target["datasource"] != SOURCE:
            yield f"query {target['refId']}: data source is not the variable"
        if target["instant"] is target["range"]:
            yield f"query {target['refId']}: neither instant nor range, or both"
        yield from _name_problems(panel, target)
        unit = _unit_of(panel, target["refId"])
        wanted = _unit_wanted(target["expr"])
        if unit not in UNITS or (wanted and unit != wanted):
            yield f"query {target['refId']}: unit is {unit!r}, not {wanted or 'a known one'!r}"


def _name_problems(panel: Dashboard, target: Dashboard) -> Iterator[str]:
    """Labels that a series' name, or a column, is made of, and that the expression does not keep."""
    kept = grouping_labels(target["expr"])
    if panel["type"] == "table":
        renamed = [t["options"]["renameByName"] for t in panel["transformations"] if t["id"] == "organize"]
        named = {name for names in renamed for name in names if not name.startswith("Value")}
    else:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if not target["legendFormat"]:
            yield f"query {target['refId']}: its series have no name"
    yield from (f"query {target['refId']}: label {name} is not kept" for name in sorted(named - kept))


def _unit_wanted(expr: str) -> str:
    """The unit that the names of metrics ask for; empty where they say nothing."""
    metrics = [selector.metric for selector in selectors(expr)]
    if re.search(r"\btime\(\) -", expr) or metrics[0].endswith("_seconds_bucket"):
        return "s"
    if metrics[0].endswith("_bytes") and " / " in expr:
        return "percentunit"
    suffixes = {"_bytes": "bytes", "_bytes_total": "Bps", "_degrees": "degree", "_seconds": "s"}
    return next((unit for end, unit in suffixes.items() if metrics[0].endswith(end)), "")


def _variable_problems(dashboard: Dashboard) -> Iterator[str]:
    variables = dashboard["templating"]["list"]
    names = [variable["name"] for variable in variables]
    if (
        names[:1] != ["datasource"]
        or variables[0]["type"] != "datasource"
        or variables[0]["query"] != "prometheus"
    ):
        yield "the first variable is not the data source"
    known = set(names) | {"__all", "__rate_interval", "__url_time_range", "__value", "__field"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    yield from (f"variable ${name} is used and not there" for name in sorted(used - known))
    yield from (f"variable ${name} is there and not used" for name in sorted(set(names) - used))
    for variable in variables:
        if variable["type"] == "query" and variable["datasource"] != SOURCE:
            yield f"variable ${variable['name']}: data source is not the variable"
        if not variable.get("description"):
            yield f"variable ${variable['name']}: no description"
        if variable["type"] == "constant" and not variable["skipUrlSync"]:
            yield f"variable ${variable['name']}: an address could change it"


def _link_problems(dashboard: Dashboard) -> Iterator[str]:
    links = dashboard["links"]
    if not any(link["type"] == "dashboards" and link["tags"] == ["trajmon"] for link in links):
        yield "no link to the other dashboards"
    if not any(link["type"] == "link" and link["url"].startswith("${web}/") for link in links):
        yield "no link to the web page"
    for uid in re.findall(r'"/d/([\w-]+)', json.dumps(dashboard)):
        if uid not in NAMES:
            yield f"link to {uid!r}, which is no dashboard here"


def unexported(expression: Expression, exported: Mapping[str, Mapping[str, set[str]]]) -> list[str]:
    """What an expression asks for that nobody exports. `exported`: metric, label, values that were seen."""
    found = []
    labels = set(OF_TARGET)
    for selector in selectors(expression.text):
        if selector.metric in OF_PROMETHEUS:
            values: Mapping[str, set[str]] = {label: set() for label in OF_PROMETHEUS[selector.metric]}
        elif selector.metric in exported:
            values = exported[selector.metric]
        else:
            found.append(f"metric {selector.metric} is not exported")
            continue
        labels |= values.keys()
        for label, sign, value in selector.matchers:
            if label not in values and label not in OF_TARGET:
                found.append(f"{selector.metric} has no label {label}")
            elif sign == "=" and "$" not in value and values.get(label) and value not in values[label]:
                found.append(f"{selector.metric} has no {label}={value!r}")
    found += [
        f"no metric of it has the label {label}"
        for label in sorted(grouping_labels(expression.text) - labels)
    ]
    return [f"{expression.place}: {text}" for text in found]
