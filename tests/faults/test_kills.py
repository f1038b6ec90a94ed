"""kill -9 at random moments under load: nothing that was acknowledged is lost, and no training notices."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from faults.conftest import Reference
from faults.runs import (
    ORPHAN_SECONDS,
    Lane,
    Pusher,
    agent_pid,
    kill_agent,
    run_dirs,
    sync_all,
    wait_for_agents,
)
from support.calls import get_hallmarks, get_map, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.training import TrainingProcess
from support.truth import Truth, assert_journal, path_of, rows_in_journal
from trajmon._files import lock_holder
from trajmon.rundir import RunDescription, RunDir

KILLS = 50
References = Callable[[int, int, int], Reference]
Arrays = dict[str, NDArray[np.generic]]


def answers(server: ServerProcess, run: str) -> Arrays:
    """Everything that the server shows of a run as arrays."""
    with Client(server.grpc_address, server.token) as client:
        shown: Arrays = {}
        for scope in ("network", "group:norm", "layer:0.weight"):
            for tau in (None, 0):
                arrays = get_map(client, run, scope, relative_to=tau, include_superseded=tau is None)
                shown |= {f"map {scope} {tau} {name}": array for name, array in arrays.items()}
            shown |= {f"{scope} {name}": array for name, array in get_hallmarks(client, run, scope).items()}
    return shown


def assert_same(left: Arrays, right: Arrays) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def assert_map(server: ServerProcess, run: str, truth: Truth, steps: list[int]) -> None:
    """The network's map is that of the parameters at these steps."""
    with Client(server.grpc_address, server.token) as client:
        seen = get_map(client, run)
    assert seen["step"].tolist() == steps
    truth.assert_gram(seen["gram"], steps)
    flat = truth.at(steps)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(seen["map"], unit @ unit.T, rtol=0, atol=1e-12)


def assert_everything(server: ServerProcess, truths: dict[str, Truth]) -> int:
    """Journal and maps of all recorded runs are right, and the same after one more kill; returns the rows."""
    rows = 0
    before = {}
    for run_dir in run_dirs(server.home):
        name = run_dir.path.name
        recorded = assert_journal(server.data_dir, run_dir, truths[name])
        rows += len(recorded)
        steps = [recorded[number].header.info.step for number in path_of(recorded)]
        assert_map(server, name, truths[name], steps)
        before[name] = answers(server, name)
    server.kill()
    server.start()
    for name, seen in before.items():
        assert_same(seen, answers(server, name))
    return rows


@pytest.mark.timeout(1200)
def test_the_server(
    tmp_path: Path,
    server: ServerProcess,
    reference: References,
    chance: random.Random,
    figure: Callable[[str], None],
) -> None:
    began = time.monotonic()
    stop = threading.Event()
    options = ("--steps", "300", "--every", "5", "--pause", "0.015")
    truths = [reference(seed, 300, 5) for seed in (0, 1)]
    lanes = [Lane(server, tmp_path, f"lane{seed}", (*options, "--seed", str(seed)), stop) for seed in (0, 1)]
    pusher = Pusher(server, stop, random.Random(chance.random()))
    fixed = SyntheticRun("fixed", num_checkpoints=70)
    with Client(server.grpc_address, server.token) as client:
        push_all(client, fixed)
        fixed_before = get_map(client, "fixed"), get_hallmarks(client, "fixed")
    checked: dict[tuple[str, int], bytes] = {}
    acked: dict[RunDir, int] = {}
    starting_kills = 0
    with ThreadPoolExecutor(3) as threads:
        working = [threads.submit(work) for work in (*(lane.run for lane in lanes), pusher.run)]
        try:
            for kill in range(KILLS):
                if kill % 4 == 3:
                    starting_kills += 1
                    kill_while_it_starts(server, chance)
                else:
                    time.sleep(chance.uniform(0.0, 1.5))
                    receipts = dict(pusher.receipts)
                    acked |= {run_dir: run_dir.acked() for run_dir in run_dirs(server.home)}
                    server.kill()
                    # With the server down: nothing of this can have been sent again.
                    pusher.assert_stored({key: receipts[key] for key in receipts.keys() - checked.keys()})
                    checked |= receipts
                    assert_acked(server, acked)
                server.start()
                with Client(server.grpc_address, server.token) as client:
                    assert_same(fixed_before[0], get_map(client, "fixed"))
                    assert_same(fixed_before[1], get_hallmarks(client, "fixed"))
                for future in working:
                    assert not future.done(), future.exception()
        finally:
            stop.set()
        for future in working:
            future.result()
    assert_acked(server, acked)
    outlived = wait_for_agents(server.home)
    assert outlived <= ORPHAN_SECONDS
    synced = sync_all(server)
    assert_pushed(server, pusher)
    by_run = {}
    for lane, expected in zip(lanes, truths, strict=True):
        assert lane.reports
        for run, report in lane.reports.items():
            assert report.digest == expected.digest
            assert (report.status["recorded"], report.status["skipped"]) == (61, 0)
            by_run[run] = expected.truth
    rows = assert_everything(server, by_run)
    assert rows == 61 * len(by_run)
    figure(
        f"server: {KILLS} kills ({starting_kills} while it started), {len(by_run)} trainings watched, {rows} rows of "
        f"agents and {len(pusher.receipts)} of a plain client acknowledged ({pusher.duplicates} sent twice), 0 lost; "
        f"{synced} runs needed `trajmon sync`; last agent {outlived:.1f} s after its work; "
        f"{time.monotonic() - began:.0f} s"
    )


