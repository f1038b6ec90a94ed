"""How trainings end: none waits for the network, each is reported as what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import trajmon
from client.recording import IngestServer, names, wait_until  # noqa: TID251 # tests/client, on the path of the tests
from client.training import Training, run_program  # noqa: TID251 # the same
from trajmon._files import lock_holder
from trajmon.rundir import RecorderNote, RunDir
from trajmon_protos.v1 import ingest_pb2

FINISHED = ingest_pb2.RUN_PHASE_FINISHED
LOST = ingest_pb2.RUN_PHASE_LOST


@pytest.mark.parametrize(
    ("body", "status", "phase", "reason"),
    [
        ("recorder.checkpoint()", 0, FINISHED, ""),
        ("recorder.checkpoint(); recorder.close()", 0, FINISHED, ""),
        ("recorder.checkpoint(); sys.exit(3)", 3, FINISHED, ""),
        ("recorder.checkpoint(); 1 / 0", 1, FINISHED, "training ended with ZeroDivisionError"),
        ("with recorder: recorder.checkpoint(); {}['a']", 1, FINISHED, "training ended with KeyError"),
        ("recorder.checkpoint(); os._exit(4)", 4, LOST, "training disappeared without a word"),
        ("recorder.checkpoint(); os.kill(os.getpid(), 15)", -15, LOST, "training disappeared without a word"),
        (
            "recorder.checkpoint(); os.kill(os.getpid(), 2)",
            -2,
            FINISHED,
            "training ended with KeyboardInterrupt",
        ),
    ],
)
def test_every_ending_is_reported(
    home: Path,
    server: IngestServer,
    body: str,
    status: int,
    phase: ingest_pb2.RunPhase.ValueType,
    reason: str,
) -> None:
    ended = run_program(body, server.address)
    assert ended.returncode == status, ended.stderr
    wait_until(lambda: server.runs and server.run("run").reports, "a report")
    wait_until(lambda: server.run("run").reports[-1].phase == phase, "the ending to be reported")
    assert server.run("run").reports[-1].reason == reason
    assert len(server.run("run").rows) == 2


def test_a_training_ends_while_the_server_hangs(home: Path, server: IngestServer) -> None:
    server.hang()
    ended = run_program("recorder.checkpoint(); recorder.close()", server.address)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert server.runs == {}, "the server never answered"
    server.resume()
    wait_until(lambda: server.runs and len(server.run("run").rows) == 2, "the agent to go on alone")


def test_a_training_ends_without_any_server(home: Path) -> None:
    ended = run_program("recorder.checkpoint(); recorder.close()", "127.0.0.1:1")
    assert (ended.returncode, ended.stderr) == (0, "")
    run_dir = RunDir.of(home, "run")
    wait_until(lambda: names(run_dir.spool) == ["00000000.row", "00000001.row"], "the rows in the spool")
    note = RecorderNote.read(run_dir)
    assert note is not None
    assert note.state == "finished"


def test_an_agent_that_cannot_be_started_costs_no_checkpoint(home: Path) -> None:
    body = """
agent = recorder._session._agent
agent._child.kill()
agent._child.wait()
agent._started = 0.0
sys.executable = "/nowhere"
print(recorder.checkpoint(), recorder.checkpoint(), recorder.status.recorded, recorder.status.skipped)
"""
    ended = run_program(body, "127.0.0.1:1")
    assert ended.stdout == "1 2 3 0\n"
    assert "could not be started" in ended.stderr
    assert set(names(RunDir.of(home, "run").snapshots)) >= {"00000001.snap", "00000002.snap"}


def test_closing_with_a_dead_agent_still_reports_the_end(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    wait_until(lambda: recorder.status.pending == 0, "the first row")
    agent = lock_holder(RunDir.of(home, "run").agent_lock)
    assert agent is not None
    os.kill(agent, 9)
    recorder.close(timeout=90.0)
    assert server.run("run").reports[-1].phase == FINISHED


def test_an_interrupt_inside_a_checkpoint_leaves_numbers_without_gaps(
    home: Path, server: IngestServer
) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    session = recorder._session
    assert session is not None
    wait_until(lambda: recorder.status.pending == 0, "the first row")
    # Stored, and interrupted before it was counted.
    counted = session._count
    session._count = interrupt  # type: ignore[assignment] # the interrupt comes exactly here
    with pytest.raises(KeyboardInterrupt):
        recorder.checkpoint(step=5)
    session._count = counted  # type: ignore[method-assign] # and not again
    assert recorder.status.recorded == 1
    training.train(1)
    assert recorder.checkpoint() == 2
    recorder.close(timeout=90.0)
    rows = server.run("run").rows
    assert [row.header.info.step for row in rows] == [0, 5, 6]
    assert rows[2].header.previous == 1


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt
