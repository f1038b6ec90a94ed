"""The local journal under full, read-only and failing disks, and under kill -9."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajmon_protos.record import Row, encode
from trajmon_server.store import errors
from trajmon_server.store.journal import LocalJournal

RowMaker = Callable[..., Row]
PROGRAMS = Path(__file__).parent / "programs"


def test_full_and_read_only_disks(tmp_path: Path, make_row: RowMaker, run_id: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    record = tmp_path / "record"
    record.write_bytes(encode(make_row(200, num_layers=5)))
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        sys.executable,
        str(PROGRAMS / "faulty_disk.py"),
    ]
    finished = subprocess.run(
        [*command, disk, record], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    told = {line["case"]: line for line in map(json.loads, finished.stdout.splitlines())}
    root, stored = disk / "journal", told["full"]["stored"]
    assert stored > 3
    expected = {
        "full": (
            "JournalFullError",
            f"cannot store checkpoint {stored} part 0 of run {run_id} in {root}: No space left on device; free space "
            "on this disk, then send again",
        ),
        "read-only row": (
            "JournalReadOnlyError",
            f"cannot store checkpoint 0 part 0 of run {run_id} in {root}: Read-only file system; make the directory "
            "writable, then send again",
        ),
        "read-only file": (
            "JournalReadOnlyError",
            f"cannot store run.json of run {run_id} in {root}: Read-only file system; make the directory writable, "
            "then send again",
        ),
        "read-only run": (
            "JournalReadOnlyError",
            f"cannot store checkpoint 0 part 0 of run {'cd' * 16} in {root}: Read-only file system; make the directory "
            "writable, then send again",
        ),
        "read-only open": (
            "JournalReadOnlyError",
            f"cannot open the journal in {disk / 'other'}: Read-only file system; make the directory writable, then "
            "start again",
        ),
    }
    assert {case: (told[case]["error"], told[case]["text"]) for case in expected} == expected
    for case in expected:
        assert (told[case]["rows"], told[case]["temporary"]) == (stored, 0), case
    assert told["freed"]["outcome"] == "stored"
    assert told["intact"]["outcome"] == [True] * stored


def _record_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reaches the disk, in order: (call, last parts of the path)."""
    calls: list[tuple[str, str]] = []

    def spy(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append((name, path_of(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    spy("fdatasync", lambda fd: Path(f"/proc/self/fd/{fd}").readlink().parent.name)
    spy("fsync", lambda fd: Path(f"/proc/self/fd/{fd}").readlink().name)
    spy("link", lambda source, target: Path(target).name)
    return calls


def test_data_is_durable_before_its_name_and_the_name_before_the_answer(
    tmp_path: Path, make_row: RowMaker, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LocalJournal(tmp_path)
    calls = _record_calls(monkeypatch)
    record = encode(make_row(0))
    journal.append(run_id, 0, 0, record)
    row = [("fdatasync", "tmp"), ("link", "00000000.0000.row"), ("fsync", "rows")]
    folders = [("fsync", run_id), ("fsync", tmp_path.name), ("fsync", tmp_path.parent.name)]
    assert calls == [*folders, *row]
    calls.clear()
    # A duplicate is acknowledged as durable too, whatever became of who stored it.
    journal.append(run_id, 0, 0, record)
    assert calls == row


def test_a_run_file_is_durable_when_put_returns(
    tmp_path: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LocalJournal(tmp_path)
    journal.put_run_file(run_id, "run.json", {"a": 1})
    calls = _record_calls(monkeypatch)
    journal.put_run_file(run_id, "run.json", {"a": 2})
    assert calls == [("fdatasync", "tmp"), ("fsync", run_id)]


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_after_a_failed_sync_nothing_is_acknowledged_any_more(
    tmp_path: Path, make_row: RowMaker, run_id: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal = LocalJournal(tmp_path)
    journal.append(run_id, 0, 0, encode(make_row(0)))
    text = (
        f"the disk under {tmp_path} refused a sync (Input/output error); rows after this cannot be acknowledged: "
        "check the disk, then start the server again"
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _failing(errno.EIO))
        with pytest.raises(errors.JournalBrokenError) as caught:
            journal.append(run_id, 1, 0, encode(make_row(1)))
        assert str(caught.value) == text
    # The disk answers again, and that is not believed.
    for action in (
        lambda: journal.append(run_id, 1, 0, encode(make_row(1))),
        lambda: journal.append(run_id, 0, 0, encode(make_row(0))),
        lambda: journal.put_run_file(run_id, "run.json", {}),
    ):
        with pytest.raises(errors.JournalBrokenError) as caught:
            action()
        assert str(caught.value) == text
    assert journal.read(run_id, 0) == encode(make_row(0))
    assert LocalJournal(tmp_path).append(run_id, 2, 0, encode(make_row(2))) == "stored"


def test_space_that_runs_out_at_the_sync_can_be_freed(
    tmp_path: Path, make_row: RowMaker, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LocalJournal(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _failing(errno.EDQUOT))
        with pytest.raises(
            errors.JournalFullError, match=r"exceeded; free space on this disk, then send again$"
        ):
            journal.append(run_id, 0, 0, encode(make_row(0)))
    assert journal.list_rows(run_id) == []
    assert journal.append(run_id, 0, 0, encode(make_row(0))) == "stored"


def _failing(code: int) -> Callable[[int], None]:
    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_other_system_errors_may_pass(tmp_path: Path, make_row: RowMaker, run_id: str) -> None:
    journal = LocalJournal(tmp_path)
    (tmp_path / run_id).write_text("in the way")
    with pytest.raises(errors.JournalUnavailableError) as caught:
        journal.append(run_id, 0, 0, encode(make_row(0)))
    assert str(caught.value) == (
        f"cannot store checkpoint 0 part 0 of run {run_id} in {tmp_path}: Not a directory; send again later"
    )


def test_every_acknowledged_row_survives_kill_9(tmp_path: Path, run_id: str) -> None:
    choice = random.Random(7)
    writer = PROGRAMS / "journal_writer.py"
    acknowledged: set[int] = set()
    for _ in range(20):
        first = LocalJournal(tmp_path).count(run_id)
        process = subprocess.Popen(
            [sys.executable, writer, tmp_path, str(first)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(choice.randrange(1, 30)):
            acknowledged.add(int(process.stdout.readline().split()[0]))
        time.sleep(choice.random() * 0.01)
        process.kill()
        rest, _ = process.communicate(timeout=30)
        # A line that was cut is no acknowledgement.
        acknowledged |= {
            int(line.split()[0]) for line in rest.splitlines(keepends=True) if line.endswith("\n")
        }
    journal = LocalJournal(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert journal.verify(run_id) == []
    count = journal.count(run_id)
    assert [key.checkpoint for key in journal.list_rows(run_id)] == list(range(count))
    assert acknowledged <= set(range(count))
    assert len(acknowledged) > 100
    for row in journal.read_rows(run_id):
        expected = np.random.default_rng(row.header.checkpoint).standard_normal(row.gram.shape)
        assert np.array_equal(row.gram, expected)


def test_the_temporary_file_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    journal = LocalJournal(tmp_path)
    with journal._temp.file() as (_, path):
        (tmp_path / "tmp" / "dead").write_bytes(b"half")
        LocalJournal(tmp_path)
        assert list((tmp_path / "tmp").iterdir()) == [path]
        path.unlink()
