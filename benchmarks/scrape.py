"""The metrics of 200 active runs of 16 groups: seconds of a scrape, the event loop meanwhile, and ingest beside it.

On a real server process over loopback; whoever scrapes is a process of its own, asks for compressed OpenMetrics as
Prometheus does, and reads to the last byte. Three kinds of scrape: the first, which makes every line; one after every
run has changed; one after none has. Beside them, what prometheus_client's own writer needs for the same samples.

How late the event loop is, is noted by the server itself, every 5 ms. Ingest is measured in turn with and without a
scrape each second, on the same runs.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.calls import open_run, push
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

NUM_RUNS = 200
NUM_GROUPS = 16
FIRST_ROWS = 11
MOST_ROWS = 200
FEEDERS = 4
ROUNDS = 16
ROUND_SECONDS = 2.0
SCRAPES = 5
LIMIT_SECONDS = 0.5
LAG_SECONDS = 0.05
LAG_ADDED = 1.25
INGEST_RATIO = 0.9
PROGRAMS = (sys.executable, "-m", "benchmarks._scrape_programs")

ALONE, SCRAPED = "ingest alone", "ingest and a scrape each second"

Figure = dict[str, Any]


class WideRun(SyntheticRun):
    """As many groups as layers: `network`, and all layers but the first alone."""

    def layout(self) -> types_pb2.Layout:
        layout = super().layout()
        del layout.groups[1:]
        layout.groups.extend(
            types_pb2.Group(name=f"block.{index:02d}", layers=[index]) for index in range(1, self.num_layers)
        )
        return layout


@dataclass
class NotingServer(ServerProcess):
    """A server that notes how late its event loop is."""

    def command(self, *_: str) -> list[str]:
        return [*PROGRAMS, "serve", str(self.home / "lags")]

    def lags(self) -> list[tuple[float, float]]:
        """Moments and seconds."""
        noted = array("d")
        written = (self.home / "lags").read_bytes()
        noted.frombytes(written[: len(written) // 16 * 16])
        return list(zip(noted[::2], noted[1::2], strict=True))


@dataclass
class Feeder:
    """Some of the runs, whose rows it pushes in turn."""

    client: Client
    runs: list[WideRun]
    epochs: list[int] = field(default_factory=list)
    turns: Iterator[tuple[int, int]] = field(init=False)
    """Checkpoint and position of the run of all rows to come: the first of each run together, then in turn."""

    def __post_init__(self) -> None:
        self.epochs = [open_run(self.client, run).writer_epoch for run in self.runs]
        for run, epoch in zip(self.runs, self.epochs, strict=True):
            report = ingest_pb2.ReportStatusRequest(
                run_id=run.run_id, writer_epoch=epoch, snapshot_mode=ingest_pb2.SNAPSHOT_MODE_EXACT
            )
            self.client.ingest.ReportStatus(report, metadata=self.client.metadata, timeout=60)
        positions = range(len(self.runs))
        self.turns = itertools.chain(
            ((checkpoint, index) for index in positions for checkpoint in range(FIRST_ROWS)),
            itertools.product(range(FIRST_ROWS, MOST_ROWS), positions),
        )

    def push(self) -> None:
        """The next row."""
        checkpoint, index = next(self.turns)
        run = self.runs[index]
        push(self.client, run, self.epochs[index], run.record(checkpoint))


def push_each(feeders: list[Feeder], rows: int) -> None:
    """So many rows of every run."""
    threads = [
        threading.Thread(target=lambda feeder=feeder: [feeder.push() for _ in feeder.runs * rows])
        for feeder in feeders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rows_per_second(feeders: list[Feeder], seconds: float) -> float:
    """As fast as they are acknowledged."""
    counts = [0] * len(feeders)
    end = time.monotonic() + seconds

    def feed(position: int) -> None:
        while time.monotonic() < end:
            feeders[position].push()
            counts[position] += 1

    start = time.monotonic()
    threads = [threading.Thread(target=feed, args=(position,)) for position in range(len(feeders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - start)


def exposition(server: ServerProcess) -> str:
    """The page as text."""
    with urllib.request.urlopen(f"http://{server.addresses['metrics']}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def wait_analysed(client: Client, checkpoints: int) -> None:
    """Until what is shown of every run rests on so many checkpoints. Not by a scrape, which would make its lines."""
    request = query_pb2.ListRunsRequest(page_size=NUM_RUNS)
    deadline = time.monotonic() + 300
    done = 0
    while time.monotonic() < deadline:
        runs = client.query.ListRuns(request, metadata=client.metadata, timeout=60).runs
        done = sum(run.advice.checkpoint == checkpoints - 1 for run in runs)
        if done == NUM_RUNS:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{done} of {NUM_RUNS} runs are analysed")


@contextlib.contextmanager
def scraping(server: ServerProcess, period_seconds: float) -> Iterator[None]:
    """Scrapes for the length of the context; the first is over when it begins."""
    command = [*PROGRAMS, "scrape", server.addresses["metrics"]]
    process = subprocess.Popen([*command, str(period_seconds), "1000"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        # What a process takes to start is not what a scrape takes.
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def scrapes(server: ServerProcess, count: int) -> list[tuple[float, float, int]]:
    """Begin, end and bytes of so many, one behind the other."""
    command = [*PROGRAMS, "scrape", server.addresses["metrics"], "0.0", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    return [(float(begin), float(end), int(size)) for begin, end, size in map(str.split, lines)]


class _Parsed:
    """What was scraped, for prometheus_client's own writer."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))

    def collect(self) -> list[Metric]:
        return self._families


