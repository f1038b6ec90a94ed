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

from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, query_pb2

WAIT_SECONDS = 60.0
RUN = SyntheticRun("scraped", num_checkpoints=6)


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
    """A server that holds one run, all of whose rows are analysed."""
    started = ServerProcess(tmp_path_factory.mktemp("scraped") / "home").start()
    try:
        with Client(started.addresses["grpc"], started.token) as client:
            opened = client.ingest.OpenRun(RUN.open_request(), metadata=tuple(client.metadata), timeout=20)
            for checkpoint in range(RUN.num_checkpoints):
                request = ingest_pb2.PushRowRequest(
                    run_id=RUN.run_id, writer_epoch=opened.writer_epoch, record=RUN.record(checkpoint)
                )
                client.ingest.PushRow(request, metadata=tuple(client.metadata), timeout=20)
            # The answer waits until every acknowledged row is analysed.
            list(
                client.query.GetMap(
                    query_pb2.GetMapRequest(run=RUN.name), metadata=tuple(client.metadata), timeout=60
                )
            )
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


def series(prometheus: str, selector: str) -> list[dict[str, Any]]:
    """What an instant query answers, once there is something: Prometheus takes a moment to start."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': selector})}"
    problem: object = "no series"
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            found: list[dict[str, Any]] = json.loads(get(url))["data"]["result"]
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
