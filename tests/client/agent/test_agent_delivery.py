"""Whole agent processes against a real server: every row once, whatever happens."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    RecordedRun,
    assert_rows_equal,
    names,
    record_run,
    run_agent,
    start_agent,
    wait_until,
)
from trajmon._files import ProcessLock, read_json
from trajmon.agent.transport import Connection
from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import ingest_pb2, types_pb2


def wait_for_an_acknowledgement(recorded: RecordedRun) -> None:
    before = recorded.run_dir.acked()
    wait_until(lambda: recorded.run_dir.acked() > before, "an acknowledgement")


def test_a_recorded_run_is_handed_in_and_reported_finished(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=6)
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert_rows_equal(stored, recorded)
    assert len(stored.rows) == 6
    assert list(stored.request.tags) == ["tag"]
    assert [group.name for group in stored.request.layout.groups] == ["network", "norm"]
    assert [row.header.previous for row in stored.rows[1:]] == [0, 1, 2, 3, 4]
    assert not stored.rows[0].header.HasField("previous")
    assert [row.header.info.step for row in stored.rows] == [0, 10, 20, 30, 40, 50]
    last = stored.reports[-1]
    assert last.phase == ingest_pb2.RUN_PHASE_FINISHED
    assert (last.checkpoints_recorded, last.checkpoints_pending) == (6, 0)
    assert last.snapshot_bytes == recorded.store.used_bytes()
    assert names(recorded.run_dir.spool) == []
    assert recorded.run_dir.acked() == 6
    answer = read_json(recorded.run_dir.answer_file)
    assert answer is not None
    assert answer["advice"]["state"] == "explore"
    assert answer["checkpoint"] == 5
    assert agent_note(recorded.run_dir)["state"] == "gone"


def test_an_agent_killed_at_random_moments_delivers_every_row_once(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    chance = random.Random(1)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    for _ in range(10):
        for _ in range(5):
            number = len(recorded.parameters)
            recorded.add(step=10 * number, previous=number - 1)
        server.lose_answers = chance.randrange(2)
        with start_agent(recorded.run_dir) as agent:
            if chance.random() < 0.5:
                wait_for_an_acknowledgement(recorded)
            time.sleep(chance.uniform(0.0, 1.0))
            agent.kill()
    owner.release()
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert len(stored.rows) == 51
    assert_rows_equal(stored, recorded)
    assert names(recorded.run_dir.spool) == []


def test_no_other_server_is_looked_for_while_nobody_can_tell_which_was_asked_for(
    home: Path, server: IngestServer
) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    note = recorded.run_dir.recorder_file
    told = note.read_bytes()
    note.write_bytes(b"{")
    with start_agent(recorded.run_dir) as agent:
        wait_until(
            lambda: "cannot be read" in str(agent_note(recorded.run_dir).get("problem")),
            "the problem to be reported",
        )
        assert not (home / "server.json").exists()
        wait_until(lambda: len(names(recorded.run_dir.spool)) == 3, "rows in the spool")
        note.write_bytes(told)
        assert agent.wait(timeout=60) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_a_server_that_comes_late_gets_everything(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=4)
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: len(names(recorded.run_dir.spool)) == 4, "four rows in the spool")
        wait_until(
            lambda: "UNAVAILABLE" in str(agent_note(recorded.run_dir).get("problem")),
            "the problem to be reported",
        )
        server.start()
        assert agent.wait(60) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_without_a_server_the_agent_gives_up_and_keeps_the_spool(
    home: Path, monkeypatch: pytest.MonkeyPatch, server: IngestServer
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0.5")
    server.stop()
    recorded = record_run(home, server.address, checkpoints=3)
    assert run_agent(recorded.run_dir) == 0
    assert names(recorded.run_dir.spool) == [f"{n:08d}.row" for n in range(3)]
    server.start()
    assert run_agent(recorded.run_dir) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_unavailable_answers_and_lost_acknowledgements_are_retried(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=5)
    server.unavailable = 7
    server.lose_answers = 2
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert_rows_equal(stored, recorded)
    assert stored.duplicates == 2


def test_a_server_that_lost_its_data_gets_it_again(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=4)
    assert run_agent(recorded.run_dir) == 0
    first = dict(server.run("run").records)
    server.runs.clear()
    recorded.add(step=40, previous=3)
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert len(stored.rows) == 5
    assert {number: stored.records[number] for number in first} == first


def test_rows_that_the_server_has_are_not_computed_again(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=4)
    assert run_agent(recorded.run_dir) == 0
    recorded.run_dir.acked_file.unlink()
    recorded.add(step=40, previous=3)
    server.stop()
    server.start()
    assert run_agent(recorded.run_dir) == 0
    assert server.run("run").duplicates == 0
    assert len(server.run("run").rows) == 5


def test_a_damaged_spool_file_is_made_anew(
    home: Path, server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0.2")
    server.stop()
    recorded = record_run(home, server.address, checkpoints=3)
    assert run_agent(recorded.run_dir) == 0
    file = recorded.run_dir.spool / "00000001.row"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "5")
    server.start()
    assert run_agent(recorded.run_dir) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_large_records_go_in_pieces(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    run = recorded.description
    connection = Connection(server.address, server.token, call_seconds=20.0)
    opened = connection.open_run(run, attempt=1)
    layers = 200_000
    header = types_pb2.RowHeader(
        run_id=run.run_id,
        attempt=1,
        checkpoint=0,
        num_parts=1,
        fingerprint=run.layout.fingerprint,
        num_layers=layers,
    )
    row = Row(header, np.ones((layers, 1)), np.zeros((layers, 4)), np.zeros(layers, dtype=np.uint8))
    record = encode(row)
    assert len(record) > 4 << 20
    connection.push(run, opened.writer_epoch, record)
    connection.close()
    assert server.run("run").records[0] == record
    assert "PushRowStream" in server.calls
