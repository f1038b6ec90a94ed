"""Many writers of one journal: threads, servers, processes, and kills of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from support.journal_contract import row_path
from support.object_store import ObjectStoreProcess
from support.shelves import LocalShelf, ObjectShelf, Shelf, flip
from trajmon_protos.record import Row, encode
from trajmon_server.store import errors
from trajmon_server.store.base import Journal
from trajmon_server.store.object_journal import ObjectJournal

RowMaker = Callable[..., Row]
WRITER = Path(__file__).parent / "programs" / "object_writer.py"
THREADS = 16


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def shelf(object_store: ObjectStoreProcess, prefix: str) -> ObjectShelf:
    return ObjectShelf(object_store.open(prefix))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool


def _offer(journal: Journal, run_id: str, checkpoint: int, record: bytes) -> str:
    try:
        return journal.append(run_id, checkpoint, 0, record)
    except errors.ConflictError:
        return "conflict"


def _look(journal: Journal, run_id: str, checkpoint: int) -> str:
    try:
        journal.read_row(run_id, checkpoint)
    except (errors.RowDamagedError, errors.RowMissingError) as error:
        return type(error).__name__
    return "read"


def _at_once(pool: ThreadPoolExecutor, actions: list[Callable[[], str]]) -> list[str]:
    barrier = Barrier(len(actions))

    def start(action: Callable[[], str]) -> str:
        barrier.wait(timeout=60)
        return action()

    return list(pool.map(start, actions))


@pytest.mark.parametrize("journals", [1, 4])
def test_the_same_record_by_sixteen_threads_is_stored_once(
    shelf: ObjectShelf, pool: ThreadPoolExecutor, make_row: RowMaker, run_id: str, journals: int
) -> None:
    opened = [shelf.open() for _ in range(journals)]
    for checkpoint in range(3):
        record = encode(make_row(checkpoint))
        outcomes = _at_once(
            pool, [partial(_offer, opened[n % journals], run_id, checkpoint, record) for n in range(THREADS)]
        )
        assert Counter(outcomes) == {"stored": 1, "duplicate": THREADS - 1}
        assert opened[0].read(run_id, checkpoint) == record


@pytest.mark.parametrize("journals", [1, 4])
def test_of_sixteen_records_under_one_key_one_is_stored(
    shelf: ObjectShelf, pool: ThreadPoolExecutor, make_row: RowMaker, run_id: str, journals: int
) -> None:
    opened = [shelf.open() for _ in range(journals)]
    records = [encode(make_row(0, attempt=attempt)) for attempt in range(THREADS)]
    outcomes = _at_once(
        pool, [partial(_offer, opened[n % journals], run_id, 0, record) for n, record in enumerate(records)]
    )
    assert Counter(outcomes) == {"stored": 1, "conflict": THREADS - 1}
    assert opened[-1].read(run_id, 0) == records[outcomes.index("stored")]


@pytest.mark.parametrize("where", ["s3", "disk"])
def test_a_damaged_record_is_replaced_once_while_others_read_and_set_it_aside(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    make_row: RowMaker,
    run_id: str,
    where: str,
) -> None:
    """What is acknowledged is never what another takes away as damaged."""
    record, other = encode(make_row(0)), encode(make_row(0, attempt=2))
    shelf: Shelf
    if where == "s3":
        shelf = request.getfixturevalue("shelf")
        journals = [shelf.open() for _ in range(4)]
    else:
        shelf = LocalShelf(tmp_path)
        journals = [shelf.open()] * 4  # of a folder there is one
    for key_at in range(6 if where == "s3" else 60):
        at = 60 + key_at
        journals[0].append(run_id, key_at, 0, record)
        flip(shelf, row_path(run_id, key_at), at)

        readers = [partial(_look, journal, run_id, key_at) for journal in journals]
        writers = [
            partial(_offer, journal, run_id, key_at, record if n % 4 else other)
            for n, journal in enumerate(journals)
        ]
        outcomes = _at_once(pool, [readers[n % 4] if n % 2 else writers[n % 4] for n in range(THREADS)])
        stored = journals[0].read(run_id, key_at)
        assert stored in (record, other)
        winners = {n % 4 for n, outcome in enumerate(outcomes) if outcome == "stored"}
        assert winners == ({2} if stored == record else {0}), outcomes
        assert {outcomes[n] for n in range(THREADS) if n % 2 == 0 and n % 4 not in winners} == {"conflict"}
        # Kept once, however many have found it.
        assert len([damage for damage in journals[0].damages(run_id) if damage.checkpoint == key_at]) == 1


@pytest.mark.parametrize("attempts", [(1, 1), (1, 2)])
def test_two_processes_store_each_key_once(
    object_store: ObjectStoreProcess, shelf: ObjectShelf, prefix: str, run_id: str, attempts: tuple[int, int]
) -> None:
    count = 60
    told = [_outcomes(process) for process in [_start(object_store, prefix, n, 0, count) for n in attempts]]
    journal = shelf.open()
    assert [len(outcomes) for outcomes in told] == [count, count]
    loser = "duplicate" if attempts[0] == attempts[1] else "conflict"
    for checkpoint in range(count):
        assert {told[0][checkpoint], told[1][checkpoint]} == {"stored", loser}
        winner = attempts[0] if told[0][checkpoint] == "stored" else attempts[1]
        assert journal.read_row(run_id, checkpoint).header.attempt == winner
    assert [key.checkpoint for key in journal.list_rows(run_id)] == list(range(count))
    assert journal.verify(run_id) == []


def test_every_acknowledged_row_survives_kill_9_of_its_writer(
    object_store: ObjectStoreProcess, shelf: ObjectShelf, prefix: str, run_id: str
) -> None:
    choice = random.Random(11)
    acknowledged: set[int] = set()
    for _ in range(6):
        first = shelf.open().count(run_id)
        process = _start(object_store, prefix, 1, first, 10_000)
        assert process.stdout is not None
        for _ in range(choice.randrange(1, 20)):
            acknowledged.add(int(process.stdout.readline().split()[0]))
        process.kill()
        rest, _ = process.communicate(timeout=30)
        acknowledged |= {int(line.split()[0]) for line in rest.splitlines(True) if line.endswith("\n")}
    journal = ObjectJournal(shelf.objects)
    assert journal.verify(run_id) == []
    count = journal.count(run_id)
    assert [key.checkpoint for key in journal.list_rows(run_id)] == list(range(count))
    assert len(acknowledged) > 20
    assert acknowledged <= set(range(count))


def _start(
    store: ObjectStoreProcess, prefix: str, attempt: int, first: int, count: int
) -> subprocess.Popen[str]:
    arguments = [store.url(prefix), json.dumps(store.options), str(attempt), str(first), str(count)]
    return subprocess.Popen([sys.executable, WRITER, *arguments], stdout=subprocess.PIPE, text=True)


def _outcomes(process: subprocess.Popen[str]) -> dict[int, str]:
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return {int(number): outcome for number, outcome in map(str.split, text.splitlines())}
