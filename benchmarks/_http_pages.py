"""How much open pages slow a live run down: rows a second with them and without, in turns on one server.

The machine's other work hits both alike, and the slowdown is that of one round against its own twin.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks._figures import figure
from benchmarks.server import Feed, wait_idle

from support.server import ServerProcess

PAGES = 50
ROUNDS = 8
ROUND_ROWS = 600
"""Some seconds, so that every page refreshes several times within a round."""


class OpenPages:
    """Pages that are open on a run, in a process of their own: they must not slow down whoever pushes rows."""

    def __init__(self, server: ServerProcess, run: str, count: int) -> None:
        program = [sys.executable, "-m", "benchmarks._open_pages"]
        self._process = subprocess.Popen(
            [*program, server.addresses["http"], server.token, run, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "open\n":
            raise RuntimeError("the pages could not be opened")

    def close(self) -> dict[str, int]:
        """What they did: events, fetches, refreshments, received_bytes."""
        told, _ = self._process.communicate("", timeout=60)
        if self._process.returncode:
            raise RuntimeError("a page has failed")
        done: dict[str, int] = json.loads(told)
        return done


@dataclass(frozen=True)
class Round:
    """One round: its rows, pushed as fast as they are acknowledged."""

    seconds: float
    server_seconds: float
    """Processor time of the server; what else the machine does hardly changes it."""
    refreshed: int
    """Refreshments of all pages."""


def processor_seconds(server: ServerProcess) -> float:
    """Processor time of the server so far."""
    assert server.process is not None
    stat = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def push_round(server: ServerProcess, name: str, pages: int) -> Round:
    """One round with `pages` open. A run of its own: every round begins at row 0."""
    feed = Feed(server, name)
    feed.push(feed.record(0))
    records = [feed.record(checkpoint) for checkpoint in range(1, ROUND_ROWS)]
    opened = OpenPages(server, name, pages) if pages else None
    wait_idle(server)
    start, used = time.perf_counter(), processor_seconds(server)
    for data in records:
        feed.push(data)
    taken = time.perf_counter() - start
    done = opened.close() if opened else {"refreshments": 0}
    wait_idle(server)
    used = processor_seconds(server) - used
    feed.client.channel.close()
    return Round(taken, used, done["refreshments"])


def pages_and_ingest(folder: Path) -> list[dict[str, Any]]:
    """The figures."""
    server = ServerProcess(folder / "listening").start()
    try:
        slowdowns, rates, refreshed, more_work = [], [], [], []
        for turn in range(ROUNDS):
            rounds = {
                pages: push_round(server, f"feed-{turn}-{pages}", pages)
                for pages in ((0, PAGES) if turn % 2 else (PAGES, 0))
            }
            without, with_pages = rounds[0], rounds[PAGES]
            slowdowns.append(100 * (with_pages.seconds / without.seconds - 1))
            more_work.append(100 * (with_pages.server_seconds / without.server_seconds - 1))
            rates.append(ROUND_ROWS / without.seconds)
            refreshed.append(with_pages.refreshed / PAGES / with_pages.seconds)
            print(f"round {turn}: {slowdowns[-1]:.1f} %, {rates[-1]:.0f} rows/s without", file=sys.stderr)
        return [
            figure("rows/s without pages", statistics.median(rates), "1/s", None),
            figure("refreshments of a page", statistics.median(refreshed), "1/s", None),
            figure(f"ingest is slower by, {PAGES} pages open", statistics.median(slowdowns), "%", 10.0),
            figure("the same, spread of the rounds", max(slowdowns) - min(slowdowns), "%", None),
            figure("the server's processor time is more by", statistics.median(more_work), "%", None),
        ]
    finally:
        server.stop()
