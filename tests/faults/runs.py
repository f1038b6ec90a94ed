"""Runs under fire: their agents, and the load that is on while something is killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from support.calls import open_run, push
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.training import Report, TrainingProcess
from trajmon._files import lock_holder
from trajmon.rundir import RunDir
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import decode, read_digest

ORPHAN_SECONDS = 30.0
"""Longest that an agent may live once everything is handed in and training is over."""
KILLED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""How calls fail whose server is killed."""


def run_dirs(home: Path) -> list[RunDir]:
    """Every run that was recorded below a home."""
    folder = home / "client"
    return [RunDir(path) for path in sorted(folder.iterdir())] if folder.exists() else []


def agent_pid(run_dir: RunDir) -> int | None:
    """The living agent of a run; None if the lock is free or its holder is anything but an agent of this run."""
    pid = lock_holder(run_dir.agent_lock)
    if pid is None:
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return pid if b"trajmon.agent" in command and str(run_dir.path).encode() in command else None


def kill_agent(run_dir: RunDir) -> bool:
    """kill -9 to the agent of a run; False if there was none."""
    pid = agent_pid(run_dir)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def end_agents(home: Path) -> None:
    """Kill every agent below a home."""
    for run_dir in run_dirs(home):
        while kill_agent(run_dir):
            time.sleep(0.05)


def pending(run_dir: RunDir) -> int:
    """Checkpoints that are stored and not acknowledged; one that waits in a slot counts as well."""
    numbers = SnapshotStore(run_dir.snapshots, "", 0, writer="test").numbers()
    return len(numbers) + int(run_dir.slot_file.exists()) - run_dir.acked()


def wait_for_agents(home: Path, timeout_seconds: float = 150.0) -> float:
    """Until no agent lives; the longest that one outlived the end of its work, in seconds."""
    deadline = time.monotonic() + timeout_seconds
    drained: dict[Path, float] = {}
    longest = 0.0
    while living := [run_dir for run_dir in run_dirs(home) if agent_pid(run_dir) is not None]:
        now = time.monotonic()
        assert now < deadline, f"agents still live: {[run_dir.path.name for run_dir in living]}"
        for run_dir in living:
            over = lock_holder(run_dir.owner_lock) in (None, agent_pid(run_dir))
            numbers = SnapshotStore(run_dir.snapshots, "", 0, writer="test").numbers()
            if over and run_dir.acked() >= len(numbers):
                drained.setdefault(run_dir.path, now)
                longest = max(longest, now - drained[run_dir.path])
        time.sleep(0.1)
    return longest


def sync_all(server: ServerProcess) -> int:
    """`trajmon sync` for every run that has something left; returns how many had."""
    left = [run_dir for run_dir in run_dirs(server.home) if pending(run_dir) > 0]
    for run_dir in left:
        subprocess.run(
            [sys.executable, "-m", "trajmon", "sync", run_dir.path.name],
            check=True,
            env={**os.environ, "TRAJMON_HOME": str(server.home)},
            timeout=120,
            stdout=subprocess.DEVNULL,
        )
        assert pending(run_dir) == 0, run_dir.path.name
    return len(left)


@dataclass
class Lane:
    """One training after the other, until told to stop."""

    server: ServerProcess
    folder: Path
    name: str
    options: tuple[str, ...]
    stop: threading.Event
    reports: dict[str, Report] = field(default_factory=dict)
    """By run."""

    def run(self) -> None:
        """Train; every training has to end well."""
        while not self.stop.is_set():
            run = f"{self.name}-{len(self.reports):03d}"
            training = TrainingProcess.start(
                self.folder / run,
                *("--run", run, "--home", str(self.server.home), "--server", self.server.grpc_address),
                *self.options,
            )
            try:
                self.reports[run] = training.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    training.process.kill()


@dataclass
class Pusher:
    """Speaks the protocol itself: pushes rows, and remembers every receipt."""

    server: ServerProcess
    stop: threading.Event
    chance: random.Random
    receipts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """(run id, checkpoint) -> digest."""
    runs: list[SyntheticRun] = field(default_factory=list)
    duplicates: int = 0

    def run(self) -> None:
        """One run after the other, whatever happens to the server."""
        while not self.stop.is_set():
            run = SyntheticRun(
                f"pushed-{len(self.runs)}", num_layers=6, num_checkpoints=150, seed=len(self.runs)
            )
            self.runs.append(run)
            done = 0
            while done < run.num_checkpoints and not self.stop.is_set():
                with Client(self.server.grpc_address, self.server.token) as client:
                    try:
                        done = self._push(client, run, done)
                    except grpc.RpcError as error:
                        # Killed under the call. Anything else that a server says would be wrong.
                        if not isinstance(error, grpc.Call) or error.code() not in KILLED:
                            raise
                        time.sleep(0.02)
                done = len([key for key in self.receipts if key[0] == run.run_id])

    def _push(self, client: Client, run: SyntheticRun, done: int) -> int:
        opened = open_run(client, run)
        # What was acknowledged is there; at most one more is, whose receipt was lost.
        assert opened.next_checkpoint in (done, done + 1)
        for checkpoint in range(done, run.num_checkpoints):
            if self.stop.is_set():
                return checkpoint
            record = run.record(checkpoint)
            receipt = push(client, run, opened.writer_epoch, record)
            assert (receipt.checkpoint, receipt.digest) == (checkpoint, read_digest(record))
            assert receipt.duplicate == (checkpoint < opened.next_checkpoint)
            self.duplicates += receipt.duplicate
            self.receipts[run.run_id, checkpoint] = receipt.digest
            time.sleep(self.chance.uniform(0.0, 0.01))
        return run.num_checkpoints

    def assert_stored(self, receipts: dict[tuple[str, int], bytes]) -> None:
        """Every row of these receipts lies in the journal, whole, with the digest of its receipt."""
        for (run_id, checkpoint), digest in receipts.items():
            folder = self.server.data_dir / "journal" / run_id / "rows"
            record = (folder / f"{checkpoint:08d}.0000.row").read_bytes()
            decode(record)
            assert read_digest(record) == digest
