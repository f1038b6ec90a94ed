"""Whole agent processes against a real server: every row once, whatever happens."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

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
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.rundir import RecorderNote
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.slot import Slot, SlotState
from trajmon_protos.record import PRODUCTS, LayerStatus, decode
from trajmon_protos.v1 import ingest_pb2


def note_of(recorded: RecordedRun) -> dict[str, object]:
    return read_json(recorded.run_dir.agent_file) or {}


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
    assert note_of(recorded)["state"] == "gone"


def test_update_products_follow_the_path(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=4)
    recorded.add(step=15, previous=1, attempt=2)
    recorded.add(step=25, previous=4, attempt=2)
    RecorderNote(attempt=2, state="finished", server=server.address).write(recorded.run_dir)
    assert run_agent(recorded.run_dir) == 0
    stored = server.run("run")
    assert_rows_equal(stored, recorded)
    row = stored.rows[5]
    assert (row.header.attempt, row.header.previous) == (2, 4)
    a = [values["head.weight"].ravel() for values in recorded.parameters]
    expected = [
        (a[5] - a[4]) @ (a[5] - a[4]),
        (a[5] - a[4]) @ (a[4] - a[1]),
        (a[5] - a[0]) @ (a[5] - a[0]),
        (a[5] - a[0]) @ (a[1] - a[0]),
    ]
    assert row.products[2] == pytest.approx(expected, rel=1e-12)
    second = stored.rows[1].products[2]
    assert np.isnan(second[PRODUCTS.index("update_dot")])
    assert second[PRODUCTS.index("displacement_dot")] == second[PRODUCTS.index("displacement_squared")]


def test_a_training_that_disappears_is_reported_lost(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    RecorderNote(attempt=1, state="running", server=server.address).write(recorded.run_dir)
    assert run_agent(recorded.run_dir) == 0
    last = server.run("run").reports[-1]
    assert last.phase == ingest_pb2.RUN_PHASE_LOST
    assert last.reason == "training disappeared without a word"


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


def test_a_server_that_comes_late_gets_everything(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=4)
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: len(names(recorded.run_dir.spool)) == 4, "four rows in the spool")
        wait_until(
            lambda: "UNAVAILABLE" in str(note_of(recorded).get("problem")), "the problem to be reported"
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


def test_a_refused_row_stops_the_sending_and_says_why(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    server.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "record: no\x1b[31m good", "INVALID_REQUEST")
    assert run_agent(recorded.run_dir) == 0
    assert server.calls.count("PushRow") == 1
    assert note_of(recorded)["problem"] == "INVALID_ARGUMENT: record: no?[31m good"
    assert len(names(recorded.run_dir.spool)) == 2


def test_an_agent_that_is_fenced_off_leaves_the_run_to_the_other(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: recorded.run_dir.acked() == 1, "the first row")
        server.fence()
        recorded.add(step=10, previous=0)
        wait_until(lambda: note_of(recorded).get("state") == "refused", "the refusal")
        opened = server.calls.count("OpenRun")
        owner.release()
        assert agent.wait(60) == 0
    assert "FAILED_PRECONDITION: writer epoch 1 is over" in str(note_of(recorded)["problem"])
    assert server.calls.count("OpenRun") == opened == 1
    assert recorded.run_dir.acked() == 1


def test_a_wrong_token_is_reported_and_not_hammered(
    home: Path, server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_run(home, server.address, checkpoints=1)
    (home / "token").write_text("another token\n")
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    assert run_agent(recorded.run_dir) == 0
    assert note_of(recorded)["problem"] == "UNAUTHENTICATED: token is missing or wrong"
    assert len(server.calls) == 1
    assert len(names(recorded.run_dir.spool)) == 1


def test_large_records_go_in_pieces(home: Path, server: IngestServer) -> None:
    from trajmon.agent.transport import Connection
    from trajmon_protos.record import Row, encode
    from trajmon_protos.v1 import types_pb2

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
    connection.push(run.run_id, opened.writer_epoch, record)
    connection.close()
    assert server.run("run").records[0] == record
    assert "PushRowStream" in server.calls


def test_a_truncated_snapshot_is_marked_missing_and_the_rest_stays_exact(
    home: Path, server: IngestServer
) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    assert run_agent(recorded.run_dir) == 0
    os.truncate(recorded.store.path(1), 5000)
    recorded.add(step=20, previous=1)
    assert run_agent(recorded.run_dir) == 0
    row = server.run("run").rows[2]
    gram = recorded.expected_gram(3)
    assert np.isnan(row.gram[:, 1]).all()
    assert row.gram[:, [0, 2]] == pytest.approx(gram[:, 2, [0, 2]], rel=1e-12)
    assert (row.status == LayerStatus.SNAPSHOT_MISSING).all()
    assert note_of(recorded)["unreadable"] == [1]


def test_a_lost_snapshot_gets_a_row_that_knows_nothing(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    recorded.store.path(1).unlink()
    assert run_agent(recorded.run_dir) == 0
    rows = server.run("run").rows
    assert len(rows) == 3
    assert np.isnan(rows[1].gram).all()
    assert (rows[1].status == LayerStatus.NON_FINITE).all()
    assert rows[1].header.previous == 0
    assert (rows[2].status == LayerStatus.SNAPSHOT_MISSING).all()


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


def test_a_full_slot_is_drained_even_when_a_later_file_is_there(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    slot.data[:] = recorded.store.data(1).tobytes()
    slot.put_header(recorded.store.header(1))
    slot.set_state(SlotState.FULL)
    recorded.store.path(1).unlink()
    assert run_agent(recorded.run_dir) == 0
    assert_rows_equal(server.run("run"), recorded)
    assert not slot.path.exists()
    assert not recorded.run_dir.slot_file.exists()


def test_a_checkpoint_in_the_slot_is_not_lost_when_the_next_is_a_file_already(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=3)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    slot.data[:] = recorded.store.data(1).tobytes()
    slot.put_header(recorded.store.header(1))
    slot.set_state(SlotState.FULL)
    recorded.store.path(1).unlink()
    # As if training had filled the slot and written the next file just after the agent looked into the slot.
    agent = Agent(recorded.run_dir, AgentSettings())
    assert agent._next_row()
    assert not agent._next_row()
    assert names(recorded.run_dir.spool) == ["00000000.row"]
    assert agent._drain()
    assert agent._next_row()
    assert agent._next_row()
    row = decode((recorded.run_dir.spool / "00000001.row").read_bytes())
    assert (row.status == LayerStatus.EXACT).all()


def test_a_slot_that_was_made_anew_is_found_by_a_living_agent(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    layout = recorded.description.layout
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    assert Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes) is not None
    with start_agent(recorded.run_dir) as agent:
        wait_until(lambda: recorded.run_dir.acked() == 2, "two rows")
        slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
        assert slot is not None
        number = recorded.add(step=20, previous=1)
        slot.data[:] = recorded.store.data(number).tobytes()
        slot.put_header(recorded.store.header(number))
        recorded.store.path(number).unlink()
        slot.set_state(SlotState.FULL)
        wait_until(lambda: recorded.run_dir.acked() == 3, "the row from the new slot")
        owner.release()
        assert agent.wait(60) == 0
    assert_rows_equal(server.run("run"), recorded)


def test_half_a_copy_is_given_up(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=2)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    slot.put_header(SnapshotHeader(2, 1, 20, layout.fingerprint, previous=1))
    slot.set_state(SlotState.WRITING)
    assert run_agent(recorded.run_dir) == 0
    assert len(server.run("run").rows) == 2
    assert not slot.path.exists()


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
    import sys

    answer = subprocess.run(
        [sys.executable, "-m", "trajmon.agent"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr == "usage: python -m trajmon.agent RUN_DIR\n"


def test_sync_hands_in_what_is_left(home: Path, server: IngestServer) -> None:
    from trajmon.agent.sync import sync

    recorded = record_run(home, server.address, checkpoints=3)
    assert sync(recorded.run_dir.path) == 0
    assert_rows_equal(server.run("run"), recorded)
    assert sync(recorded.run_dir.path) == 0
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    recorded.add(step=30, previous=2)
    assert sync(recorded.run_dir.path) == 0
    owner.release()


def test_sync_without_a_server_says_how_much_is_left(home: Path, server: IngestServer) -> None:
    from trajmon.agent.sync import sync

    server.stop()
    recorded = record_run(home, server.address, checkpoints=3)
    assert sync(recorded.run_dir.path, AgentSettings(linger_seconds=0.5)) == 3
    assert decode((recorded.run_dir.spool / "00000002.row").read_bytes()).header.checkpoint == 2


def test_at_the_spools_cap_rows_wait_as_snapshots(home: Path, server: IngestServer) -> None:
    from trajmon.agent.sync import sync

    server.stop()
    recorded = record_run(home, server.address, checkpoints=20)
    settings = AgentSettings(linger_seconds=0.5, spool_cap_bytes=3000)
    assert sync(recorded.run_dir.path, settings) == 20
    assert 0 < len(names(recorded.run_dir.spool)) < 20
    server.start()
    assert sync(recorded.run_dir.path, AgentSettings(spool_cap_bytes=3000)) == 0
    assert_rows_equal(server.run("run"), recorded)
