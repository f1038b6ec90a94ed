"""Every metric, label and label value that a rule names is one that a real server exposes."""

from __future__ import annotations

import ast
import re
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alerts.replayed import BrokenRun, settled
from alerts.rules import ALERTS, RECORDS
from support.calls import get_map, open_run, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2

MONITOR = Path(__file__).parents[2] / "monitor" / "trajmon_server"
BY_PROMETHEUS = {"job", "instance"}
BY_KUBERNETES = {"namespace", "pod"}
UNSEEN = {
    "trajmon_hallmark_standard_error": {"run", "group", "hallmark"},
    "trajmon_ingest_events_total": {"event"},
    "trajmon_tls_certificate_expiry_timestamp_seconds": set(),
}
"""Metrics that a healthy server without sketched runs and TLS has no sample of, and their labels."""

Exposed = dict[str, dict[str, set[str]]]
"""Values by metric and label."""


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    """What a server exposes that holds a run of every kind."""
    server = ServerProcess(tmp_path_factory.mktemp("rules") / "home").start()
    try:
        with Client(server.addresses["grpc"], server.token) as client:
            long = SyntheticRun("long", num_checkpoints=12)
            push_all(client, long)
            report(client, long, open_run(client, long).writer_epoch, ingest_pb2.RUN_PHASE_RUNNING)
            push_all(client, settled("settled"))
            BrokenRun(client, "broken").blow_up()
            for name in ("long", "settled", "broken"):
                get_map(client, name)
        with urllib.request.urlopen(f"http://{server.addresses['metrics']}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    finally:
        server.stop()
    found: Exposed = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name]["job"].add("trajmon")
    return found


METRIC = r"(?<![\w:])(?:up|trajmon_\w+|[a-z_]+:trajmon_\w+:\w+)(?![\w:])"
SELECTOR = re.compile(rf"({METRIC})(?:\{{([^}}]*)\}})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Metrics of an expression with their matchers: label, operator, value."""
    return [(match[1], MATCHER.findall(match[2] or "")) for match in SELECTOR.finditer(expression)]


def groupings(expression: str) -> set[str]:
    """Labels in the grouping clauses of an expression."""
    return {label.strip() for match in GROUPING.finditer(expression) for label in match[1].split(",")} - {""}


def test_the_reading_of_expressions() -> None:
    expression = (
        'sum by (job, x) (a:trajmon_b:max{c="d", e=~"f.+"}) / on (y) group_left () trajmon_z[5m] or up'
    )
    assert selectors(expression) == [
        ("a:trajmon_b:max", [("c", "=", "d"), ("e", "=~", "f.+")]),
        ("trajmon_z", []),
        ("up", []),
    ]
    assert groupings(expression) == {"job", "x", "y"}


def expressions() -> dict[str, str]:
    return {name: rule["expr"] for name, rule in (RECORDS | ALERTS).items()}


def labels_of(metric: str, exposed: Exposed) -> set[str]:
    """Labels that a metric can have where rules see it; AssertionError if there is no such metric."""
    if metric == "up":
        return BY_PROMETHEUS | BY_KUBERNETES
    if metric in RECORDS:
        return {label for name, _ in selectors(RECORDS[metric]["expr"]) for label in labels_of(name, exposed)}
    assert metric in exposed or metric in UNSEEN, f"nothing exposes {metric}"
    return set(exposed.get(metric, {})) | UNSEEN.get(metric, set()) | BY_PROMETHEUS | BY_KUBERNETES


def events_in_code() -> set[str]:
    """Every event that the server counts, from its source."""
    return {
        argument.value
        for path in MONITOR.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else "") == "count_event"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def values_of(metric: str, label: str, exposed: Exposed) -> set[str]:
    """Values that a label can have, as far as a real server tells."""
    if label == "event":
        return events_in_code()
    if metric in RECORDS:
        names = [name for name, _ in selectors(RECORDS[metric]["expr"])]
        return set().union(*(values_of(name, label, exposed) for name in names))
    if metric == "up":
        return {"trajmon"}
    if metric == "trajmon_hallmark_standard_error" and label == "hallmark":
        source = (MONITOR / "export" / "analysed.py").read_text()
        return set(re.findall(r'"(\w+)"', source))
    if metric == "trajmon_hallmark_standard_error" and label == "group":
        return {"network"}
    return exposed[metric][label]


def problems(expression: str, exposed: Exposed) -> list[str]:
    """What in an expression no server could ever match."""
    found, known = [], set(BY_PROMETHEUS)
    for metric, matchers in selectors(expression):
        try:
            labels = labels_of(metric, exposed)
        except AssertionError as error:
            found.append(str(error))
            continue
        known |= labels
        for label, operator, value in matchers:
            if label not in labels:
                found.append(f"{metric} has no label {label}")
            elif operator in ("=", "=~"):
                seen = values_of(metric, label, exposed)
                if not any(
                    re.fullmatch(value if operator == "=~" else re.escape(value), one) for one in seen
                ):
                    found.append(f"{metric} never has {label}{operator}{value}, only {sorted(seen)}")
    found += [f"no metric here has the label {label}" for label in groupings(expression) - known]
    return found


@pytest.mark.parametrize("name", expressions())
def test_a_real_server_exposes_what_a_rule_names(name: str, exposed: Exposed) -> None:
    assert selectors(expressions()[name])
    assert problems(expressions()[name], exposed) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("max without (instance, pod) (trajmon_nonfinite_layer)", "nothing exposes trajmon_nonfinite_layer"),
        ('trajmon_advice_state{word="resume"}', "trajmon_advice_state has no label word"),
        (
            'run_state:trajmon_advice_state:max{state="resum"}',
            "run_state:trajmon_advice_state:max never has state=resum, only "
            "['candidate', 'explore', 'resume', 'switch', 'unknown']",
        ),
        ("sum by (job, machine) (trajmon_run_active)", "no metric here has the label machine"),
        ('trajmon_update_angle_degrees{group="net"}', "never has group=net"),
    ],
)
def test_a_planted_fault_is_noticed(expression: str, problem: str, exposed: Exposed) -> None:
    assert problem in "\n".join(problems(expression, exposed))


def test_events_are_read_from_the_source() -> None:
    assert {"damaged_rows", "refused_disk_full", "unreadable_runs"} <= events_in_code()


def test_annotations_name_labels_that_the_alert_has(exposed: Exposed) -> None:
    for name, rule in ALERTS.items():
        known = {"job"}.union(*(labels_of(metric, exposed) for metric, _ in selectors(rule["expr"])))
        used = {
            label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)
        }
        assert used <= known, name
