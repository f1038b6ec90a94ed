"""The journal in an object store that loses answers, is down, hangs, refuses, or is no such store."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.faulty_link import FaultyLink
from support.journal_contract import row_path
from support.object_store import ObjectStoreProcess
from support.shelves import ObjectShelf, flip
from trajmon_protos.record import Row, encode
from trajmon_server.store import errors, objects
from trajmon_server.store.object_journal import ObjectJournal

RowMaker = Callable[..., Row]
MANY = 50
"""More answers than are waited for."""


@pytest.fixture
def link(object_store: ObjectStoreProcess) -> Iterator[FaultyLink]:
    with FaultyLink(object_store.port) as link:
        yield link


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def journal(object_store: ObjectStoreProcess, link: FaultyLink, prefix: str) -> ObjectJournal:
    return ObjectJournal(object_store.open(prefix, endpoint=link.endpoint))


# Lost answers


def test_a_put_whose_answer_was_lost_is_put_again_and_found_there(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker, run_id: str
) -> None:
    record = encode(make_row(0))
    link.lost_answers = 1
    assert journal.append(run_id, 0, 0, record) == "duplicate"
    assert link.lost_answers == 0
    assert journal.read(run_id, 0) == record
    assert [key.checkpoint for key in journal.list_rows(run_id)] == [0]


def test_a_row_that_was_stored_without_any_answer_is_a_duplicate(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker, run_id: str
) -> None:
    record = encode(make_row(0))
    link.lost_answers = MANY
    with pytest.raises(errors.JournalUnavailableError) as caught:
        journal.append(run_id, 0, 0, record)
    assert str(caught.value).startswith(f"cannot store {row_path(run_id, 0)} in s3://")
    link.lost_answers = 0
    assert journal.append(run_id, 0, 0, record) == "duplicate"


@pytest.mark.parametrize("lost", [1, MANY])
def test_a_run_file_whose_answer_was_lost_does_not_fence_its_own_writer(
    journal: ObjectJournal, link: FaultyLink, run_id: str, lost: int
) -> None:
    for epoch in range(0, 6, 2):  # the first creates the file, the others replace it
        link.lost_answers = lost
        if lost == 1:
            journal.put_run_file(run_id, "control", {"epoch": epoch})
        else:
            with pytest.raises(errors.JournalUnavailableError) as caught:
                journal.put_run_file(run_id, "control", {"epoch": epoch})
            assert not isinstance(caught.value, errors.FencedError)
        link.lost_answers = 0
        journal.put_run_file(run_id, "control", {"epoch": epoch + 1})
        assert journal.get_run_file(run_id, "control") == {"epoch": epoch + 1}


def test_who_has_doubts_is_fenced_off_all_the_same(
    journal: ObjectJournal, link: FaultyLink, object_store: ObjectStoreProcess, prefix: str, run_id: str
) -> None:
    link.lost_answers = MANY
    with pytest.raises(errors.JournalUnavailableError):
        journal.put_run_file(run_id, "control", {"epoch": 1})
    link.lost_answers = 0
    other = ObjectJournal(object_store.open(prefix))
    assert other.get_run_file(run_id, "control") == {"epoch": 1}
    other.put_run_file(run_id, "control", {"epoch": 2})
    with pytest.raises(errors.FencedError):
        journal.put_run_file(run_id, "control", {"epoch": 3})
    assert other.get_run_file(run_id, "control") == {"epoch": 2}


def test_a_copy_that_was_begun_by_one_that_stopped_is_not_made_again(
    object_store: ObjectStoreProcess, make_row: RowMaker, run_id: str
) -> None:
    shelf = ObjectShelf(object_store.open(uuid.uuid4().hex))
    journal, record = shelf.open(), encode(make_row(0))
    journal.append(run_id, 0, 0, record)
    flip(shelf, row_path(run_id, 0))
    path = f"{run_id}/damaged/00000000.0000.row.1"
    shelf.put(path, shelf.get(row_path(run_id, 0)))
    assert journal.append(run_id, 0, 0, record) == "stored"
    assert [damage.kept_as for damage in journal.damages(run_id)] == [shelf.in_full(path)]


# What is asked of the store


def test_a_large_record_is_one_put(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker, run_id: str
) -> None:
    """An upload in pieces has no condition."""
    record = encode(make_row(1500, 1000))
    assert len(record) > 10 * 2**20
    link.requests.clear()
    assert journal.append(run_id, 1500, 0, record) == "stored"
    assert link.requests == {"PUT": 1}
    assert journal.read(run_id, 1500) == record


def test_runs_that_are_known_cost_no_question_each(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker
) -> None:
    described, nameless = [f"{n:032x}" for n in range(12)], "f" * 32
    for run in described:
        journal.put_run_file(run, "run", {"run_id": run})
    journal.append(nameless, 0, 0, encode(make_row(0)))
    for asked in (len(described) + 1, 1):
        link.requests.clear()
        assert journal.list_runs() == [*described, nameless]
        assert link.requests["HEAD"] == asked


def test_a_piece_of_a_record_is_not_the_whole_of_it(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker, run_id: str
) -> None:
    row = make_row(500, 100)
    journal.append(run_id, 500, 0, encode(row))
    for layer, asked in ((0, 1), (99, 2)):
        link.requests.clear()
        (found,) = journal.read_layer_rows(run_id, layer, [500])
        assert np.array_equal(found, row.gram[layer])
        assert link.requests == {"GET": asked}


# A store that is away


def test_while_the_store_is_away_nothing_is_acknowledged(
    journal: ObjectJournal, link: FaultyLink, make_row: RowMaker, run_id: str
) -> None:
    record = encode(make_row(0))
    journal.append(run_id, 0, 0, record)
    journal.put_run_file(run_id, "run", {"a": 1})
    link.is_down = True
    link.cut()
    told = rf"in s3://\S+: .*{re.escape(link.endpoint)}"
    actions: dict[str, Callable[[], object]] = {
        f"store {row_path(run_id, 1)}": lambda: journal.append(run_id, 1, 0, encode(make_row(1))),
        f"store {run_id}/run.json": lambda: journal.put_run_file(run_id, "run", {"a": 2}),
        f"read {row_path(run_id, 0)}": lambda: journal.read_row(run_id, 0),
        f"read {run_id}/run.json": lambda: journal.get_run_file(run_id, "run"),
        f"list {run_id}/rows": lambda: journal.list_rows(run_id),
        "list the folders": lambda: journal.list_runs(),
    }
    for action, act in actions.items():
        with pytest.raises(errors.JournalUnavailableError, match=rf"^cannot {action} {told}"):
            act()
    assert not journal.broken
    link.is_down = False
    assert journal.read(run_id, 0) == record
    assert journal.append(run_id, 1, 0, encode(make_row(1))) == "stored"
    journal.put_run_file(run_id, "run", {"a": 3})
    assert journal.get_run_file(run_id, "run") == {"a": 3}


def test_a_store_that_hangs_is_not_waited_for_for_ever(
    tmp_path: Path, make_row: RowMaker, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_CALL_SECONDS", 1)
    monkeypatch.setattr(objects, "_RETRY_SECONDS", 2)
    store = ObjectStoreProcess(tmp_path)
    try:
        journal = ObjectJournal(store.start().open("journal"))
        journal.append(run_id, 0, 0, encode(make_row(0)))
        store.pause()
        with pytest.raises(errors.JournalUnavailableError, match=r"^cannot store .*00000001"):
            journal.append(run_id, 1, 0, encode(make_row(1)))
        with pytest.raises(errors.JournalUnavailableError, match=r"^cannot read .*00000000"):
            journal.read_row(run_id, 0)
        store.resume()
        assert journal.append(run_id, 1, 0, encode(make_row(1))) in ("stored", "duplicate")
        assert journal.count(run_id) == 2
    finally:
        store.kill()


def test_nothing_acknowledged_is_lost_when_the_store_is_killed_and_started_again(
    tmp_path: Path, make_row: RowMaker
) -> None:
    runs = [f"{n:032x}" for n in range(4)]
    count = 40
    store = ObjectStoreProcess(tmp_path, records=True)
    try:
        store.start()
        with FaultyLink(store.port) as link, ThreadPoolExecutor(len(runs)) as pool:
            journals = {run: ObjectJournal(store.open("journal", endpoint=link.endpoint)) for run in runs}
            acknowledged: list[tuple[str, int]] = []
            refused: list[str] = []

            def write(run: str) -> None:
                for checkpoint in range(count):
                    while True:
                        try:
                            journals[run].append(run, checkpoint, 0, encode(make_row(checkpoint)))
                        except errors.JournalUnavailableError as error:
                            refused.append(str(error))
                        else:
                            acknowledged.append((run, checkpoint))
                            break

            writers = [pool.submit(write, run) for run in runs]
            for part in (0.2, 0.5):
                _wait(lambda part=part: len(acknowledged) > part * count * len(runs))  # type: ignore[misc]
                store.kill()
                link.is_down = True  # until it has what it had
                seen = len(refused)
                _wait(lambda seen=seen: len(refused) >= seen + len(runs))  # type: ignore[misc]
                store.start()
                for run, checkpoint in acknowledged:
                    assert store.get("journal", row_path(run, checkpoint)) == encode(make_row(checkpoint))
                link.is_down = False
            for writer in writers:
                writer.result(timeout=100)
            assert len(acknowledged) == count * len(runs)
            for run in runs:
                assert journals[run].verify(run) == []
                assert [key.checkpoint for key in journals[run].list_rows(run)] == list(range(count))
    finally:
        store.kill()


def _wait(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.01)


# A store that is none


def _problem(store: ObjectStoreProcess, **options: str) -> tuple[str, str]:
    with pytest.raises(errors.JournalError) as caught:
        ObjectJournal(store.open("journal", **options))
    return type(caught.value).__name__, re.sub(r"tried-out/[0-9a-f]{32}", "KEY", str(caught.value))


def test_a_bucket_that_is_not_there_is_named(object_store: ObjectStoreProcess) -> None:
    with pytest.raises(errors.JournalUnavailableError) as caught:
        ObjectJournal(objects.open_objects("s3://no-such-bucket/journal", object_store.options))
    text = re.sub(r"[0-9a-f]{32}", "KEY", str(caught.value))
    assert text == "cannot store tried-out/KEY in s3://no-such-bucket/journal: there is no such bucket"


def test_a_store_that_does_not_answer_is_named(object_store: ObjectStoreProcess) -> None:
    with FaultyLink(object_store.port) as link:
        link.is_down = True
        kind, text = _problem(object_store, endpoint=link.endpoint)
    assert kind == "JournalUnavailableError"
    assert text.startswith("cannot store KEY in s3://trajmon-test/journal: ")
    assert link.endpoint in text


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_store_that_ignores_conditions_is_refused(object_store: ObjectStoreProcess, header: str) -> None:
    with FaultyLink(object_store.port) as link:
        link.removed_header = header.encode()
        kind, text = _problem(object_store, endpoint=link.endpoint)
    assert (kind, text) == (
        "JournalUnavailableError",
        "s3://trajmon-test/journal does not keep to conditional puts (If-None-Match, If-Match); a journal needs them: "
        "use a store that has them",
    )


def test_whom_the_store_refuses_is_told_so(tmp_path: Path, make_row: RowMaker, run_id: str) -> None:
    store = ObjectStoreProcess(tmp_path)
    try:
        store.start()
        stranger = {**store.options, "access_key_id": "AKIASTRANGER", "secret_access_key": "x"}
        nobody = store.add_user("nobody")
        reader = store.add_user("reader", "s3:GetObject", "s3:ListBucket")
        writer = store.add_user("writer", "s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject")
        forger = writer | {"secret_access_key": "not-the-one"}
        store.check_callers()
        for options, told in {
            "stranger": (stranger, "The AWS Access Key Id you provided does not exist in our records"),
            "nobody": (nobody, "Access Denied"),
            "reader": (reader, "Access Denied"),
            "forger": (
                forger,
                "The request signature we calculated does not match the signature you provided",
            ),
        }.values():
            kind, text = _problem(store, **options)
            assert kind == "JournalReadOnlyError"
            assert text.startswith(f"cannot store KEY in s3://trajmon-test/journal: {told}")
            assert text.endswith("(status 403); check the credentials and what they may do")
        journal = ObjectJournal(store.open("journal", **writer))
        assert journal.append(run_id, 0, 0, encode(make_row(0))) == "stored"
    finally:
        store.kill()
