"""`trajmon watch`: a real trainer fills a folder, a real server gets the rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from support.server import ServerProcess
from support.truth import Truth, assert_journal
from trajmon.cli import main
from trajmon.cli.machine import inspect_run_dir
from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.store import SnapshotStore

TRAINER = Path(__file__).parents[1] / "checkpoints" / "programs" / "fill_folder.py"
SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("watch") / "home").start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Programs of a test that failed end with it."""
    yield
    for process in Watch.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    Watch.started.clear()


class Watch:
    """The program as a process of its own, its events as they come."""

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(
        self, folder: Path, run: str, home: Path, server: str, *options: str, linger: str = "5"
    ) -> None:
        command = [sys.executable, "-m", "trajmon", "watch", str(folder), "--run", run, "--json", *options]
        self.process = subprocess.Popen(
            [*command, "--settle", "0.4", "--server", server],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TRAJMON_HOME": str(home), "TRAJMON_AGENT_LINGER_SECONDS": linger},
        )
        self.started.append(self.process)
        self.events: list[dict[str, Any]] = []

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event from here on of which the condition holds."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if condition(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"it ended with {self.process.wait(SECONDS)}: {self.events}")

    def end(self, number: signal.Signals | None = signal.SIGINT) -> tuple[int, str]:
        """Exit status and stderr."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        self.events += [json.loads(line) for line in out.splitlines()]
        return self.process.returncode, err

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def taken_at(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "taken" and event["step"] == step


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def test_a_trainer_that_rotates_its_files(server: ServerProcess, tmp_path: Path) -> None:
    folder, kept = tmp_path / "out", tmp_path / "kept.npz"
    watch = Watch(folder, "rotated", server.home, server.addresses["grpc"])
    watch.until(lambda event: event["event"] == "following")
    trainer = subprocess.Popen([sys.executable, str(TRAINER), str(folder), str(kept), "240", "2"])
    watch.until(taken_at(230))
    assert trainer.wait(SECONDS) == 0
    run_dir = RunDir.of(server.home, "rotated")
    wait_until(lambda: run_dir.acked() == 24, "the last row on the server")
    assert watch.end() == (0, "")
    assert [event["checkpoint"] for event in watch.of("taken")] == list(range(24))
    assert watch.of("refused") == watch.of("skipped") == watch.of("lost") == []
    assert watch.events[-1]["event"] == "ended"
    assert watch.events[-1]["waiting"] == 0
    assert len(list(folder.iterdir())) < 24
    # Layer order of the run, which is that of the names.
    truth = Truth.load(kept)
    layers = [layer.name for layer in RunDescription.read(run_dir).layout.layers]
    assert sorted(truth.values) == layers
    assert_journal(
        server.data_dir, run_dir, Truth({name: truth.values[name] for name in layers}, truth.place)
    )


def save(folder: Path, step: int, suffix: str = "safetensors", width: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(step)
    state = {"fc.weight": torch.randn(width, 3, generator=generator), "norm.weight": torch.ones(3) + step}
    path = folder / f"step{step}.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_a_kill_and_a_restart_lose_and_repeat_nothing(server: ServerProcess, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for step in (0, 10, 20):
        save(folder, step)
    first = Watch(folder, "killed", server.home, server.addresses["grpc"])
    first.until(taken_at(10))
    first.end(signal.SIGKILL)
    save(folder, 30, "pt")
    second = Watch(folder, "killed", server.home, server.addresses["grpc"], "--until-idle", "2")
    assert second.end(None) == (0, "")
    run_dir = RunDir.of(server.home, "killed")
    run = RunDescription.read(run_dir)
    store = SnapshotStore(run_dir.snapshots, run.layout.fingerprint, run.layout.nbytes, writer="test")
    assert [store.header(number).step for number in store.numbers()] == [0, 10, 20, 30]
    assert [store.header(number).previous for number in store.numbers()] == [None, 0, 1, 2]
    assert second.of("refused") == []
    # On a busy machine the agent may still be at it when the command ends.
    wait_until(lambda: run_dir.acked() == 4, "the last row on the server")
    for number, step in enumerate((0, 10, 20, 30)):
        (start, _) = run.layout.offsets_bytes
        weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        assert store.data(number)[start : start + 48].tobytes() == weight.numpy().tobytes()


def test_late_damaged_and_foreign_files(server: ServerProcess, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for step in (10, 30):
        save(folder, step)
    cut = save(folder, 20)
    cut.write_bytes(cut.read_bytes()[:100])
    watch = Watch(folder, "mixed", server.home, server.addresses["grpc"])
    watch.until(taken_at(30))
    foreign, late = save(folder, 40, width=5), save(folder, 15)
    watch.until(lambda event: event["event"] == "refused" and event["path"] == str(foreign))
    if not watch.of("skipped"):
        watch.until(lambda event: event["event"] == "skipped")
    # Written again, whole this time, and still in time for nothing.
    save(folder, 20)
    watch.until(lambda event: event["event"] == "skipped" and event["step"] == 20)
    save(folder, 50)
    watch.until(taken_at(50))
    status, err = watch.end()
    assert (status, err) == (0, "")
    assert [(event["checkpoint"], event["step"]) for event in watch.of("taken")] == [
        (0, 10),
        (1, 30),
        (2, 50),
    ]
    assert [event["reason"] for event in watch.of("refused")] == [
        f"{cut}: it ends inside its header: it has 100 bytes, 144 are needed",
        f"{foreign}: fc.weight has shape (5, 3), the series began with (4, 3)",
    ]
    assert [(event["path"], event["reason"]) for event in watch.of("skipped")] == [
        (str(late), "step 15 came too late: step 30 is taken already"),
        (str(cut), "step 20 came too late: step 30 is taken already"),
    ]
    found = inspect_run_dir(RunDir.of(server.home, "mixed").path)
    assert (found.recording, found.reason) == ("stopped", "watching was interrupted")


def test_without_a_server_checkpoints_are_taken_and_wait(tmp_path: Path) -> None:
    folder, home = tmp_path / "out", tmp_path / "home"
    save(folder, 1)
    home.mkdir(mode=0o700)
    watch = Watch(folder, "alone", home, "127.0.0.1:1", "--until-idle", "1", linger="1")
    status, err = watch.end(None)
    assert status == 1
    assert "1 checkpoints could not be handed in" in err
    assert "`trajmon sync alone` sends them" in err
    assert watch.events[-1]["waiting"] == 1
    assert len(list((home / "client" / "alone" / "snapshots").iterdir())) == 1


def test_what_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("TRAJMON_HOME", str(home))

    def watch(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["watch", *arguments])
        return result.exit_code, result.stderr

    missing = tmp_path / "no" / "such"
    assert watch(str(missing), "--run", "r") == (
        1,
        f"Error: {missing} cannot be followed: there is no folder {missing.parent}\n",
    )
    status, text = watch(str(tmp_path), "--run", "not a/name")
    assert status == 1
    assert text.startswith("Error: 'not a/name' is not a run name; use ")
    assert not home.exists()
    run_dir = home / "client" / "taken"
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text("{}")
    assert watch(str(tmp_path), "--run", "taken") == (
        1,
        f"Error: run 'taken' exists in {run_dir} and does not follow a folder; choose another name\n",
    )
    (run_dir / "watch.json").write_text(json.dumps({"folder": "/elsewhere"}))
    assert watch(str(tmp_path), "--run", "taken") == (
        1,
        "Error: run 'taken' follows /elsewhere; choose another name\n",
    )
    assert [file.name for file in run_dir.iterdir() if "lock" in file.name] == []
