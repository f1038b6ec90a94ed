"""Small files that are replaced whole, and locks that end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.recording import names, wait_until  # noqa: TID251 # tests/client, on the path of the tests
from trajmon._files import ProcessLock, lock_holder, read_json, write_bytes, write_json

HOLDER = """
import sys, time
from pathlib import Path
from trajmon._files import ProcessLock
assert ProcessLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_json_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"value": float("nan")})
    write_json(file, {"value": 2}, durable=True)
    assert read_json(file) == {"value": 2}
    assert names(tmp_path) == ["a.json"]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"3"])
def test_what_is_no_json_object_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "missing.json") is None


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "folder", b"data", durable=False)
    assert names(tmp_path) == ["folder"]


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    assert lock_holder(file) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert lock_holder(file) == other.pid
        lock = ProcessLock(file)
        assert not lock.acquire()
        other.send_signal(signal.SIGKILL)
    assert lock_holder(file) is None
    assert lock.acquire()


def test_a_second_lock_in_the_same_process_is_refused_and_asking_does_not_free_the_first(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.lock"
    lock = ProcessLock(file)
    assert lock.acquire()
    assert not ProcessLock(file).acquire()
    assert lock_holder(file) == os.getpid()
    probe = f"from trajmon._files import lock_holder; from pathlib import Path; print(lock_holder(Path({str(file)!r})))"
    seen = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert seen.stdout == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    assert lock_holder(file) is None


def test_a_lock_is_not_inherited_by_fork(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    lock = ProcessLock(file)
    assert lock.acquire()
    child = os.fork()
    if child == 0:
        os.close(lock._descriptor)
        os._exit(0)
    os.waitpid(child, 0)
    probe = f"from trajmon._files import lock_holder; from pathlib import Path; print(lock_holder(Path({str(file)!r})))"
    seen = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert seen.stdout == f"{os.getpid()}\n"
    lock.release()
    wait_until(lambda: lock_holder(file) is None, "the lock to be free")
