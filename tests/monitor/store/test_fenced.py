"""Files of a run in an object store: replaced only by who has seen what is replaced."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from obstore.store import MemoryStore

from support.object_store import ObjectStoreProcess
from support.shelves import ObjectShelf
from trajmon_server.store import errors
from trajmon_server.store.objects import Objects


@pytest.fixture(params=["s3", "memory"])
def shelf(request: pytest.FixtureRequest) -> ObjectShelf:
    if request.param == "memory":
        return ObjectShelf(Objects(MemoryStore(), "memory://"))
    store: ObjectStoreProcess = request.getfixturevalue("object_store")
    return ObjectShelf(store.open(uuid.uuid4().hex))


def test_a_server_that_was_away_is_fenced_off(shelf: ObjectShelf, run_id: str) -> None:
    first, second = shelf.open(), shelf.open()
    first.put_run_file(run_id, "control", {"epoch": 1})
    assert second.get_run_file(run_id, "control") == {"epoch": 1}
    second.put_run_file(run_id, "control", {"epoch": 2})
    for _ in range(2):
        with pytest.raises(errors.FencedError) as caught:
            first.put_run_file(run_id, "control", {"epoch": 1, "more": True})
        assert str(caught.value) == (
            f"another server has changed {run_id}/control.json in {shelf.objects.name} since it was read here"
        )
        assert second.get_run_file(run_id, "control") == {"epoch": 2}
    # Until it has looked.
    assert first.get_run_file(run_id, "control") == {"epoch": 2}
    first.put_run_file(run_id, "control", {"epoch": 3})
    with pytest.raises(errors.FencedError):
        second.put_run_file(run_id, "control", {"epoch": 4})


def test_who_has_never_looked_creates_and_does_not_replace(shelf: ObjectShelf, run_id: str) -> None:
    first, second = shelf.open(), shelf.open()
    assert first.get_run_file(run_id, "run") is None
    first.put_run_file(run_id, "run", {"name": "one"})
    with pytest.raises(errors.FencedError):
        second.put_run_file(run_id, "run", {"name": "another"})
    assert second.get_run_file(run_id, "run") == {"name": "one"}


def test_who_saw_nothing_does_not_replace_what_came_since(shelf: ObjectShelf, run_id: str) -> None:
    first, second = shelf.open(), shelf.open()
    assert first.get_run_file(run_id, "run") is None
    second.put_run_file(run_id, "run", {"name": "one"})
    with pytest.raises(errors.FencedError):
        first.put_run_file(run_id, "run", {"name": "another"})


def test_what_is_there_already_can_be_put_by_anyone(shelf: ObjectShelf, run_id: str) -> None:
    first, second = shelf.open(), shelf.open()
    first.put_run_file(run_id, "run", {"name": "one"})
    second.put_run_file(run_id, "run", {"name": "one"})
    second.put_run_file(run_id, "run", {"name": "two"})
    assert first.get_run_file(run_id, "run") == {"name": "two"}


def test_a_removed_file_is_not_put_back_by_who_does_not_know(shelf: ObjectShelf, run_id: str) -> None:
    journal = shelf.open()
    journal.put_run_file(run_id, "run", {"name": "one"})
    shelf.objects.delete(f"{run_id}/run.json")
    with pytest.raises(errors.FencedError):
        journal.put_run_file(run_id, "run", {"name": "two"})
    assert journal.get_run_file(run_id, "run") is None
    journal.put_run_file(run_id, "run", {"name": "two"})
    assert shelf.open().get_run_file(run_id, "run") == {"name": "two"}


def test_threads_of_one_server_do_not_fence_each_other_off(shelf: ObjectShelf, run_id: str) -> None:
    journal = shelf.open()

    def put(number: int) -> None:
        journal.put_run_file(run_id, f"control-{number % 2}", {"number": number})
        journal.get_run_file(run_id, f"control-{number % 2}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(40)))
    for number in range(2):
        found = journal.get_run_file(run_id, f"control-{number}")
        assert found is not None
        assert found["number"] % 2 == number


def test_of_two_servers_one_replaces(shelf: ObjectShelf, run_id: str) -> None:
    servers = [shelf.open() for _ in range(8)]
    servers[0].put_run_file(run_id, "control", {"server": -1})
    for server in servers:
        server.get_run_file(run_id, "control")

    def take(number: int) -> str:
        try:
            servers[number].put_run_file(run_id, "control", {"server": number})
        except errors.FencedError:
            return "fenced"
        return "put"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(take, range(8)))
    assert sorted(outcomes) == ["fenced"] * 7 + ["put"]
    assert servers[0].get_run_file(run_id, "control") == {"server": outcomes.index("put")}
