"""The slot in shared memory, from both sides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trajmon.errors import SnapshotError
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.slot import SHARED_MEMORY, Slot, SlotState, remove_forgotten

HEADER = SnapshotHeader(3, 1, 30, "f" * 32, previous=2, metrics={"loss": 1.0})


def make(tmp_path: Path, data_bytes: int = 10_000, run_id: str = "0" * 32) -> Slot:
    slot = Slot.create(tmp_path / "slot.json", run_id, data_bytes, folder=tmp_path)
    assert slot is not None
    return slot


def test_what_training_puts_in_the_agent_gets_out(tmp_path: Path) -> None:
    training = make(tmp_path)
    agent = Slot.find(tmp_path / "slot.json", 10_000)
    assert agent is not None
    assert agent.state == SlotState.FREE
    assert agent.full_number() is None
    data = os.urandom(10_000)
    training.set_state(SlotState.WRITING)
    training.data[:] = data
    training.put_header(HEADER)
    assert agent.full_number() is None
    training.set_state(SlotState.FULL)
    assert agent.full_number() == 3
    assert agent.header() == HEADER
    assert agent.data.tobytes() == data
    agent.set_state(SlotState.FREE)
    assert training.state == SlotState.FREE
    agent.unlink(tmp_path / "slot.json")
    assert list(tmp_path.iterdir()) == []


def test_all_pages_of_a_slot_are_there_and_closed_to_others(tmp_path: Path) -> None:
    facts = make(tmp_path).path.stat()
    assert facts.st_blocks * 512 >= 10_000 + 65_536
    assert facts.st_mode & 0o777 == 0o600


def test_a_slot_that_does_not_fit_is_not_made(tmp_path: Path) -> None:
    facts = os.statvfs(SHARED_MEMORY)
    too_much = facts.f_bavail * facts.f_frsize
    assert Slot.create(tmp_path / "slot.json", "0" * 32, too_much) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"path": "/nowhere", "data_bytes": 10000}', '{"data_bytes": 1}']
)
def test_a_pointer_to_nothing_finds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "slot.json").write_text(content)
    assert Slot.find(tmp_path / "slot.json", 10_000) is None


def test_a_slot_of_another_size_or_content_is_not_found(tmp_path: Path) -> None:
    slot = make(tmp_path)
    assert Slot.find(tmp_path / "slot.json", 9_999) is None
    os.truncate(slot.path, 70_000)
    assert Slot.find(tmp_path / "slot.json", 10_000) is None
    slot.path.write_bytes(b"\0" * (65_536 + 10_000))
    assert Slot.find(tmp_path / "slot.json", 10_000) is None


def test_a_link_in_the_slots_place_is_not_followed(tmp_path: Path) -> None:
    slot = make(tmp_path)
    slot.path.rename(tmp_path / "real")
    slot.path.symlink_to(tmp_path / "real")
    assert Slot.find(tmp_path / "slot.json", 10_000) is None


def test_a_header_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    slot = make(tmp_path)
    huge = SnapshotHeader(0, 1, 0, "f" * 32, metrics={"x" * 70_000: 0.0})
    with pytest.raises(SnapshotError, match="does not fit into the slot"):
        slot.put_header(huge)
    slot.put_header(HEADER)
    slot.set_state(SlotState.FULL)
    assert slot.header() == HEADER


def test_slots_whose_run_is_gone_are_removed_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    forgotten = Slot.create(tmp_path / "gone" / "slot.json", "1" * 32, 100, folder=tmp_path)
    kept = make(tmp_path)
    assert forgotten is not None
    (tmp_path / "gone" / "slot.json").unlink()
    (tmp_path / f"trajmon-{os.geteuid()}-short.slot").write_bytes(b"TM")
    (tmp_path / "another.slot").write_bytes(b"")
    remove_forgotten(tmp_path)
    assert not forgotten.path.exists()
    assert kept.path.exists()
    assert (tmp_path / "another.slot").exists()
