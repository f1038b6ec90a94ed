"""The bar as a person sees it: the program on a real terminal, asking a real server that takes its time.

The server is stopped, not slow by itself: it goes on when the test has seen what it wants.
"""

from __future__ import annotations

import os
import pty
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.calls import open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketched_rows import SketchedRun

SECONDS = 60.0
BAR = "━"
COMMANDS = {
    "show": ["show", "slow"],
    "hallmarks": ["hallmarks", "slow"],
    "runs": ["runs"],
    "compare": ["compare", "slow", "slow-too"],
    "cross": ["cross", "sketched", "sketched-too"],
}
STEPS = {"show": "run", "hallmarks": "hallmarks", "runs": "runs", "compare": "slow", "cross": "comparing"}
OUTPUT = {
    "show": "MDS",
    "hallmarks": "checkpoint",
    "runs": "last seen",
    "compare": "slow-too",
    "cross": "sketched-too",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("waiting") / "home").start()
    with Client(started.addresses["grpc"], started.token) as client:
        for seed, name in enumerate(("slow", "slow-too")):
            push_all(client, SyntheticRun(name, seed=seed))
        for seed, name in enumerate(("sketched", "sketched-too")):
            run = SketchedRun(name, seed=seed, num_checkpoints=3, layer_size=200)
            epoch = open_run(client, run).writer_epoch
            for checkpoint in range(run.num_checkpoints):
                push(client, run, epoch, run.sketch_record(checkpoint))
                push(client, run, epoch, run.record(checkpoint))
    yield started
    assert started.stop() == 0


@dataclass
class Program:
    """`trajmon` with a terminal, or without one where `piped`."""

    server: ServerProcess
    arguments: list[str]
    piped: bool = False
    shown: str = field(default="", init=False)
    """What the terminal was sent."""

    def __post_init__(self) -> None:
        self._terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trajmon", *self.arguments, "--server", self.server.addresses["grpc"]],
            env={**os.environ, "TRAJMON_HOME": str(self.server.home), "TERM": "xterm", "COLUMNS": "100"},
            stdin=inner,
            stdout=subprocess.PIPE if self.piped else inner,
            stderr=inner,
        )
        os.close(inner)

    def until(self, text: str) -> None:
        """Read what is shown until it holds a text."""
        deadline = time.monotonic() + SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._terminal, selectors.EVENT_READ)
            while text not in self.shown:
                assert time.monotonic() < deadline, self.shown
                if selector.select(0.2) and not self._read():
                    break
        assert text in self.shown, self.shown

    def end(self) -> str:
        """Until it has ended; returns what went into the pipe."""
        told = b""
        if self.process.stdout is not None:
            with self.process.stdout as pipe:
                told = pipe.read()
        while self._read():
            pass
        assert self.process.wait(timeout=SECONDS) == 0, self.shown
        os.close(self._terminal)
        return told.decode()

    def _read(self) -> bool:
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # nobody holds the other end any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def goes_on(server: ServerProcess) -> None:
    server.signal(signal.SIGCONT)


@pytest.mark.parametrize("command", COMMANDS)
def test_slow_work_is_shown_and_the_bar_leaves(site: ServerProcess, command: str) -> None:
    site.signal(signal.SIGSTOP)
    try:
        program = Program(site, COMMANDS[command])
        program.until(BAR)
        step = STEPS[command]
        program.until(step)
        assert OUTPUT[command] not in program.shown.replace(step, "")
    finally:
        goes_on(site)
    program.until(OUTPUT[command])
    program.end()
    # The bar's line is erased before the first line of the output, and is not drawn again.
    before, _, after = program.shown.rpartition("\x1b[2K")
    assert BAR in before
    assert BAR not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", after)


@pytest.mark.parametrize(
    ("arguments", "piped"),
    [(["runs", "--json"], False), ([*COMMANDS["cross"], "--json"], False), (["runs"], True)],
    ids=["runs-json", "cross-json", "runs-piped"],
)
def test_json_and_pipes_get_no_bar(site: ServerProcess, arguments: list[str], piped: bool) -> None:
    site.signal(signal.SIGSTOP)
    try:
        program = Program(site, arguments, piped=piped)
        # Twice as long as the bar takes to appear, and then what starting takes.
        time.sleep(2.0)
        control = Program(site, ["runs"])
        control.until(BAR)
    finally:
        goes_on(site)
    told = program.end()
    control.end()
    assert BAR not in program.shown
    assert "slow-too" in told if piped else "-too" in program.shown


def test_a_picture_that_is_drawn_for_long_is_named(site: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "slow.png"
    program = Program(site, ["show", "slow", "--out", str(out)])
    program.until("wrote")
    program.end()
    assert out.stat().st_size > 0
