"""The slot is drained, whatever state training left it in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    assert_rows_equal,
    names,
    record_run,
    run_agent,
    start_agent,
    wait_until,
)
from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.drain import Drain, DrainThread
from trajmon.agent.loop import Agent
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.slot import Slot, SlotState
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import LayerStatus, decode


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
    assert agent._next_rows()
    assert not agent._next_rows()
    assert names(recorded.run_dir.spool) == ["00000000.row"]
    assert agent._drain.step()
    assert agent._next_rows()
    assert not agent._next_rows()
    assert names(recorded.run_dir.spool) == [f"{number:08d}.row" for number in range(3)]
    for number in (1, 2):
        row = decode((recorded.run_dir.spool / f"{number:08d}.row").read_bytes())
        assert (row.status == LayerStatus.EXACT).all()


def test_what_is_being_written_is_waited_for(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=3)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    kept = recorded.store.data(1).tobytes(), recorded.store.header(1)
    recorded.store.path(1).unlink()
    slot.set_state(SlotState.WRITING)
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    agent = Agent(recorded.run_dir, AgentSettings())
    assert agent._next_rows()
    assert not agent._drain.step()
    assert not agent._next_rows()
    slot.data[:] = kept[0]
    slot.put_header(kept[1])
    slot.set_state(SlotState.FULL)
    assert not agent._next_rows()
    assert agent._drain.step()
    assert agent._next_rows()
    owner.release()
    for number in (1, 2):
        row = decode((recorded.run_dir.spool / f"{number:08d}.row").read_bytes())
        assert (row.status == LayerStatus.EXACT).all()


def test_the_slot_is_drained_while_rows_are_computed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = record_run(home, "127.0.0.1:9", checkpoints=2)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    agent = Agent(recorded.run_dir, AgentSettings(until_drained=True, linger_seconds=0.0))
    go_on = threading.Event()
    make_many = agent._rows.make_many

    def slowly(checkpoints: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        assert go_on.wait(60)
        yield from make_many(checkpoints)

    # A row that takes long: the real one, held up.
    monkeypatch.setattr(agent._rows, "make_many", slowly)
    working = threading.Thread(target=agent.run)
    working.start()
    try:
        for number in (2, 3):
            recorded.add(step=10 * number, previous=number - 1)
            slot.data[:] = recorded.store.data(number).tobytes()
            slot.put_header(recorded.store.header(number))
            recorded.store.path(number).unlink()
            slot.set_state(SlotState.FULL)
            wait_until(lambda: slot.state == SlotState.FREE, "the slot to be drained")
        assert names(recorded.run_dir.spool) == []
        wait_until(lambda: agent._progress.seen.recorded == 4, "the agent to have seen them")
        assert agent._progress.seen.uncomputed == 4
    finally:
        go_on.set()
        working.join(60)
    assert not working.is_alive()
    assert names(recorded.run_dir.snapshots) == [f"{number:08d}.snap" for number in range(4)]
    owner.release()


def test_a_full_disk_leaves_the_slot_full_and_is_reported(home: Path) -> None:
    recorded = record_run(home, None, checkpoints=2)
    layout = recorded.description.layout
    slot = Slot.create(recorded.run_dir.slot_file, recorded.description.run_id, layout.nbytes)
    assert slot is not None
    number = recorded.add(step=20, previous=1)
    slot.data[:] = recorded.store.data(number).tobytes()
    slot.put_header(recorded.store.header(number))
    recorded.store.path(number).unlink()
    slot.set_state(SlotState.FULL)
    # As on a full disk, a write fails: the temporary name is taken by a folder.
    (recorded.run_dir.snapshots / f".agent.{number:08d}.tmp").mkdir()
    told: list[str] = []
    run_dir = recorded.run_dir
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, "agent")
    thread = DrainThread(
        Drain(run_dir, store, layout.nbytes, ProcessLock(run_dir.owner_lock)),
        (0.01, 0.02),
        lambda: told.append("drained"),
        lambda looked: None,
        lambda error: told.append(str(error)),
    )
    thread.start()
    wait_until(lambda: told, "the failure")
    assert "Is a directory" in told[0]
    assert slot.state == SlotState.FULL
    (recorded.run_dir.snapshots / f".agent.{number:08d}.tmp").rmdir()
    wait_until(lambda: "drained" in told, "the checkpoint in the store")
    thread.stop()
    assert slot.full_number() is None
    assert recorded.store.header(number).step == 20


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
