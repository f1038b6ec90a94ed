"""What the agent does with a server that will not have it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    names,
    record_run,
    run_agent,
    start_agent,
    wait_until,
)
from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.agent.sender import Sender
from trajmon.rundir import AgentNote


def test_a_refused_row_stops_the_sending_and_says_why(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    server.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "record: no\x1b[31m good", "INVALID_REQUEST")
    assert run_agent(recorded.run_dir) == 0
    assert server.calls.count("PushRow") == 1
    assert agent_note(recorded.run_dir)["problem"] == "INVALID_ARGUMENT: record: no?[31m good"
    assert len(names(recorded.run_dir.spool)) == 2


def test_an_agent_that_is_fenced_off_leaves_the_run_to_the_other(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: recorded.run_dir.acked() == 1, "the first row")
        server.fence()
        recorded.add(step=10, previous=0)
        wait_until(lambda: agent_note(recorded.run_dir).get("state") == "refused", "the refusal")
        opened = server.calls.count("OpenRun")
        owner.release()
        assert agent.wait(60) == 0
    assert "FAILED_PRECONDITION: writer epoch 1 is over" in str(agent_note(recorded.run_dir)["problem"])
    assert server.calls.count("OpenRun") == opened == 1
    assert recorded.run_dir.acked() == 1


def test_a_wrong_token_is_reported_and_not_hammered(
    home: Path, server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    (home / "token").write_text("another token\n")
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    assert run_agent(recorded.run_dir) == 0
    assert agent_note(recorded.run_dir)["problem"] == "UNAUTHENTICATED: token is missing or wrong"
    assert len(server.calls) == 1
    assert len(names(recorded.run_dir.spool)) == 1


def test_the_server_is_told_of_a_run_while_it_takes_no_rows(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    lock = ProcessLock(recorded.run_dir.agent_lock)
    assert lock.acquire()
    server.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full", "DISK_RESERVE")
    settings = AgentSettings(
        slow_retry_seconds=0.05,
        backoff_seconds=(0.02, 0.05),
        report_at_least_seconds=0.3,
        linger_seconds=60.0,
    )
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(Agent(recorded.run_dir, settings).run)
        wait_until(lambda: bool(server.runs) and len(server.run("run").reports) >= 3, "reports")
        assert server.run("run").reports[-1].checkpoints_pending == 3
        # The rows are what is wrong, whatever a report is answered with.
        assert "the disk is full" in agent_note(recorded.run_dir)["problem"]
        assert server.calls.count("PushRow") > 3
        server.refusal = None
        wait_until(lambda: recorded.run_dir.acked() == 3, "the rows")
        running.result(timeout=60)


def test_a_slow_sender_does_not_write_over_the_agents_last_word(
    home: Path, server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that closes would take the agent for killed, and start another."""
    recorded = record_run(home, server.address, checkpoints=1)
    lock = ProcessLock(recorded.run_dir.agent_lock)
    assert lock.acquire()
    succeed = Sender._succeeded

    def slowly(sender: Sender) -> None:
        time.sleep(0.3)
        succeed(sender)

    monkeypatch.setattr(Sender, "_succeeded", slowly)
    agent = Agent(recorded.run_dir, AgentSettings(linger_seconds=60.0))
    assert agent.run() == "settled"
    time.sleep(1.0)
    assert AgentNote.has_ended(recorded.run_dir)
