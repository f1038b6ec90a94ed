"""Grafana's dashboards as files: generated, well formed, read by promtool. Each check finds a planted fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.dashboards import FOLDER, NAMES, Dashboard, expressions, generate, load, problems, substitute
from support.prometheus import rule_problems

VALUES = {
    "job": "trajmon",
    "run": "demo",
    "group": "a|b",
    "instance": "c|d",
    "top": "5",
    "__rate_interval": "1m",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dashboards") / "out"
    answer = generate(out)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    return out


def differences(one: Path, other: Path) -> list[str]:
    """Names of files that are not the same in both folders."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()}
    return sorted(
        name
        for name in names
        if not ((one / name).is_file() and (other / name).is_file())
        or (one / name).read_bytes() != (other / name).read_bytes()
    )


def test_what_is_checked_in_is_what_the_generator_writes(generated: Path) -> None:
    assert differences(generated, FOLDER / "dashboards") == [], "run: make dashboards"
    assert sorted(path.stem for path in generated.iterdir()) == sorted(NAMES)


def test_a_change_by_hand_is_found(generated: Path, tmp_path: Path) -> None:
    for path in generated.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b'"MDS"', b'"mds"', 1))
    assert differences(generated, tmp_path) == ["trajmon-fleet.json", "trajmon-run.json"]
    (tmp_path / "trajmon-server.json").unlink()
    assert "trajmon-server.json" in differences(generated, tmp_path)


def test_addresses_are_chosen_when_generating(tmp_path: Path) -> None:
    answer = generate(tmp_path / "out", "--web", "https://m.example/", "--pictures", "/trajmon")
    assert answer.returncode == 0, answer.stderr
    content = json.loads((tmp_path / "out" / "trajmon-run.json").read_text())
    constants = {v["name"]: v["query"] for v in content["templating"]["list"] if v["type"] == "constant"}
    assert constants == {"web": "https://m.example", "pictures": "/trajmon"}


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "ftp://a", "http://", 'http://a/"x', "http://a/$b", "a/b", "/a?b"]
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    answer = generate(tmp_path / "out", "--pictures", address)
    assert answer.returncode == 2
    assert "is neither http(s)://HOST... nor /PATH, or holds one of" in answer.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_well_formed(name: str) -> None:
    assert problems(load(name)) == []


def _panel(dashboard: Dashboard, kind: str) -> Dashboard:
    panel: Dashboard = next(panel for panel in dashboard["panels"] if panel["type"] == kind)
    return panel


def _graph(content: Dashboard) -> Dashboard:
    return _panel(content, "timeseries")


def _set(place: Dashboard, key: str, value: Any) -> None:
    place[key] = value


FAULTS: dict[str, Callable[[Dashboard], object]] = {
    "uid is not trajmon-...": lambda d: _set(d, "uid", "run"),
    "id is set: it is Grafana's to give": lambda d: _set(d, "id", 7),
    "schemaVersion is below 39": lambda d: _set(d, "schemaVersion", 30),
    "tags are not [trajmon]": lambda d: _set(d, "tags", []),
    "panel id 2 twice": lambda d: _set(_graph(d), "id", 2),
    "title 'MDS' twice": lambda d: _set(d["panels"][5], "title", "MDS"),
    "'MDS' stands outside of the grid": lambda d: _set(_graph(d)["gridPos"], "x", 20),
    "'MDS' and 'Relative MDS' overlap": lambda d: _set(_graph(d)["gridPos"], "w", 9),
    "'MDS': panel type 'graph' is not one of": lambda d: _set(_graph(d), "type", "graph"),
    "'': no title": lambda d: _set(_graph(d), "title", ""),
    "'Now': panels inside of an open row": lambda d: _panel(d, "row")["panels"].append({}),
    "'MDS': no description": lambda d: _set(_graph(d), "description", "MDS"),
    "'About the origin': a text with queries": lambda d: _set(_panel(d, "text"), "targets", [{}]),
    "'MDS': data source is not the variable": lambda d: _set(
        _graph(d), "datasource", {"type": "prometheus", "uid": "x"}
    ),
    "'MDS': query A: data source is not the variable": lambda d: _set(
        _graph(d)["targets"][0], "datasource", {"type": "prometheus", "uid": "x"}
    ),
    "'MDS': no queries": lambda d: _graph(d)["targets"].clear(),
    "'MDS': two queries with one refId": lambda d: _graph(d)["targets"].append(_graph(d)["targets"][0]),
    "'MDS': query A: neither instant nor range": lambda d: _set(_graph(d)["targets"][0], "range", False),
    "'MDS': query A: its series have no name": lambda d: _set(_graph(d)["targets"][0], "legendFormat", ""),
    "'MDS': query A: label layer is not kept": lambda d: _set(
        _graph(d)["targets"][0], "legendFormat", "{{layer}}"
    ),
    "'MDS': query A: unit is 'furlong', not 'a known one'": lambda d: _set(
        _graph(d)["fieldConfig"]["defaults"], "unit", "furlong"
    ),
    "'Held for': query A: unit is 'bytes', not 's'": lambda d: _set(
        d["panels"][2]["fieldConfig"]["defaults"], "unit", "bytes"
    ),
    "the first variable is not the data source": lambda d: d["templating"]["list"].reverse(),
    "variable $rum is used and not there": lambda d: _set(
        _graph(d)["targets"][0], "expr", 'max by (group) (trajmon_parameter_norm{run="$rum"})'
    ),
    "variable $spare is there and not used": lambda d: d["templating"]["list"].append(
        {"name": "spare", "type": "custom", "description": "nothing"}
    ),
    "variable $run: data source is not the variable": lambda d: _set(
        d["templating"]["list"][2], "datasource", {"uid": "x"}
    ),
    "variable $job: no description": lambda d: _set(d["templating"]["list"][1], "description", ""),
    "variable $web: an address could change it": lambda d: _set(
        d["templating"]["list"][6], "skipUrlSync", False
    ),
    "no link to the other dashboards": lambda d: d["links"].pop(0),
    "no link to the web page": lambda d: d["links"].pop(1),
    "link to 'trajmon-rum', which is no dashboard here": lambda d: _set(
        d["links"][1], "url", "/d/trajmon-rum?${web}"
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_planted_fault_is_found(message: str) -> None:
    broken = copy.deepcopy(load("trajmon-run"))
    FAULTS[message](broken)
    assert any(found.startswith(message) for found in problems(broken)), problems(broken)


@pytest.mark.parametrize("name", NAMES)
def test_promtool_reads_every_expression(name: str, tmp_path: Path) -> None:
    texts = [substitute(expression.text, VALUES) for expression in expressions(load(name))]
    assert len(texts) > 20
    assert not any("$" in text for text in texts)
    assert rule_problems(texts, tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max by (group) (trajmon_parameter_norm", "unclosed left parenthesis"),
        ('rate(trajmon_parameter_norm{run="demo"})', "expected type range vector"),
        ("histogram_quantil(0.5, x)", "unknown function"),
    ],
)
def test_promtool_finds_a_planted_fault(text: str, said: str, tmp_path: Path) -> None:
    assert said in rule_problems(["up", text], tmp_path)


def test_a_variable_without_a_value_is_found() -> None:
    with pytest.raises(KeyError, match="instance"):
        substitute('up{instance=~"${instance:regex}"}', {"job": "trajmon"})
