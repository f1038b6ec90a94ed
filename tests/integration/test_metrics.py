"""What the metrics endpoint shows; tests/promtool has Prometheus itself judge it."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from support.calls import get_map, open_run, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2


def scrape(server: ServerProcess) -> str:
    with urllib.request.urlopen(f"http://{server.addresses['metrics']}/metrics", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


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
    text = scrape(server)
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
    assert values(text, "trajmon_ingest_rows_total") == {'{outcome="stored"}': 7.0}
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
            assert values(scrape(server), "trajmon_parameter_norm")
            report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
            assert not values(scrape(server), "trajmon_parameter_norm")
    finally:
        server.stop()


def test_a_finished_run_stays_in_the_exposition_for_a_while(
    server: ServerProcess, client: Client, watched: SyntheticRun
) -> None:
    epoch = open_run(client, watched).writer_epoch
    report(client, watched, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    assert values(scrape(server), "trajmon_parameter_norm")
    assert values(scrape(server), "trajmon_journal_healthy") == {"": 1.0}
    server.kill()
    server.start()
    get_map(client, watched.name)
    assert values(scrape(server), "trajmon_parameter_norm")


def test_the_number_of_series_is_capped_and_the_rest_counted(tmp_path: Path) -> None:
    environment = {"TRAJMON_SERVER_LIMITS__MAX_EXPORTED_SERIES": "100"}
    server = ServerProcess(tmp_path / "home", environment=environment).start()
    try:
        with Client(server.addresses["grpc"], server.token) as client:
            for index in range(6):
                run = SyntheticRun(f"run-{index}", seed=index)
                push_all(client, run, stop=2)
                get_map(client, run.name)
        text = scrape(server)
        assert 0 < len(values(text, "trajmon_checkpoint_step")) < 6
        assert values(text, "trajmon_series_suppressed")[""] > 0
    finally:
        server.stop()