def plain_writer_seconds(text: str) -> float:
    """How long prometheus_client's writer takes for the same samples, without collecting them."""
    parsed: Any = _Parsed(text)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        generate_latest(parsed)
        taken.append(time.perf_counter() - start)
    return min(taken)


def percentile(values: list[float], share: float) -> float:
    """Of at least one value."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def figure(name: str, value: float, unit: str, limit: str | None = None, ok: bool = True) -> Figure:
    """One line of the table."""
    return {"name": name, "value": value, "unit": unit, "limit": limit, "ok": ok}


def within(name: str, seconds: float) -> Figure:
    """Seconds of a scrape beside their limit."""
    return figure(name, seconds, "s", f"<= {LIMIT_SECONDS}", seconds <= LIMIT_SECONDS)


Windows = dict[str, list[tuple[float, float]]]


def scrape_figures(server: ServerProcess, feeders: list[Feeder], windows: Windows) -> list[Figure]:
    """Seconds of the three kinds, and what they were of."""
    client = feeders[0].client
    push_each(feeders, FIRST_ROWS)
    wait_analysed(client, FIRST_ROWS)
    first = scrapes(server, 1)
    text = exposition(server)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    of_runs = sum('run="' in line for line in lines)
    expected = NUM_RUNS * (29 + 12 * NUM_GROUPS)
    if of_runs != expected:
        raise ValueError(f"{of_runs} series of runs instead of {expected}")
    changed = []
    for row in range(SCRAPES):
        push_each(feeders, 1)
        wait_analysed(client, FIRST_ROWS + row + 1)
        changed += scrapes(server, 1)
    same = scrapes(server, SCRAPES)
    windows["scrapes one behind the other"] = [span[:2] for span in scrapes(server, 20 * SCRAPES)]
    windows["scrapes after every run has changed"] = [span[:2] for span in first + changed]
    return [
        figure(f"{NUM_RUNS} runs x {NUM_GROUPS} groups: series", len(lines), ""),
        figure("size", len(text) / 1e6, "MB"),
        figure("size, compressed", same[0][2] / 1e6, "MB"),
        within("first scrape", seconds_of(first)),
        within("scrape, every run has changed", seconds_of(changed)),
        within("scrape, no run has changed", seconds_of(same)),
        figure("prometheus_client's writer, same samples", plain_writer_seconds(text), "s"),
    ]


def seconds_of(taken: list[tuple[float, float, int]]) -> float:
    """The middle one."""
    return statistics.median(end - begin for begin, end, _ in taken)


def ingest_figures(server: ServerProcess, feeders: list[Feeder], windows: Windows) -> list[Figure]:
    """Rows a second with and without scrapes, in turn; which comes first changes from round to round."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    names = {False: ALONE, True: SCRAPED}
    rows_per_second(feeders, ROUND_SECONDS)
    for number in range(ROUNDS):
        for is_scraped in (bool(number % 2), not number % 2):
            with contextlib.ExitStack() as held:
                if is_scraped:
                    held.enter_context(scraping(server, 1.0))
                start = time.monotonic()
                rates[is_scraped].append(rows_per_second(feeders, ROUND_SECONDS))
                windows.setdefault(names[is_scraped], []).append((start, time.monotonic()))
    alone, scraped = (statistics.fmean(rates[is_scraped]) for is_scraped in (False, True))
    spread = statistics.stdev(rates[False]) / alone / ROUNDS**0.5
    return [
        figure(ALONE, alone, "rows/s"),
        figure(SCRAPED, scraped, "rows/s"),
        figure("their ratio", scraped / alone, "", f">= {INGEST_RATIO}", scraped / alone >= INGEST_RATIO),
        figure("standard error of each, by how rounds differ", spread, ""),
    ]


