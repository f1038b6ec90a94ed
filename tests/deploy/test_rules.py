"""The rules as Prometheus judges them: syntax, unit tests of every rule, and that a planted fault is noticed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alerts.rules import ALERTS, FOLDER, RECORDS, RULES, load
from alerts.stack import DEPLOY, changed, program

UNIT_TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
RUNBOOKS = DEPLOY.parent / "docs" / "runbooks"
SECTIONS = ["## What it means", "## How sure it is", "## What to do", "## Silence"]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def copied(folder: Path) -> Path:
    """A copy of the shipped folder, for a fault to be planted in."""
    return Path(shutil.copytree(FOLDER, folder / "prometheus"))


def test_promtool_accepts_rules_and_configuration() -> None:
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", RULES).returncode == 0
    answer = promtool("check", "config", "--lint=all", "--lint-fatal", FOLDER / "prometheus.yaml")
    assert answer.returncode == 0, answer.stderr
    assert "1 rule files found" in answer.stdout


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        (
            "trajmon.rules.yaml",
            {"sum by (job, namespace) (up{": "sum by (job, namespace (up{"},
            "parse error",
        ),
        ("trajmon.rules.yaml", {"keep_firing_for: 1m": "keep_fire_for: 1m"}, "keep_fire_for not found"),
        ("trajmon.rules.yaml", {"$value | humanizePercentage": "$value | percent"}, '"percent" not defined'),
        (
            "prometheus.yaml",
            {"  - trajmon.rules.yaml": "  - rules.yaml"},
            "does not point to an existing file",
        ),
        ("prometheus.yaml", {"label_limit: 16": "labels_limit: 16"}, "labels_limit not found"),
    ],
)
def test_promtool_notices_a_planted_fault(
    tmp_path: Path, file: str, change: dict[str, str], text: str
) -> None:
    folder = copied(tmp_path)
    ((old, new),) = change.items()
    shipped = (folder / file).read_text()
    assert old in shipped
    (folder / file).write_text(shipped.replace(old, new, 1))
    answer = promtool("check", "config", folder / "prometheus.yaml")
    assert answer.returncode != 0
    assert text in answer.stdout + answer.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_unit_tests_of_the_rules_pass(path: Path) -> None:
    answer = promtool("test", "rules", path)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_rule_has_a_unit_test_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    text = ""
    for path in UNIT_TESTS:
        text += path.read_text()
        for test in load(path)["tests"]:
            for case in test.get("alert_rule_test", []):
                (fires if case["exp_alerts"] else silent).add(case["alertname"])
            if any("ALERTS" in case["expr"] for case in test.get("promql_expr_test", [])):
                silent |= {case["alertname"] for case in test.get("alert_rule_test", [])}
    assert sorted(ALERTS.keys() - fires) == []
    assert sorted(ALERTS.keys() - silent) == []
    used = "".join(rule["expr"] for rule in ALERTS.values())
    assert sorted(name for name in RECORDS if name not in used and name not in text) == []


def of_alert(name: str, text: str) -> tuple[int, int]:
    """Where its rule stands in the file."""
    begin = text.index(f"      - alert: {name}\n")
    end = re.compile(r"^ *- (?:alert|name|record):", re.MULTILINE).search(text, begin + 10)
    return begin, len(text) if end is None else end.start()


COMPARISON = re.compile(r"(?<= )(>=|<=|==|<|>)(?= )")
OPPOSITE = {">=": "<", "<=": ">", "==": "!=", "<": ">=", ">": "<="}


def mutants() -> list[tuple[str, str, str]]:
    """Alert, what is changed, and the file's text: each comparison turned around, each duration left out."""
    text = RULES.read_text()
    found = []
    for name in ALERTS:
        begin, end = of_alert(name, text)
        rule = text[begin:end]
        faults = [
            (match.start(), match.end(), OPPOSITE[match[1]])
            for match in COMPARISON.finditer(rule[: rule.index("labels:")])
        ]
        faults += [
            (match.start(), match.end(), "")
            for match in re.finditer(r"^ +(?:keep_firing_for|for): .*\n", rule, re.MULTILINE)
        ]
        for number, (start, stop, new) in enumerate(faults):
            wrong = text[:begin] + rule[:start] + new + rule[stop:] + text[end:]
            found.append((name, f"{number}", wrong))
    return found


@pytest.mark.parametrize("alert", ALERTS)
def test_the_unit_tests_notice_a_planted_fault(alert: str, tmp_path: Path) -> None:
    """One fault an alert; with TRAJMON_RULE_FAULTS=all every comparison and every duration, see `make rule-faults`."""
    survived = []
    planted = [(number, wrong) for name, number, wrong in mutants() if name == alert]
    assert planted
    if os.environ.get("TRAJMON_RULE_FAULTS") != "all":
        planted = planted[:1]
    folder = copied(tmp_path)
    tests = [folder / "tests" / path.name for path in UNIT_TESTS if alert in path.read_text()]
    for number, wrong in planted:
        (folder / "trajmon.rules.yaml").write_text(wrong)
        assert promtool("check", "rules", folder / "trajmon.rules.yaml").returncode == 0
        if all(promtool("test", "rules", path).returncode == 0 for path in tests):
            survived.append(number)
    assert survived == []


def test_alerts_say_what_they_must() -> None:
    for name, rule in ALERTS.items():
        assert re.fullmatch(r"Trajmon[A-Z][A-Za-z]+", name)
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    for name in RECORDS:
        assert re.fullmatch(r"[a-z_]+:trajmon_[a-z_]+:[a-z0-9_]+", name)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("Trajmon*.md")}
    assert pages.keys() == ALERTS.keys()
    for name, text in pages.items():
        lines = text.splitlines()
        assert lines[0] == f"# {name}"
        assert [line for line in lines if line.startswith("## ")] == SECTIONS, name
        assert f"alertname={name}" in text, name
        assert ALERTS[name]["labels"]["severity"] in lines[2], name


def test_the_guide_lists_every_alert() -> None:
    guide = (DEPLOY.parent / "docs" / "guide-alerts.md").read_text()
    listed = re.findall(r"^\| \[(Trajmon\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \|", guide, re.MULTILINE)
    assert [name for name, page, _ in listed if name != page] == []
    assert {name: severity for name, _, severity in listed} == {
        name: rule["labels"]["severity"] for name, rule in ALERTS.items()
    }


def test_a_change_that_changes_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="occurs 0 times"):
        changed("a: 1", {"b": "c"})
