"""A start with much to recover: seen from outside, and stopped half-way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from support.house import describe
from support.rows import SyntheticRun
from support.server import ServerProcess
from trajmon_server.runs.run import RunControl


def many_runs(journal: Path, count: int) -> None:
    """Runs without rows, as the server writes them but for the syncs."""
    described = describe(SyntheticRun("template")).to_json()
    for index in range(count):
        folder = journal / f"{index:032x}"
        folder.mkdir(parents=True)
        own = {**described, "run_id": folder.name, "name": f"run-{index}"}
        (folder / "run.json").write_text(json.dumps(own))
        (folder / "control.json").write_text(json.dumps(RunControl(1, 1).to_json()))


def readiness(address: str) -> tuple[int, bytes]:
    """Status and body; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def test_a_server_says_that_it_recovers_and_can_be_stopped_meanwhile(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home")
    many_runs(server.data_dir / "journal", 8000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with (server.home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            server.command("--http", address),
            env={**os.environ, "TRAJMON_HOME": str(server.home)},
            stdout=log,
            stderr=log,
        )
    try:
        answer = 0, b""
        while answer[0] == 0 and process.poll() is None:
            answer = readiness(address)
            time.sleep(0.01)
        assert answer == (503, b'{"ready":false,"reason":"the journal is being read"}')
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)
    assert "stopped before serving" in server.log
    assert "Traceback" not in server.log
    assert not (server.home / "server.json").exists()


def test_a_server_that_nobody_calls_ends_if_it_is_told_to(tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path / "home", environment={"TRAJMON_SERVER_EXIT_WHEN_IDLE_SECONDS": "0.5"}
    ).start()
    assert server.process is not None
    assert server.process.wait(timeout=30) == 0
    assert "nobody has called" in server.log
