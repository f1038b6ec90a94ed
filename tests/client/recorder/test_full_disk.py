"""A full disk costs checkpoints, never training: on a real file system of a few hundred kilobytes."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import trajmon
from client.recording import TOKEN, IngestServer, names, wait_until  # noqa: TID251 # tests/client, on the path of the tests
from client.training import Training  # noqa: TID251 # the same
from trajmon.errors import CheckpointSkippedError
from trajmon.rundir import RunDir


@pytest.fixture
def small_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder on a tmpfs of its own; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
    try:
        (folder / "token").write_text(TOKEN)
        monkeypatch.setenv("TRAJMON_HOME", str(folder))
        monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "5")
        yield folder
        wait_until(lambda: not busy(folder), "the agent to let go of the disk")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def busy(folder: Path) -> bool:
    from trajmon._files import lock_holder

    return lock_holder(RunDir.of(folder, "run").agent_lock) is not None


def test_a_full_disk_skips_checkpoints_and_later_ones_are_tried_again(
    small_home: Path, server: IngestServer, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, snapshot_budget_bytes=1 << 30)
    run_dir = RunDir.of(small_home, "run")
    wait_until(lambda: recorder.status.pending == 0, "the first row")
    filler = small_home / "filler"
    fill(filler)
    # The first may still go into the slot; from there it cannot go on, and the next has no place.
    taken = [recorder.checkpoint() for _ in training.legs(4)]
    assert taken[-3:] == [None, None, None]
    status = recorder.status
    assert status.state == "recording"
    assert status.skipped >= 3
    assert "No space left on device" in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert not [name for name in names(run_dir.snapshots) if name.endswith(".tmp")]
    filler.unlink()
    recorded = status.recorded
    assert recorder.checkpoint() == recorded
    recorder.close(timeout=90.0)
    assert recorder.status.pending == 0
    stored = server.run("run")
    assert len(stored.rows) == recorded + 1
    assert stored.reports[-1].checkpoints_skipped == status.skipped


def test_strict_says_what_could_not_be_stored(small_home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(
        training.model, run="run", server=server.address, snapshot_budget_bytes=1 << 30, strict=True
    )
    wait_until(lambda: recorder.status.pending == 0, "the first row")
    fill(small_home / "filler")
    recorder.checkpoint(step=1)
    with pytest.raises(
        CheckpointSkippedError, match=r"checkpoint at step 2 was skipped: .*No space left on device"
    ):
        recorder.checkpoint(step=2)
    (small_home / "filler").unlink()
    assert recorder.checkpoint(step=3) is not None
    recorder.close(timeout=90.0)


def fill(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    room = os.fstatvfs(descriptor)
    os.posix_fallocate(descriptor, 0, room.f_bavail * room.f_frsize)
    with pytest.raises(OSError, match="No space left on device"):
        os.write(descriptor, bytes(1 << 20))
    os.close(descriptor)
