"""Experiments side by side, each in a process of its own, under bars that say how far they are."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Failure", "run_all"]

ROOT = Path(__file__).parents[2]
LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """An experiment that did not finish."""

    name: str
    reason: str
    """The last it said."""
    log: Path
    """All that it said, or its file if that could not be loaded."""


@dataclass(slots=True)
class _Running:
    name: str
    process: subprocess.Popen[str]
    log: Path
    bar: TaskID
    started: float


def run_all(
    names: Sequence[str], out: Path, *, server: str, home: Path, jobs: int, console: Console
) -> list[Failure]:
    """Run experiments in this order, so many at once; those that failed. A failure stops no other one."""
    columns = (TextColumn("{task.description:56}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    waiting, failures, running = list(names), list[Failure](), dict[str, _Running]()
    # From the threads that read what the processes say: a name, and an event or None at the end.
    events: queue.SimpleQueue[tuple[str, dict[str, object] | None]] = queue.SimpleQueue()
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        _stopped_at_the_end(running),
    ):
        overall = progress.add_task("experiments", total=len(names))
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = _start(name, out / name, server, home, progress, events)
                if not console.is_terminal:
                    console.print(f"{name}: begun")
            name, event = events.get()
            one = running[name]
            if event is not None:
                progress.update(
                    one.bar,
                    description=f"  {name}: {event['what']}"[:56],
                    completed=float(str(event["done"])),
                    total=float(str(event["total"])),
                )
                continue
            status = one.process.wait()
            del running[name]
            progress.remove_task(one.bar)
            progress.advance(overall)
            took = f"{time.monotonic() - one.started:.0f} s"
            if status == 0:
                progress.console.print(f"{name}: done, {took}")
            else:
                failures.append(Failure(name, _last_words(one.log, status), one.log))
                progress.console.print(f"{name}: failed, {took}", style="red")
    return failures


def _start(
    name: str,
    folder: Path,
    server: str,
    home: Path,
    progress: Progress,
    events: queue.SimpleQueue[tuple[str, dict[str, object] | None]],
) -> _Running:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    # Threads of its own would take the cores from the one beside it; and nothing of the caller's own trajmon.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRAJMON_")}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.paper.child", name, str(folder), server, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=ROOT,
            env=environment,
            # A Ctrl-C is for the one who waits; it stops these.
            start_new_session=True,
            text=True,
        )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            events.put((name, json.loads(line)))
        events.put((name, None))

    threading.Thread(target=read, daemon=True).start()
    bar = progress.add_task(f"  {name}", total=None)
    return _Running(name, process, log, bar, time.monotonic())


@contextlib.contextmanager
def _stopped_at_the_end(running: dict[str, _Running]) -> Iterator[None]:
    try:
        yield
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.process.wait()


def _last_words(log: Path, status: int) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    end = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
    return " | ".join(lines[-LAST_LINES:]) if lines and status == 1 else end