def kill_while_it_starts(server: ServerProcess, chance: random.Random) -> None:
    """Kill the server, start it, and kill that before it is sure to serve."""
    server.kill()
    with (server.home / "server.log").open("ab") as log:
        starting = subprocess.Popen(
            server.command(),
            env={**os.environ, "TRAJMON_HOME": str(server.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    time.sleep(chance.uniform(0.1, 1.2))
    starting.kill()
    starting.wait(timeout=10)


def assert_acked(server: ServerProcess, acked: dict[RunDir, int]) -> None:
    """Every row that an agent knows to be acknowledged is in the journal."""
    for run_dir, count in acked.items():
        if count:
            run_id = run_id_of(run_dir)
            assert len(rows_in_journal(server.data_dir, run_id)) >= count
            assert run_dir.acked() >= count


def run_id_of(run_dir: RunDir) -> str:
    return RunDescription.read(run_dir).run_id


def assert_pushed(server: ServerProcess, pusher: Pusher) -> None:
    """What the plain client pushed is there byte for byte, and shown rightly."""
    pusher.assert_stored(pusher.receipts)
    for run in pusher.runs:
        rows = sorted((server.data_dir / "journal" / run.run_id / "rows").iterdir())
        for number, file in enumerate(rows):
            assert file.read_bytes() == run.record(number)
        with Client(server.grpc_address, server.token) as client:
            shown = get_map(client, run.name)
        np.testing.assert_allclose(shown["gram"], run.gram(list(range(len(rows)))), rtol=1e-12)


@pytest.mark.timeout(1200)
def test_the_agent(
    tmp_path: Path,
    server: ServerProcess,
    reference: References,
    chance: random.Random,
    figure: Callable[[str], None],
) -> None:
    began = time.monotonic()
    stop = threading.Event()
    options = ("--steps", "900", "--every", "6", "--pause", "0.012")
    truths = [reference(seed, 900, 6) for seed in range(4)]
    lanes = [
        Lane(server, tmp_path, f"lane{seed}", (*options, "--seed", str(seed)), stop) for seed in range(4)
    ]
    killed: dict[int, float] = {}
    due: dict[int, float] = {}
    with ThreadPoolExecutor(len(lanes)) as threads:
        working = [threads.submit(lane.run) for lane in lanes]
        try:
            while len(killed) < KILLS:
                for run_dir in run_dirs(server.home):
                    pid = agent_pid(run_dir)
                    if pid is None or pid in killed:
                        continue
                    # Starting, at work, waiting, or handing in the rest after training has ended.
                    if time.monotonic() >= due.setdefault(pid, time.monotonic() + chance.uniform(0.0, 6.0)):
                        acked = run_dir.acked()
                        if kill_agent(run_dir):
                            killed[pid] = time.monotonic()
                            assert_acked(server, {run_dir: acked})
                for future in working:
                    assert not future.done(), future.exception()
                time.sleep(0.02)
        finally:
            stop.set()
        for future in working:
            future.result()
    outlived = wait_for_agents(server.home)
    assert outlived <= ORPHAN_SECONDS
    synced = sync_all(server)
    by_run = {}
    restarts = 0
    for lane, expected in zip(lanes, truths, strict=True):
        for run, report in lane.reports.items():
            assert report.digest == expected.digest
            assert (report.status["recorded"], report.status["skipped"]) == (151, 0)
            restarts += int(str(report.status["agent_restarts"]))
            by_run[run] = expected.truth
    assert restarts > KILLS // 2
    rows = assert_everything(server, by_run)
    assert rows == 151 * len(by_run)
    figure(
        f"agent: {len(killed)} kills, {restarts} restarts by {len(by_run)} trainings, {rows} rows acknowledged, "
        f"0 lost; {synced} runs needed `trajmon sync`; last agent {outlived:.1f} s after its work; "
        f"{time.monotonic() - began:.0f} s"
    )


STEPS, EVERY, SAVE_EVERY = 160, 2, 26


@dataclass
class Victim:
    """One training at a time, killed and resumed until it comes to its end; then the next."""

    server: ServerProcess
    folder: Path
    name: str
    seed: int
    chance: random.Random
    stop: threading.Event
    digests: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    kills: int = 0

    def run(self) -> None:
        while not self.stop.is_set():
            run = f"{self.name}-{len(self.digests):03d}"
            self.attempts[run] = 0
            while run not in self.digests:
                self._attempt(run)

    def _attempt(self, run: str) -> None:
        self.attempts[run] += 1
        training = TrainingProcess.start(
            self.folder / run,
            *("--run", run, "--home", str(self.server.home), "--server", self.server.grpc_address),
            *("--resume", "allow", "--seed", str(self.seed), "--steps", str(STEPS), "--every", str(EVERY)),
            *("--save-every", str(SAVE_EVERY), "--pause", "0.02"),
        )
        if not self.stop.is_set():
            self._wait_until_it_records(training, run)
            with contextlib.suppress(subprocess.TimeoutExpired):
                training.process.wait(timeout=self.chance.uniform(0.0, 2.5))
            if training.process.poll() is None:
                training.kill()
                self.kills += 1
                return
        self.digests[run] = training.wait().digest

    def _wait_until_it_records(self, training: TrainingProcess, run: str) -> None:
        """One in five is killed while it starts; the others once they own the run, or have ended."""
        lock = RunDir.of(self.server.home, run).owner_lock
        if self.chance.random() < 0.2:
            time.sleep(self.chance.uniform(0.0, 3.0))
            return
        while lock_holder(lock) != training.process.pid and training.process.poll() is None:
            time.sleep(0.02)


@pytest.mark.timeout(1200)
def test_the_training(
    tmp_path: Path,
    server: ServerProcess,
    reference: References,
    chance: random.Random,
    figure: Callable[[str], None],
) -> None:
    began = time.monotonic()
    stop = threading.Event()
    truths = [reference(seed, STEPS, EVERY) for seed in range(3)]
    victims = [
        Victim(server, tmp_path, f"lane{seed}", seed, random.Random(chance.random()), stop)
        for seed in range(3)
    ]
    with ThreadPoolExecutor(len(victims)) as threads:
        working = [threads.submit(victim.run) for victim in victims]
        try:
            while sum(victim.kills for victim in victims) < KILLS:
                for future in working:
                    assert not future.done(), future.exception()
                time.sleep(0.1)
        finally:
            stop.set()
        for future in working:
            future.result()
    outlived = wait_for_agents(server.home)
    assert outlived <= ORPHAN_SECONDS
    by_run = {}
    for victim, expected in zip(victims, truths, strict=True):
        for run, digest in victim.digests.items():
            assert digest == expected.digest
            by_run[run] = expected.truth
    rows = assert_everything(server, by_run)
    superseded = 0
    for run_dir in run_dirs(server.home):
        recorded = rows_in_journal(server.data_dir, run_id_of(run_dir))
        path = path_of(recorded)
        superseded += len(recorded) - len(path)
        # Whatever was lost with a killed process was recorded again by the next attempt.
        assert [recorded[number].header.info.step for number in path] == list(range(0, STEPS + 1, EVERY))
        attempts = [row.header.attempt for row in recorded]
        assert attempts == sorted(attempts)
    figure(
        f"training: {sum(victim.kills for victim in victims)} kills of {len(by_run)} runs, up to "
        f"{max(max(victim.attempts.values()) for victim in victims)} attempts each, {rows} rows acknowledged, "
        f"{superseded} of them superseded, 0 lost; last agent {outlived:.1f} s after its work; "
        f"{time.monotonic() - began:.0f} s"
    )
