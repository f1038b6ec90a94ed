"""Every expression of the dashboards returns data: a real Prometheus scrapes a real server that holds real rows.

What must be empty while all is well is named, and returns data once the fault is there that it is about.
"""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.calls import get_map, open_run, push, push_all, report
from support.dashboards import FOLDER, NAMES, Expression, expressions, load, substitute, unexported
from support.prometheus import Prometheus, run_prometheus
from support.promql import selectors
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketched_rows import SketchedRun
from support.tls import Authority, TlsClient, context_of, server_environment
from support.tls import get as tls_get
from trajmon_protos.v1 import ingest_pb2

RULES = FOLDER.parent / "prometheus" / "trajmon.rules.yaml"
WATCHED = SketchedRun("watched", layer_size=500, bins=101)
"""Rests on estimates, so that there are standard errors."""
PLAIN = SyntheticRun("plain", num_checkpoints=12)
FAULTY = SyntheticRun("faulty", num_checkpoints=6)
EMPTY_WHILE_ALL_IS_WELL = {
    "trajmon-run / Alerts of this run / A",
    "trajmon-fleet / Alerts / A",
    "trajmon-server / Refused and set aside / A",
    "trajmon-server / Calls that failed / A",
}
VALUES = {
    "job": "trajmon",
    "run": "watched",
    "group": ".*",
    "instance": ".*",
    "top": "5",
    "__rate_interval": "30s",
}
WAIT_SECONDS = 60.0


Exported = dict[str, dict[str, set[str]]]
NOT_SHOWN: set[str] = set()
"""Metrics of the server that no dashboard is meant to show."""


@dataclass(frozen=True)
class Site:
    """A server, and the Prometheus that scrapes it and another that shows one of its runs as well."""

    client: Client
    """Of the server."""
    prometheus: Prometheus
    exported: Exported
    """What both servers export."""


def tell(client: Client, run: SyntheticRun, epoch: int) -> None:
    """Report as an agent does."""
    request = ingest_pb2.ReportStatusRequest(
        run_id=run.run_id,
        writer_epoch=epoch,
        phase=ingest_pb2.RUN_PHASE_RUNNING,
        checkpoints_recorded=20,
        checkpoints_pending=2,
        checkpoints_uncomputed=1,
        lag_seconds=0.5,
        snapshot_mode=ingest_pb2.SNAPSHOT_MODE_SKETCH,
        snapshots_kept=2,
    )
    client.ingest.ReportStatus(request, metadata=client.metadata, timeout=20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two runs that train and one that has ended. Rows of one come while Prometheus scrapes: rates are known.

    One run is shown by two servers, as it is for a moment when it moves from one replica to another. The other server
    speaks TLS.
    """
    folder = tmp_path_factory.mktemp("dashboards")
    with contextlib.ExitStack() as held:
        authority = Authority(folder / "certificates")
        server = ServerProcess(folder / "home").start()
        held.callback(server.stop)
        other = ServerProcess(
            folder / "other", environment=server_environment(authority.issue("other"))
        ).start()
        held.callback(other.stop)
        client = held.enter_context(Client(server.addresses["grpc"], server.token))
        with TlsClient(other.addresses["grpc"], other.token, authority.file) as others:
            push_all(others, PLAIN)
            get_map(others, "plain")
        ended = SyntheticRun("ended", num_checkpoints=3)
        report(client, ended, push_all(client, ended), ingest_pb2.RUN_PHASE_FINISHED)
        tell(client, PLAIN, push_all(client, PLAIN))
        epoch = open_run(client, WATCHED).writer_epoch
        tell(client, WATCHED, epoch)
        targets = {server.addresses["metrics"]: None, other.addresses["metrics"]: authority.file}
        prometheus = held.enter_context(run_prometheus(folder, targets, RULES))
        for checkpoint in range(WATCHED.num_checkpoints):
            push(client, WATCHED, epoch, WATCHED.sketch_record(checkpoint))
            push(client, WATCHED, epoch, WATCHED.record(checkpoint))
            # Some come before a scrape and some after it.
            time.sleep(0.2)
        get_map(client, "watched")
        get_map(client, "plain")
        texts = (
            get(server.addresses["metrics"]),
            tls_get(other.addresses["metrics"], "/metrics", context_of(authority.file)).text,
        )
        yield Site(client, prometheus, samples_of(*texts))


def get(address: str) -> str:
    """What the server exports."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def samples_of(*texts: str) -> Exported:
    """Every sample in what servers export: metric, label, values."""
    found: Exported = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    return found


@pytest.fixture(scope="module")
def exported(site: Site) -> Exported:
    return site.exported


def filled(expression: Expression, **other: str) -> str:
    return substitute(expression.text, {**VALUES, **other})


def all_expressions() -> list[Expression]:
    return [expression for name in NAMES for expression in expressions(load(name))]


# First, while all is well; the tests below plant faults.
@pytest.mark.parametrize("name", NAMES)
def test_every_expression_returns_data(site: Site, name: str) -> None:
    wanted = {filled(e): e for e in expressions(load(name)) if e.place not in EMPTY_WHILE_ALL_IS_WELL}
    missing = site.prometheus.wait_for(list(wanted), WAIT_SECONDS)
    assert [(wanted[text].place, text) for text in missing] == []


def test_what_is_about_faults_is_empty_while_all_is_well(site: Site) -> None:
    about = [e for e in all_expressions() if e.place in EMPTY_WHILE_ALL_IS_WELL]
    assert {e.place for e in about} == EMPTY_WHILE_ALL_IS_WELL
    assert [
        (e.place, site.prometheus.labels(filled(e))) for e in about if site.prometheus.values(filled(e))
    ] == []


def test_every_metric_and_label_is_exported(exported: Exported) -> None:
    assert [problem for e in all_expressions() for problem in unexported(e, exported)] == []


def test_every_metric_of_the_server_is_shown_somewhere(exported: Exported) -> None:
    shown = {selector.metric for e in all_expressions() for selector in selectors(e.text)}
    own = {
        name
        for name in exported
        if name.startswith("trajmon_") and not re.search("_(count|sum|created)$", name)
    }
    assert len(own) > 30
    assert sorted(own - shown - NOT_SHOWN) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('max(trajmon_parameter_norms{job="$job"})', "metric trajmon_parameter_norms is not exported"),
        ('trajmon_parameter_norm{layer="a"}', "trajmon_parameter_norm has no label layer"),
        ("sum by (layer) (trajmon_parameter_norm)", "no metric of it has the label layer"),
        ('trajmon_advice_state{state="wait"}', "trajmon_advice_state has no state='wait'"),
        ('trajmon_hallmark_standard_error{hallmark="omega"}', "has no hallmark='omega'"),
        ('ALERTS{layer="a"}', "ALERTS has no label layer"),
    ],
)
def test_what_nobody_exports_is_found(exported: Exported, text: str, said: str) -> None:
    (problem,) = unexported(Expression("d", "p", "A", text, "none"), exported)
    assert problem.startswith("d / p / A: ")
    assert problem.endswith(said)


