"""Files that Grafana reads at its start: fixed names, nothing secret, and an alert rule that Prometheus understands."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.dashboards import FOLDER, NAMES, ROOT, load
from support.prometheus import rule_problems, run_prometheus

FILES = {
    kind: FOLDER / "provisioning" / kind / "trajmon.yaml"
    for kind in ("datasources", "dashboards", "alerting")
}
ENVIRONMENT = {"PROMETHEUS_URL", "ALERTMANAGER_URL", "TRAJMON_URL", "TRAJMON_READ_TOKEN"}
UIDS = ("trajmon-prometheus", "trajmon-alertmanager", "trajmon-pictures")
Content = dict[str, Any]


def provisioned() -> dict[str, Content]:
    return {kind: yaml.safe_load(path.read_text(encoding="utf-8")) for kind, path in FILES.items()}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def problems(files: dict[str, Content]) -> list[str]:
    """What is wrong with the files as a whole."""
    found = [
        f"{kind}: apiVersion is not 1" for kind, content in files.items() if content.get("apiVersion") != 1
    ]
    sources = files["datasources"]["datasources"]
    found += (
        []
        if tuple(source["uid"] for source in sources) == UIDS
        else ["uids of the data sources have changed"]
    )
    found += [f"{s['name']}: can be edited" for s in sources if s["editable"]]
    found += [f"{s['name']}: asked by browsers" for s in sources if s["access"] != "proxy"]
    found += [f"{s['name']}: address is not of the environment" for s in sources if s["url"] not in URLS]
    if [source["uid"] for source in sources if source.get("isDefault")] != ["trajmon-prometheus"]:
        found.append("the default is not Prometheus")
    pictures = sources[2]
    if pictures.get("secureJsonData") != {"httpHeaderValue1": "Bearer ${TRAJMON_READ_TOKEN}"}:
        found.append("the token is not a secret of the environment")
    if pictures["jsonData"].get("httpHeaderName1") != "Authorization":
        found.append("the token is not sent as Authorization")
    used = {name for text in texts(files) for name in re.findall(r"\$\{?(\w+)", text)}
    found += [f"environment {name} is used and not known" for name in sorted(used - ENVIRONMENT)]
    found += [f"environment {name} is known and not used" for name in sorted(ENVIRONMENT - used)]
    (provider,) = files["dashboards"]["providers"]
    if provider["allowUiUpdates"] or provider["type"] != "file":
        found.append("dashboards could be changed in Grafana")
    (group,) = files["alerting"]["groups"]
    for rule in group["rules"]:
        queries = {query["refId"]: query for query in rule["data"]}
        found += [f"{rule['title']}: condition is no query"] * (rule["condition"] not in queries)
        for ref, query in queries.items():
            if query["datasourceUid"] not in (*UIDS, "__expr__"):
                found.append(f"{rule['title']}: query {ref} asks no data source of ours")
            if query["model"]["refId"] != ref:
                found.append(f"{rule['title']}: query {ref} names itself otherwise")
        if (rule["noDataState"], rule["execErrState"]) != ("Alerting", "Alerting"):
            found.append(f"{rule['title']}: silent when Prometheus is")
    return found


URLS = ("${PROMETHEUS_URL}", "${ALERTMANAGER_URL}", "${TRAJMON_URL}")


def test_the_files_are_well_formed() -> None:
    assert problems(provisioned()) == []


def _source(files: dict[str, Content], number: int) -> Content:
    source: Content = files["datasources"]["datasources"][number]
    return source


def _rule(files: dict[str, Content]) -> Content:
    rule: Content = files["alerting"]["groups"][0]["rules"][0]
    return rule


FAULTS: dict[str, Callable[[dict[str, Content]], object]] = {
    "alerting: apiVersion is not 1": lambda f: f["alerting"].pop("apiVersion"),
    "uids of the data sources have changed": lambda f: _source(f, 0).update(uid="prometheus"),
    "trajmon Prometheus: can be edited": lambda f: _source(f, 0).update(editable=True),
    "trajmon Prometheus: asked by browsers": lambda f: _source(f, 0).update(access="direct"),
    "trajmon Prometheus: address is not of the environment": lambda f: _source(f, 0).update(
        url="http://a:9090"
    ),
    "the default is not Prometheus": lambda f: _source(f, 2).update(isDefault=True),
    "the token is not a secret of the environment": lambda f: _source(f, 2).update(secureJsonData={}),
    "the token is not sent as Authorization": lambda f: _source(f, 2)["jsonData"].pop("httpHeaderName1"),
    "environment TRAJMON_TOKEN is used and not known": lambda f: _source(f, 0).update(
        basicAuth="$TRAJMON_TOKEN"
    ),
    "environment ALERTMANAGER_URL is known and not used": lambda f: _source(f, 1).update(url=""),
    "dashboards could be changed in Grafana": lambda f: f["dashboards"]["providers"][0].update(
        allowUiUpdates=True
    ),
    "TrajmonPrometheusSilent: condition is no query": lambda f: _rule(f).update(condition="C"),
    "TrajmonPrometheusSilent: query A asks no data source of ours": lambda f: _rule(f)["data"][0].update(
        datasourceUid="x"
    ),
    "TrajmonPrometheusSilent: query A names itself otherwise": lambda f: _rule(f)["data"][0]["model"].update(
        refId="C"
    ),
    "TrajmonPrometheusSilent: silent when Prometheus is": lambda f: _rule(f).update(noDataState="OK"),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_planted_fault_is_found(message: str) -> None:
    broken = copy.deepcopy(provisioned())
    FAULTS[message](broken)
    assert message in problems(broken)


def test_dashboards_and_data_sources_know_each_other() -> None:
    for name in NAMES:
        variables = {v["name"]: v for v in load(name)["templating"]["list"]}
        assert variables["datasource"]["current"]["value"] == "trajmon-prometheus"
        excluded = re.compile(variables["datasource"]["regex"].strip("/"))
        names = [source["name"] for source in provisioned()["datasources"]["datasources"]]
        assert [name for name in names if excluded.search(name)] == [
            "trajmon Prometheus",
            "trajmon Alertmanager",
        ]
    pictures = next(v for v in load("trajmon-run")["templating"]["list"] if v["name"] == "pictures")
    assert pictures["query"] == "/api/datasources/proxy/uid/trajmon-pictures"


def test_every_variable_of_the_environment_is_documented() -> None:
    page = (ROOT / "docs" / "guide-grafana.md").read_text(encoding="utf-8")
    assert sorted(name for name in ENVIRONMENT if f"| `{name}` |" not in page) == []


def yamllint(text: str) -> str:
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "yamllint",
            "--strict",
            "-d",
            "{extends: default, rules: {line-length: {max: 120}}}",
            "-",
        ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (answer.returncode == 0) == (answer.stdout == "")
    return answer.stdout


@pytest.mark.parametrize("kind", FILES)
def test_yamllint_has_nothing_to_say(kind: str) -> None:
    assert yamllint(FILES[kind].read_text(encoding="utf-8")) == ""


def test_yamllint_finds_a_key_given_twice() -> None:
    assert "duplication of key" in yamllint("---\na: 1\na: 2\n")


def rule_expr() -> str:
    return str(_rule(provisioned())["data"][0]["model"]["expr"])


def test_promtool_reads_the_rule(tmp_path: Path) -> None:
    assert rule_problems([rule_expr()], tmp_path) == ""


def test_the_rule_is_quiet_while_prometheus_has_the_target(tmp_path: Path) -> None:
    """Where there is no such job there is no data, which counts as firing. Scraped here: Prometheus itself."""
    with run_prometheus(tmp_path, {}) as prometheus:
        threshold = _rule(provisioned())["data"][1]["model"]["conditions"][0]["evaluator"]
        assert threshold == {"type": "lt", "params": [1]}
        assert prometheus.values(rule_expr()) == [1.0]
        assert prometheus.values(rule_expr().replace("trajmon", "another")) == []
