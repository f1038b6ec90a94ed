"""What the agent does with a server that will not have it."""

from __future__ import annotations

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
