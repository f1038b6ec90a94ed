"""What the metrics endpoint shows; tests/promtool has Prometheus itself judge it."""

from __future__ import annotations

import gzip
import re
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from support.calls import get_map, open_run, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, query_pb2


def values(text: str, name: str) -> dict[str, float]:
    """Samples of a metric by their label text."""
    found = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.fixture
def watched(server: ServerProcess, client: Client) -> SyntheticRun:
    run = SyntheticRun("metrics", num_checkpoints=7)
    push_all(client, run)
    get_map(client, run.name)
    return run


def test_hallmarks_are_exported_by_run_and_group(server: ServerProcess, watched: SyntheticRun) -> None:
    text = server.scrape()
    gram = watched.gram(list(range(7)))
    norms = gram.diagonal() ** 0.5
    mds = (gram / norms / norms[:, None]).mean()
    exported = values(text, "trajmon_mean_directional_similarity")
    assert exported['{group="network",run="metrics"}'] == pytest.approx(mds, rel=1e-12)
    assert '{group="first",run="metrics"}' in exported
    assert values(text, "trajmon_checkpoint_step") == {'{run="metrics"}': 60.0}
    assert values(text, "trajmon_last_checkpoint_timestamp_seconds") == {
        '{run="metrics"}': watched.started + 6
    }
    assert sum(values(text, "trajmon_advice_state").values()) == 1.0
    assert values(text, "trajmon_switch_advised") == {'{run="metrics"}': 0.0}
    assert values(text, "trajmon_ingest_rows_total") == {
        '{outcome="stored"}': 7.0,
        '{outcome="duplicate"}': 0.0,
    }
    assert values(text, "trajmon_series_suppressed") == {"": 0.0}
    assert 'run_id="' + watched.run_id in text
    for vertex in ("initialization", "origin"):
        assert f'{{group="network",run="metrics",vertex="{vertex}"}}' in values(
            text, "trajmon_apex_angle_degrees"
        )


def test_finished_runs_leave_the_exposition(tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path / "home", environment={"TRAJMON_SERVER_FINISHED_EXPORT_SECONDS": "0"}
    ).start()
    try:
        with Client(server.addresses["grpc"], server.token) as client:
            run = SyntheticRun("over")
            epoch = push_all(client, run)
            get_map(client, run.name)
            assert values(server.scrape(), "trajmon_parameter_norm")
            report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
            assert not values(server.scrape(), "trajmon_parameter_norm")
    finally:
        server.stop()