def test_an_expression_without_data_is_found(site: Site) -> None:
    dead = [
        'trajmon_parameter_norm{run="nobody"}',
        "0 * trajmon_checkpoints / 0",
        "trajmon_parameter_norm > 1e300",
    ]
    assert site.prometheus.wait_for([*dead, "up"], 0.5) == dead


def test_numbers_are_those_of_the_rows(site: Site) -> None:
    """A few, end to end, against the rows themselves: not only something comes, but the right thing."""
    texts = {e.place: filled(e, run="plain", group="network") for e in all_expressions()}

    def now(place: str) -> list[float]:
        return site.prometheus.values(texts[place])

    gram = PLAIN.gram(list(range(PLAIN.num_checkpoints)))
    lengths = gram.diagonal() ** 0.5
    mds = (gram / lengths / lengths[:, None]).mean()
    assert now("trajmon-run / MDS of the network / A") == [pytest.approx(mds, rel=1e-12)]
    growth = pytest.approx(lengths[11] / lengths[3], rel=1e-12)
    assert now("trajmon-run / Growth of the parameter norm / A") == [growth]
    assert now("trajmon-run / Step / A") == [110.0]
    assert now("trajmon-run / Training / A") == [1.0]
    assert now("trajmon-run / Its standard error / A") == []
    # Two of one server, one of the other.
    assert now("trajmon-fleet / Number of runs / A") == [3.0]
    # One of them is the same run.
    assert sum(now("trajmon-fleet / Runs by advice / A")) == 2.0
    age = time.time() - PLAIN.started - 11
    assert now("trajmon-run / Last checkpoint / A") == [pytest.approx(age, abs=5)]


def test_a_run_that_has_left_the_metrics_still_has_a_picture(site: Site) -> None:
    """The number in the picture's address: milliseconds of the newest row; else one that leaves no checkpoint out."""
    (newest,) = (e for e in all_expressions() if e.place == "trajmon-run / variables / newest")
    heard = max(site.prometheus.values('trajmon_last_heard_timestamp_seconds{run="plain"}'))
    assert site.prometheus.values(filled(newest, run="plain")) == [round(1000 * heard)]
    assert site.prometheus.values(filled(newest, run="nobody")) == [1e12]


def test_the_band_is_one_standard_error_wide(site: Site) -> None:
    texts = {e.place: filled(e) for e in all_expressions()}
    panel = "trajmon-run / MDS of the network, with its standard error"
    (value,), (low,), (high,) = (site.prometheus.values(texts[f"{panel} / {ref}"]) for ref in "ABC")
    (error,) = site.prometheus.values(texts["trajmon-run / Its standard error / A"])
    assert error > 0
    assert [value - low, high - value] == pytest.approx([error, error], rel=1e-9)


def test_faults_are_shown(site: Site) -> None:
    """Two checkpoints with the same parameters, and a row that is another than before: alerts, refusals, codes."""
    FAULTY.parameters[3] = FAULTY.parameters[2]
    epoch = push_all(site.client, FAULTY)
    get_map(site.client, "faulty")
    other = replace(PLAIN, seed=1)
    other.run_id = PLAIN.run_id
    plain_epoch = open_run(site.client, PLAIN).writer_epoch

    def refused() -> None:
        with pytest.raises(grpc.RpcError):
            push(site.client, PLAIN, plain_epoch, other.record(5))

    about = {filled(e, run="faulty"): e for e in all_expressions() if e.place in EMPTY_WHILE_ALL_IS_WELL}
    missing = wait_while(site, list(about), refused)
    assert [about[text].place for text in missing] == []
    report(site.client, FAULTY, epoch, ingest_pb2.RUN_PHASE_FINISHED)


def wait_while(site: Site, exprs: list[str], act: Callable[[], None]) -> list[str]:
    """Act once and again until each expression has data: a rate needs two scrapes with something between them."""
    deadline = time.monotonic() + WAIT_SECONDS
    missing = exprs
    while missing and time.monotonic() < deadline:
        act()
        missing = site.prometheus.wait_for(missing, 1.0)
    return missing
