"""Headers kept on the local disk: read once from the store, and never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from support.rows import SyntheticRun
from trajmon_server.store.header_cache import HeaderCache
from trajmon_server.store.object_journal import GONE, ObjectJournal
from trajmon_server.store.objects import Objects, Part

RUN = SyntheticRun("cached")


class CountingObjects(Objects):
    """Counts what is read of rows."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory://")
        self.read_keys: list[str] = []

    def part(self, key: str, offset: int, size: int) -> Part:
        self.read_keys.append(key.rpartition("/")[2])
        return super().part(key, offset, size)


@pytest.fixture
def objects() -> CountingObjects:
    objects = CountingObjects(MemoryStore())
    journal = ObjectJournal(objects)
    for checkpoint in range(4):
        journal.append(RUN.run_id, checkpoint, 0, RUN.record(checkpoint))
    return objects


def headers(objects: CountingObjects, folder: Path) -> list[int]:
    """As a server that has just started reads them; the steps they tell."""
    objects.read_keys.clear()
    cached = list(ObjectJournal(objects, HeaderCache(folder)).headers(RUN.run_id))
    reads = list(objects.read_keys)
    assert cached == list(ObjectJournal(objects).headers(RUN.run_id))
    objects.read_keys[:] = reads
    return [header.info.step for _, header, _ in cached]


def test_a_restart_reads_only_what_is_new(objects: CountingObjects, tmp_path: Path) -> None:
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert len(objects.read_keys) == 4
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert objects.read_keys == []
    ObjectJournal(objects).append(RUN.run_id, 4, 0, RUN.record(4))
    assert headers(objects, tmp_path) == [0, 10, 20, 30, 40]
    assert objects.read_keys == ["00000004.0000.row"]


def test_a_row_that_was_set_aside_or_sent_again_is_not_the_old_one(
    objects: CountingObjects, tmp_path: Path
) -> None:
    headers(objects, tmp_path)
    journal = ObjectJournal(objects)
    journal.set_aside(RUN.run_id, 2, "test")
    assert objects.get(f"{RUN.run_id}/rows/00000002.0000.row").data == GONE
    assert headers(objects, tmp_path) == [0, 10, 30]
    other = SyntheticRun("cached", num_checkpoints=9)
    row = other.row(2)
    row.header.info.step = 21
    from trajmon_protos.record import encode

    journal.append(RUN.run_id, 2, 0, encode(row))
    assert headers(objects, tmp_path) == [0, 10, 21, 30]
    assert objects.read_keys == ["00000002.0000.row"]


@pytest.mark.parametrize("place", [0, 31, 32, 100, -1])
def test_a_damaged_cache_is_no_cache(objects: CountingObjects, tmp_path: Path, place: int) -> None:
    headers(objects, tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert len(objects.read_keys) == 4
    path.write_bytes(content[:20])
    assert headers(objects, tmp_path) == [0, 10, 20, 30]


def test_a_folder_that_cannot_be_made_costs_reads_alone(objects: CountingObjects, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert headers(objects, tmp_path / "file" / "below") == [0, 10, 20, 30]
        assert len(objects.read_keys) == 4