def test_a_finished_run_stays_in_the_exposition_for_a_while(
    server: ServerProcess, client: Client, watched: SyntheticRun
) -> None:
    epoch = open_run(client, watched).writer_epoch
    report(client, watched, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    assert values(server.scrape(), "trajmon_parameter_norm")
    assert values(server.scrape(), "trajmon_journal_healthy") == {"": 1.0}
    server.kill()
    server.start()
    get_map(client, watched.name)
    assert values(server.scrape(), "trajmon_parameter_norm")


def test_the_number_of_series_is_capped_and_the_rest_counted(tmp_path: Path) -> None:
    # Three runs of two groups, which have 29 + 2 * 12 series each.
    environment = {"TRAJMON_SERVER_LIMITS__MAX_EXPORTED_SERIES": "160"}
    server = ServerProcess(tmp_path / "home", environment=environment).start()
    try:
        with Client(server.addresses["grpc"], server.token) as client:
            for index in range(6):
                run = SyntheticRun(f"run-{index}", seed=index)
                push_all(client, run, stop=2)
                get_map(client, run.name)
        text = server.scrape()
        shown = [f'{{run="run-{index}"}}' for index in (5, 4, 3)]
        assert list(values(text, "trajmon_checkpoint_step")) == shown
        assert values(text, "trajmon_series_suppressed")[""] == 3 * 53
        assert values(text, "trajmon_exported_runs")[""] == 3
        assert values(text, "trajmon_runs")['{state="active"}'] == 6
    finally:
        server.stop()


def series(text: str) -> set[str]:
    """Everything but the values; buckets and calls of methods that were called before are there already."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_what_an_agent_tells_and_when(server: ServerProcess, client: Client, watched: SyntheticRun) -> None:
    assert not values(server.scrape(), "trajmon_agent_last_report_timestamp_seconds")
    assert not values(server.scrape(), "trajmon_agent_lag_seconds")
    epoch = open_run(client, watched).writer_epoch
    before = time.time()
    report(client, watched, epoch, ingest_pb2.RUN_PHASE_RUNNING)
    text = server.scrape()
    (told,) = values(text, "trajmon_agent_last_report_timestamp_seconds").values()
    assert before - 1 <= told <= time.time() + 1
    assert values(text, "trajmon_agent_lag_seconds") == {'{run="metrics"}': 0.0}
    (heard,) = values(text, "trajmon_last_heard_timestamp_seconds").values()
    assert heard <= told
    assert values(text, "trajmon_checkpoint_interval_seconds") == {'{run="metrics"}': 1.0}
    assert values(text, "trajmon_unanalysed_checkpoints") == {'{run="metrics"}': 0.0}
    # Nobody has told this server anything.
    server.kill()
    server.start()
    get_map(client, watched.name)
    text = server.scrape()
    assert not values(text, "trajmon_agent_last_report_timestamp_seconds")
    assert values(text, "trajmon_last_heard_timestamp_seconds") == {'{run="metrics"}': watched.started + 6}
    assert values(text, "trajmon_nonfinite_layers") == {'{run="metrics"}': 0.0}


def test_strangers_leave_no_series(server: ServerProcess, client: Client, watched: SyntheticRun) -> None:
    stranger = SyntheticRun("stranger").open_request()
    spoilers = ('"', "\n", "{}", "\\", "\u202e", "é", "team/", "\x00", "a" * 300)

    def offer(index: int) -> None:
        """One of each kind of call that a stranger can make."""
        text = f"{index}{spoilers[index % len(spoilers)]}"
        stranger.name = text
        wrong: list[Any] = [
            client.ingest.OpenRun.future(stranger, metadata=client.metadata, timeout=60),
            client.query.GetRun.future(
                query_pb2.GetRunRequest(run=text), metadata=client.metadata, timeout=60
            ),
            client.ingest.ReportStatus.future(
                ingest_pb2.ReportStatusRequest(run_id=text), metadata=client.metadata, timeout=60
            ),
        ]
        for method in (f"/trajmon_protos.v1.IngestService/Push{index}", f"/x{index}.Y/Z"):
            call: Any = client.channel.unary_unary(method)
            wrong.append(call.future(b"", metadata=client.metadata, timeout=60))
        codes = [call.exception().code() for call in wrong]
        invalid, absent, none = (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNIMPLEMENTED,
        )
        assert codes == [invalid, absent, absent, none, none]
        stream = client.query.GetMap(
            query_pb2.GetMapRequest(run="metrics", scope=f"group:{text}"),
            metadata=client.metadata,
            timeout=60,
        )
        with pytest.raises(grpc.RpcError):
            list(stream)

    offer(0)
    # The first of them; also ends the wait for processes' first garbage collection and such.
    before = series(server.scrape())
    assert any('run="metrics"' in line for line in before)
    for index in range(1, 800):
        offer(index)
    assert series(server.scrape()) == before


def test_the_other_format(server: ServerProcess, watched: SyntheticRun) -> None:
    request = urllib.request.Request(
        f"http://{server.addresses['metrics']}/metrics",
        headers={"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
        text = gzip.decompress(answer.read()).decode()
    parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
    families = {family.name: family for family in parse(text)}
    (info,) = families["trajmon_run"].samples
    assert (families["trajmon_run"].type, info.labels["run_id"]) == ("info", watched.run_id)
    assert values(text, "trajmon_parameter_norm") == values(server.scrape(), "trajmon_parameter_norm")
