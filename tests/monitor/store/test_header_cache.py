"""Headers kept on the local disk: read once from the store, and never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore, ObjectStore

from support.object_store import ObjectStoreProcess
from support.rows import SyntheticRun
from trajmon_protos.record import encode
from trajmon_server.store.header_cache import HeaderCache
from trajmon_server.store.object_journal import GONE, ObjectJournal
from trajmon_server.store.objects import Objects, Part, listed_tag

RUN = SyntheticRun("cached")


class CountingObjects(Objects):
    """Counts what is read of rows."""

    def __init__(self, store: ObjectStore) -> None:
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
    journal.append(RUN.run_id, 2, 0, encode(row))
    assert headers(objects, tmp_path) == [0, 10, 21, 30]
    assert objects.read_keys == ["00000002.0000.row"]


def test_what_a_server_has_stored_or_looked_at_is_not_read_after_a_kill(
    object_store: ObjectStoreProcess, tmp_path: Path
) -> None:
    """With the tags of a real server, whose listings are what they are compared with."""
    objects = object_store.open("headers-of-rows")
    first, second = (ObjectJournal(objects, HeaderCache(tmp_path / name)) for name in ("first", "second"))
    for checkpoint in range(3):
        first.append(RUN.run_id, checkpoint, 0, RUN.record(checkpoint))
        assert second.header(RUN.run_id, checkpoint, 0).info.step == 10 * checkpoint
    first.set_aside(RUN.run_id, 1, "test")
    first.append(RUN.run_id, 1, 0, RUN.record(1))
    first.append(RUN.run_id, 3, 2, RUN.record(3))  # a part is no row
    counting = CountingObjects(objects._store)
    for name in ("first", "second"):
        journal = ObjectJournal(counting, HeaderCache(tmp_path / name))
        assert [header.info.step for _, header, _ in journal.headers(RUN.run_id)] == [0, 10, 20]
    assert counting.read_keys == []
    assert len(list(ObjectJournal(counting, HeaderCache(tmp_path / "third")).headers(RUN.run_id))) == 3
    assert len(counting.read_keys) == 3


@pytest.mark.parametrize("place", [0, 31, 32, 33, 36, 60, -2])
def test_a_damaged_entry_is_no_entry(objects: CountingObjects, tmp_path: Path, place: int) -> None:
    headers(objects, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    lines = content.splitlines()
    assert len(lines) == 4
    damaged = bytearray(lines[2])
    damaged[place] ^= 1
    path.write_bytes(b"\n".join([*lines[:2], bytes(damaged), *lines[3:], b""]))
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert objects.read_keys == ["00000002.0000.row"]
    assert path.read_bytes() == content


def test_a_cut_off_cache_keeps_what_comes_after(objects: CountingObjects, tmp_path: Path) -> None:
    headers(objects, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    ObjectJournal(objects, HeaderCache(tmp_path)).append(RUN.run_id, 4, 0, RUN.record(4))
    assert headers(objects, tmp_path) == [0, 10, 20, 30, 40]
    assert objects.read_keys == ["00000003.0000.row"]


def test_looking_at_the_same_rows_again_does_not_grow_the_cache(
    objects: CountingObjects, tmp_path: Path
) -> None:
    journal = ObjectJournal(objects, HeaderCache(tmp_path))
    for _ in range(50):
        for checkpoint in range(4):
            journal.header(RUN.run_id, checkpoint, 0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert len(content.split()) == 4 * 4
    # Another process may have left repeated lines.
    path.write_bytes(content * 3)
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert objects.read_keys == []
    assert sorted(path.read_bytes().splitlines()) == sorted(filter(None, content.splitlines()))


def test_a_wrong_header_in_the_cache_goes_with_a_check_of_the_run(
    objects: CountingObjects, tmp_path: Path
) -> None:
    headers(objects, tmp_path)
    cache = HeaderCache(tmp_path)
    (place,) = (place for place in cache.load(RUN.run_id)[0] if place[0] == 2)
    cache.add(RUN.run_id, *place, RUN.row(3).header.SerializeToString())
    journal = ObjectJournal(objects, cache)
    assert [header.info.step for _, header, _ in journal.headers(RUN.run_id)] == [0, 10, 30, 30]
    assert journal.verify(RUN.run_id) == []
    assert [header.info.step for _, header, _ in journal.headers(RUN.run_id)] == [0, 10, 20, 30]


def test_a_row_that_is_replaced_while_headers_are_read_is_not_kept_under_the_old_tag(
    objects: CountingObjects, tmp_path: Path
) -> None:
    other = RUN.row(2)
    other.header.info.step = 21
    key = f"{RUN.run_id}/rows/00000002.0000.row"

    class Replacing(CountingObjects):
        """Another server replaces the row between listing and reading."""

        def part(self, path: str, offset: int, size: int) -> Part:
            if path == key:
                before = self.get(key)
                if before.data == RUN.record(2):
                    self.replace(key, encode(other), before.tag)
            return super().part(path, offset, size)

    journal = ObjectJournal(Replacing(objects._store), HeaderCache(tmp_path))
    assert [header.info.step for _, header, _ in journal.headers(RUN.run_id)] == [0, 10, 21, 30]
    assert sorted(place[0] for place in HeaderCache(tmp_path).load(RUN.run_id)[0]) == [0, 1, 3]
    assert headers(objects, tmp_path) == [0, 10, 21, 30]
    assert objects.read_keys == ["00000002.0000.row"]


@pytest.mark.parametrize("tag", ['"0x8DA"', '"0x8DA" 2026-01-01', "0x8DA"])
def test_tags_are_compared_as_listings_have_them(tag: str) -> None:
    assert listed_tag(tag) == "0x8DA"


def test_an_entry_that_holds_no_header_is_no_entry(objects: CountingObjects, tmp_path: Path) -> None:
    headers(objects, tmp_path)
    cache = HeaderCache(tmp_path)
    (place,) = (place for place in cache.load(RUN.run_id)[0] if place[0] == 2)
    cache.add(RUN.run_id, *place, b"\xff\xff")
    assert headers(objects, tmp_path) == [0, 10, 20, 30]
    assert objects.read_keys == ["00000002.0000.row"]


def test_a_folder_that_cannot_be_made_costs_reads_alone(objects: CountingObjects, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert headers(objects, tmp_path / "file" / "below") == [0, 10, 20, 30]
        assert len(objects.read_keys) == 4
