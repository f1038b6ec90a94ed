"""Recorded rows, a real server, Prometheus, Alertmanager and a webhook: what arrives there, and that it ends.

The long version, from real trainings and with the durations that are shipped, is `make alerts`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from alerts.replayed import BrokenRun, settled
from alerts.rules import ALERTS, RECORDS
from alerts.stack import Prometheus, stack
from alerts.webhook import Webhook
from support.calls import push_all, report
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2

WAIT_SECONDS = 60.0
FAST_RULES = {"keep_firing_for: 1m": "keep_firing_for: 1s"}
FAST_ROUTES = {
    "group_wait: 10s": "group_wait: 1s",
    "group_wait: 5s": "group_wait: 1s",
    "group_interval: 1m": "group_interval: 1s",
    "group_interval: 30s": "group_interval: 1s",
}


@dataclass
class Site:
    server: ServerProcess
    client: Client
    webhook: Webhook
    prometheus: Prometheus


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All programs; a run that ends leaves the exposition after a second."""
    folder = tmp_path_factory.mktemp("alerts")
    environment = {"TRAJMON_SERVER_FINISHED_EXPORT_SECONDS": "1"}
    server = ServerProcess(folder / "home", environment=environment).start()
    try:
        with (
            Client(server.addresses["grpc"], server.token) as client,
            Webhook() as webhook,
            stack(
                folder,
                server.addresses["metrics"],
                webhook.address,
                interval="1s",
                rule_changes=FAST_RULES,
                alertmanager_changes=FAST_ROUTES,
            ) as prometheus,
        ):
            yield Site(server, client, webhook, prometheus)
    finally:
        server.stop()


def test_a_switch_is_told_until_the_run_has_ended(site: Site) -> None:
    run = settled("settled")
    epoch = push_all(site.client, run)
    told = site.webhook.wait("TrajmonSwitchAdvised", "firing", "settled", seconds=WAIT_SECONDS)
    assert told.path == "/trainers"
    assert told.labels == {
        "alertname": "TrajmonSwitchAdvised",
        "job": "trajmon",
        "run": "settled",
        "severity": "info",
    }
    assert told.annotations["summary"] == "Run settled: norm-only training is advised"
    report(site.client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    site.webhook.wait("TrajmonSwitchAdvised", "resolved", "settled", seconds=WAIT_SECONDS)


def test_a_training_that_breaks_and_is_mended(site: Site) -> None:
    run = BrokenRun(site.client, "broken")
    site.webhook.wait("TrajmonDirectionLost", "firing", "broken", seconds=WAIT_SECONDS)
    run.blow_up()
    told = site.webhook.wait("TrajmonNonFiniteParameters", "firing", "broken", seconds=WAIT_SECONDS)
    assert told.annotations["description"] == "Layers that hold NaN or Inf at the last checkpoint: 1."
    site.webhook.wait("TrajmonDirectionLost", "resolved", "broken", seconds=WAIT_SECONDS)
    run.mend()
    site.webhook.wait("TrajmonNonFiniteParameters", "resolved", "broken", seconds=WAIT_SECONDS)
    assert {notice.path for notice in site.webhook.notices} == {"/trainers"}
    # The finding that NaN is was never told beside the alert that said so.
    assert site.webhook.find("TrajmonIntegrityFinding", "firing") is None


def test_prometheus_evaluates_every_rule(site: Site) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(rule["health"] == "unknown" for rule in site.prometheus.rules()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    rules = site.prometheus.rules()
    assert {rule["name"] for rule in rules} == ALERTS.keys() | RECORDS.keys()
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_every_recording_rule_has_data(site: Site) -> None:
    BrokenRun(site.client, "turning")
    run = settled("reporting")
    report(site.client, run, push_all(site.client, run), ingest_pb2.RUN_PHASE_RUNNING)
    deadline = time.monotonic() + WAIT_SECONDS
    while missing := [name for name in RECORDS if not site.prometheus.query(name)]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.5)
