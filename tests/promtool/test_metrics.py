"""The exposition as Prometheus itself judges it: promtool's checks, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.calls import get_map, open_run, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, types_pb2

WAIT_SECONDS = 60.0
GROUPS = ('say "group"', "back\\slash\\n", "{brace}", "ünï", "a,b=c", "# HELP")
"""Names that a run may give its groups, each of the first layer alone."""


class ScrapedRun(SyntheticRun):
    """A run with groups of all names."""

    def layout(self) -> types_pb2.Layout:
        layout = super().layout()
        layout.groups.extend(types_pb2.Group(name=name, layers=[0]) for name in GROUPS)
        return layout


RUN = ScrapedRun("scraped", num_checkpoints=11)


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH; `make promtool` installs it"
    return found


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
    return body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that holds one run, all of whose rows are analysed, and whose agent has reported."""
    started = ServerProcess(
        tmp_path_factory.mktemp("scraped") / "home",
        environment={"TRAJMON_SERVER_FINISHED_EXPORT_SECONDS": "0"},
    ).start()
    try:
        with Client(started.addresses["grpc"], started.token) as client:
            epoch = push_all(client, RUN)
            report(client, RUN, epoch, ingest_pb2.RUN_PHASE_RUNNING)
            # The answer waits until every acknowledged row is analysed.
            get_map(client, RUN.name)
        yield started
    finally:
        started.stop()


@pytest.fixture
def metrics_address(server: ServerProcess) -> str:
    return server.addresses["metrics"]


def test_promtool_accepts_the_exposition(metrics_address: str) -> None:
    exposition = get(f"http://{metrics_address}/metrics")
    assert b"trajmon_mean_directional_similarity{" in exposition
    answer = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exposition,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"", b"")


@pytest.fixture
def prometheus(metrics_address: str, tmp_path: Path) -> Iterator[str]:
    """Base address of a real Prometheus that scrapes the server once a second."""
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        f"- {{job_name: trajmon, static_configs: [{{targets: ['{metrics_address}']}}]}}\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def query(prometheus: str, selector: str) -> list[dict[str, Any]]:
    """What an instant query answers now."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': selector})}"
    found: list[dict[str, Any]] = json.loads(get(url))["data"]["result"]
    return found


def series(prometheus: str, selector: str) -> list[dict[str, Any]]:
    """What an instant query answers, once there is something: Prometheus takes a moment to start."""
    problem: object = "no series"
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            found = query(prometheus, selector)
        except urllib.error.URLError as error:
            problem = error
        else:
            if found:
                return found
        time.sleep(0.2)
    raise AssertionError(f"{selector}: {problem} after {WAIT_SECONDS} s")


def test_a_real_prometheus_reads_the_right_values(prometheus: str) -> None:
    assert series(prometheus, 'up{job="trajmon"} == 1')
    gram = RUN.gram(list(range(RUN.num_checkpoints)))
    lengths = np.sqrt(gram.diagonal())
    (similarity,) = series(prometheus, 'trajmon_mean_directional_similarity{run="scraped",group="network"}')
    assert float(similarity["value"][1]) == pytest.approx(
        np.mean(gram / np.outer(lengths, lengths)), abs=1e-12
    )
    (norm,) = series(prometheus, 'trajmon_parameter_norm{run="scraped",group="network"}')
    assert float(norm["value"][1]) == pytest.approx(lengths[-1], rel=1e-12)
    (step,) = series(prometheus, 'trajmon_checkpoint_step{run="scraped"}')
    assert float(step["value"][1]) == 10 * (RUN.num_checkpoints - 1)
    (rows,) = series(prometheus, 'trajmon_ingest_rows_total{outcome="stored"}')
    assert float(rows["value"][1]) == RUN.num_checkpoints
    states = series(prometheus, 'trajmon_advice_state{run="scraped"}')
    assert {state["metric"]["state"] for state in states} == {
        "explore",
        "candidate",
        "switch",
        "resume",
        "unknown",
    }
    assert sum(float(state["value"][1]) for state in states) == 1
    (info,) = series(prometheus, 'trajmon_run_info{run="scraped"}')
    assert info["metric"]["run_id"] == RUN.run_id
    (growth,) = series(prometheus, 'trajmon_parameter_norm_growth{run="scraped",group="network"}')
    assert float(growth["value"][1]) == pytest.approx(lengths[10] / lengths[2], rel=1e-12)
    norms = series(prometheus, 'trajmon_parameter_norm{run="scraped"}')
    assert {norm["metric"]["group"] for norm in norms} == {"network", "first", *GROUPS}


def test_a_scrape_is_whole_and_in_the_format_that_was_asked_for(
    prometheus: str, metrics_address: str
) -> None:
    (scraped,) = series(prometheus, 'scrape_samples_scraped{job="trajmon"} > 0')
    exposition = get(f"http://{metrics_address}/metrics").decode()
    lines = [line for line in exposition.splitlines() if not line.startswith("#")]
    # When a counter was made is a sample of its own in plain text, and so it is in OpenMetrics.
    assert int(scraped["value"][1]) == len(lines)
    (target,) = json.loads(get(f"{prometheus}/api/v1/targets"))["data"]["activeTargets"]
    assert target["lastError"] == ""
    metadata = json.loads(get(f"{prometheus}/api/v1/metadata"))["data"]
    assert metadata["trajmon_parameter_norm"] == [
        {"type": "gauge", "help": "Norm of the parameters.", "unit": ""}
    ]


def test_a_finished_run_is_gone_with_the_next_scrape(prometheus: str, server: ServerProcess) -> None:
    selector = 'count({run="scraped"})'
    assert series(prometheus, selector)
    with Client(server.addresses["grpc"], server.token) as client:
        epoch = open_run(client, RUN).writer_epoch
        report(client, RUN, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    try:
        # Not marked as stale, they would be there for five minutes more.
        deadline = time.monotonic() + WAIT_SECONDS
        while query(prometheus, selector):
            assert time.monotonic() < deadline, "series of a finished run are still there"
            time.sleep(0.2)
        assert query(prometheus, 'trajmon_runs{state="finished"}')[0]["value"][1] == "1"
    finally:
        with Client(server.addresses["grpc"], server.token) as client:
            open_run(client, RUN)
