"""The contract of every journal, held by the one in an object store: on a real S3 server, and in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import numpy as np
import pytest
from obstore.store import MemoryStore

from support.journal_contract import JournalContract, row_path
from support.object_store import ObjectStoreProcess
from support.shelves import ObjectShelf, Shelf
from support.sketch_contract import SketchContract
from trajmon_protos.record import Row, encode
from trajmon_server.store import errors
from trajmon_server.store.object_journal import GONE
from trajmon_server.store.objects import Objects, Part

RowMaker = Callable[..., Row]


class TestObjectJournalOnS3(JournalContract):
    @pytest.fixture
    def shelf(self, object_store: ObjectStoreProcess) -> Shelf:
        return ObjectShelf(object_store.open(uuid.uuid4().hex))


class TestSketchesOnS3(SketchContract):
    @pytest.fixture
    def shelf(self, object_store: ObjectStoreProcess) -> Shelf:
        return ObjectShelf(object_store.open(uuid.uuid4().hex))


class TestObjectJournalInMemory(JournalContract):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return ObjectShelf(Objects(MemoryStore(), "memory://"))


class TestSketchesInMemory(SketchContract):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return ObjectShelf(Objects(MemoryStore(), "memory://"))


class RestlessObjects(Objects):
    """Somebody replaces an object whenever its beginning has been read, for so many times."""

    replacements: list[tuple[str, bytes]]

    def part(self, key: str, offset: int, size: int) -> Part:
        part = super().part(key, offset, size)
        if not offset and self.replacements:
            path, data = self.replacements.pop()
            assert self.replace(path, data, self.get(path).tag)
        return part


def test_pieces_of_two_records_are_never_put_together(make_row: RowMaker, run_id: str) -> None:
    """The second has a longer header, so that its values lie elsewhere."""
    objects = RestlessObjects(MemoryStore(), "memory://")
    first, second = make_row(60, 200), make_row(60, 200, attempt=10**6)
    second.gram[...] += 7
    path = row_path(run_id, 60)
    objects.replacements = []
    journal = ObjectShelf(objects).open()
    journal.append(run_id, 60, 0, encode(first))
    objects.replacements = [(path, encode(second))]
    (found,) = journal.read_layer_rows(run_id, 150, [60])
    assert np.array_equal(found, second.gram[150])
    # One that is set aside meanwhile is missing.
    objects.replacements = [(path, GONE)]
    with pytest.raises(errors.RowMissingError):
        journal.read_products(run_id, 60)


def test_what_never_rests_is_given_up(make_row: RowMaker, run_id: str) -> None:
    objects = RestlessObjects(MemoryStore(), "memory://")
    objects.replacements = []
    journal = ObjectShelf(objects).open()
    records = [encode(make_row(60, 200, attempt=attempt)) for attempt in range(1, 4)]
    journal.append(run_id, 60, 0, records[0])
    objects.replacements = [(row_path(run_id, 60), records[n % 3]) for n in range(20)]
    with pytest.raises(errors.JournalUnavailableError) as caught:
        journal.read_products(run_id, 60)
    assert str(caught.value) == (
        f"checkpoint 60 part 0 of run {run_id} in memory:// is being changed by other servers; try again later"
    )


def test_what_was_set_aside_leaves_a_mark(make_row: RowMaker, run_id: str) -> None:
    """No object below `rows` is ever removed: a store does not ask what it removes."""
    shelf = ObjectShelf(Objects(MemoryStore(), "memory://"))
    journal = shelf.open()
    journal.append(run_id, 0, 0, encode(make_row(0)))
    journal.set_aside(run_id, 0, "for the test")
    assert shelf.get(row_path(run_id, 0)) == GONE == b"set aside\n"


def test_what_else_lies_in_the_store_is_no_run(make_row: RowMaker, run_id: str) -> None:
    shelf = ObjectShelf(Objects(MemoryStore(), "memory://"))
    journal = shelf.open()
    journal.append(run_id, 0, 0, encode(make_row(0)))
    for path in ("leases/runs/x.json", "names/y.json", "z", f"{'A' * 32}/run.json", "abc/rows/1.row"):
        shelf.put(path, b"{}")
    assert journal.list_runs() == [run_id]


def test_reading_ahead_can_be_given_up(make_row: RowMaker, run_id: str) -> None:
    journal = ObjectShelf(Objects(MemoryStore(), "memory://")).open()
    for checkpoint in range(100):
        journal.append(run_id, checkpoint, 0, encode(make_row(checkpoint)))
    for _ in range(3):
        for (checkpoint, _, _), expected in zip(journal.headers(run_id), range(10), strict=False):
            assert checkpoint == expected
    assert [row.header.checkpoint for row in journal.read_rows(run_id, 90)] == list(range(90, 100))
