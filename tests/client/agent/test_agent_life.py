"""How an agent starts and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    assert_rows_equal,
    record_run,
    run_agent,
    start_agent,
    wait_until,
)
from trajmon._files import ProcessLock
from trajmon.rundir import RecorderNote
from trajmon_protos.v1 import ingest_pb2


def test_a_training_that_disappears_is_reported_lost(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    RecorderNote(attempt=1, state="running", server=server.address).write(recorded.run_dir)
    assert run_agent(recorded.run_dir) == 0
    last = server.run("run").reports[-1]
    assert last.phase == ingest_pb2.RUN_PHASE_LOST
    assert last.reason == "training disappeared without a word"


def test_term_ends_an_agent_and_the_next_goes_on(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: recorded.run_dir.acked() == 2, "two rows")
        agent.send_signal(signal.SIGINT)
        recorded.add(step=20, previous=1)
        wait_until(lambda: recorded.run_dir.acked() == 3, "a row after Ctrl-C")
        agent.terminate()
        assert agent.wait(30) == 0
    recorded.add(step=30, previous=2)
    owner.release()
    assert run_agent(recorded.run_dir) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_a_second_agent_of_a_run_ends_at_once(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    lock = ProcessLock(recorded.run_dir.agent_lock)
    assert lock.acquire()
    assert run_agent(recorded.run_dir) == 0
    lock.release()
    assert server.calls == []


def test_an_agent_says_what_is_wrong_with_its_folder(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=1)
    recorded.run_dir.run_file.write_text(json.dumps({"format": 9}))
    with start_agent(recorded.run_dir) as agent:
        assert agent.wait(60) == 1
    assert "has format 9, not 1; update trajmon to read it" in recorded.run_dir.agent_log.read_text()


def test_no_folder_is_a_usage_error() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "trajmon.agent"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr == "usage: python -m trajmon.agent RUN_DIR\n"