def lag_figures(server: NotingServer, windows: Windows) -> list[Figure]:
    """How late the event loop was. Where ingest alone makes it late, scrapes may add a quarter."""
    noted = server.lags()
    late: dict[str, float] = {}
    table = []
    for name, spans in windows.items():
        lags = [lag for moment, lag in noted if any(begin <= moment <= end for begin, end in spans)]
        late[name] = percentile(lags, 0.99)
        most, limit = LAG_SECONDS, f"<= {LAG_SECONDS * 1e3:g}"
        if name == SCRAPED:
            most, limit = max(most, LAG_ADDED * late[ALONE]), f"{limit}, or {LAG_ADDED:g} x ingest alone"
        has_limit = "scrape" in name
        table.append(
            figure(
                f"event loop late, p99 of {len(lags)}, {name}",
                late[name] * 1e3,
                "ms",
                limit if has_limit else None,
                late[name] <= most or not has_limit,
            )
        )
    return table


def run() -> list[Figure]:
    """All figures; about two minutes."""
    windows: Windows = {}
    with tempfile.TemporaryDirectory(prefix="trajmon-bench-scrape-") as home:
        server = NotingServer(Path(home))
        server.start()
        try:
            names = [f"resnet20-cifar10-seed{index:03d}" for index in range(NUM_RUNS)]
            runs = [
                WideRun(name, num_layers=NUM_GROUPS, num_checkpoints=MOST_ROWS, seed=seed)
                for seed, name in enumerate(names)
            ]
            with contextlib.ExitStack() as held:
                clients = [
                    held.enter_context(Client(server.addresses["grpc"], server.token)) for _ in range(FEEDERS)
                ]
                feeders = [Feeder(client, runs[n::FEEDERS]) for n, client in enumerate(clients)]
                idle = time.monotonic()
                time.sleep(2.0)
                windows["nothing to do"] = [(idle, time.monotonic())]
                table = scrape_figures(server, feeders, windows)
                table += ingest_figures(server, feeders, windows)
        finally:
            # It would first work off what it has acknowledged.
            server.kill()
        return table + lag_figures(server, windows)


if __name__ == "__main__":
    for line in run():
        print(f"{line['name']:<75} {line['value']:>12.4g} {line['unit']:<7} {line['limit'] or ''}")
