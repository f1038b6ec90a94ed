"""Alertmanager's configuration as amtool judges it: syntax, where alerts go, and what the messages say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alerts.rules import ALERTS, load
from alerts.stack import DEPLOY, program

FOLDER = DEPLOY / "alertmanager"
CONFIG = FOLDER / "alertmanager.yaml"
BY_RUN = {name for name, rule in ALERTS.items() if "$labels.run" in rule["annotations"]["summary"]}


def amtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("amtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_amtool_accepts_the_configuration() -> None:
    answer = amtool("check-config", CONFIG)
    assert answer.returncode == 0, answer.stderr
    assert "1 templates" in answer.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (
            "alertmanager.yaml",
            "receiver: operators\n",
            "receiver: operator\n",
            'undefined receiver "operator"',
        ),
        ("alertmanager.yaml", "group_wait: 5s", "group_waits: 5s", "group_waits not found"),
        ("alertmanager.yaml", "url: http://127.0.0.1:9099/trainers", "url: trainers", "unsupported scheme"),
        ("alertmanager.yaml", "'run!=\"\"'", "'run!\"\"'", "bad matcher"),
        ("templates/trajmon.tmpl", "{{ end }}", "{{ fin }}", "not defined"),
    ],
)
def test_amtool_notices_a_planted_fault(tmp_path: Path, file: str, old: str, new: str, text: str) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "alertmanager"))
    shipped = (folder / file).read_text()
    assert old in shipped
    (folder / file).write_text(shipped.replace(old, new, 1))
    answer = amtool("check-config", folder / "alertmanager.yaml")
    assert answer.returncode != 0
    assert text in answer.stdout + answer.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_runs_go_to_trainers_and_servers_to_operators(alert: str) -> None:
    labels = [f"alertname={alert}", "job=trajmon", f"severity={ALERTS[alert]['labels']['severity']}"]
    labels += ["run=r"] if alert in BY_RUN else []
    answer = amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels)
    assert (answer.returncode, answer.stdout.strip()) == (0, "trainers" if alert in BY_RUN else "operators")


def test_inhibitions_name_alerts_that_exist() -> None:
    for rule in load(CONFIG)["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            parts = re.fullmatch(r'alertname(?:=~|!=|=)"([^"]+)"', matcher)
            assert parts is not None, matcher
            for pattern in parts[1].split("|"):
                assert any(re.fullmatch(pattern, alert) for alert in ALERTS), pattern
        assert "job" in rule["equal"]


def message(tmp_path: Path, alerts: list[dict[str, object]], common: dict[str, str]) -> tuple[str, str]:
    """Title and text as the templates give them."""
    status = "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved"
    data = {"receiver": "trainers", "status": status, "alerts": alerts, "commonLabels": common}
    data |= {"groupLabels": common, "commonAnnotations": {}, "externalURL": "http://127.0.0.1:9093"}
    (tmp_path / "data.json").write_text(json.dumps(data))
    answers = []
    for name in ("title", "text"):
        answer = amtool(
            *("template", "render", f"--template.glob={FOLDER}/templates/*.tmpl"),
            f"--template.data={tmp_path / 'data.json'}",
            f'--template.text={{{{ template "trajmon.{name}" . }}}}',
        )
        assert answer.returncode == 0, answer.stderr
        answers.append(answer.stdout.strip())
    return answers[0], answers[1]


def alert(name: str, status: str, summary: str, **labels: str) -> dict[str, object]:
    return {
        "status": status,
        "labels": {"alertname": name, **labels},
        "annotations": {
            "summary": summary,
            "description": "What happened.",
            "runbook_url": f"docs/runbooks/{name}.md",
        },
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "2026-01-02T04:05:06Z",
    }


def test_the_message_of_a_run_can_be_read_by_a_trainer(tmp_path: Path) -> None:
    title, text = message(
        tmp_path,
        [
            alert("TrajmonNonFiniteParameters", "firing", "Run a: NaN", run="vision/a", severity="critical"),
            alert("TrajmonDirectionLost", "resolved", "Run a: lost", run="vision/a", severity="warning"),
        ],
        {"run": "vision/a"},
    )
    assert title == "[1 firing] run vision/a: 2 alerts"
    assert text.splitlines() == [
        "Run a: NaN",
        "  What happened.",
        "  critical since 2026-01-02 03:04:05 UTC",
        "  What to do: https://example.org/trajmon/docs/runbooks/TrajmonNonFiniteParameters.md",
        "  The run: http://127.0.0.1:8080/runs/a",
        "",
        "Over since 04:05:06 UTC: Run a: lost",
    ]


def test_the_message_of_a_server(tmp_path: Path) -> None:
    alerts = [
        alert("TrajmonServerDown", "resolved", "The server is down", job="trajmon", severity="critical")
    ]
    title, text = message(tmp_path, alerts, {"job": "trajmon"})
    assert title == "[resolved] trajmon: TrajmonServerDown"
    assert text == "Over since 04:05:06 UTC: The server is down"
