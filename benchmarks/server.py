"""The server: acknowledged rows, growth of their cost, memory, and reading a map.

Every figure is taken on a real server process over loopback; write+fsync of the same bytes is measured beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.calls import get_map, open_run
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos import record
from trajmon_protos.v1 import ingest_pb2

NUM_LAYERS = 100
UNARY_BYTES = 900 * 1024
PIECE_BYTES = 256 * 1024


class Feed:
    """A run that pushes rows of the right size; what is in them does not matter for the time."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self.client = Client(server.addresses["grpc"], server.token)
        self.run = SyntheticRun(name, num_layers=NUM_LAYERS, layer_size=1, num_checkpoints=1)
        self.epoch = open_run(self.client, self.run).writer_epoch
        self.random = np.random.default_rng(0)

    def record(self, checkpoint: int) -> bytes:
        header = self.run.header(checkpoint, checkpoint - 1 if checkpoint else None, 1)
        gram = self.random.random((NUM_LAYERS, checkpoint + 1)) + 1.0
        products = np.ones((NUM_LAYERS, 4))
        return record.encode(record.Row(header, gram, products, np.zeros(NUM_LAYERS, dtype=np.uint8)))

    def push(self, data: bytes) -> float:
        """Push a record; returns the seconds until it was acknowledged."""
        start = time.perf_counter()
        if len(data) <= UNARY_BYTES:
            request = ingest_pb2.PushRowRequest(run_id=self.run.run_id, writer_epoch=self.epoch, record=data)
            self.client.ingest.PushRow(request, metadata=self.client.metadata, timeout=60)
        else:
            self.client.ingest.PushRowStream(self._pieces(data), metadata=self.client.metadata, timeout=60)
        return time.perf_counter() - start

    def _pieces(self, data: bytes) -> Any:
        header = ingest_pb2.PushRowStreamRequest.Header(
            run_id=self.run.run_id, writer_epoch=self.epoch, record_bytes=len(data)
        )
        yield ingest_pb2.PushRowStreamRequest(header=header)
        for start in range(0, len(data), PIECE_BYTES):
            yield ingest_pb2.PushRowStreamRequest(data=data[start : start + PIECE_BYTES])


def prefill(data_dir: Path, feed: Feed, checkpoint: int) -> None:
    """Make the run stand at `checkpoint` without its history: only the last row is there, the others count as lost."""
    rows = data_dir / "journal" / feed.run.run_id / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    (rows / f"{checkpoint - 1:08d}.0000.row").write_bytes(feed.record(checkpoint - 1))


def write_and_sync(folder: Path, data: bytes) -> float:
    """What a disk needs for the same bytes at the least: write, sync the file, name it, sync the folder."""
    start = time.perf_counter()
    path = folder / "bare.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.fdatasync(descriptor)
    os.close(descriptor)
    path.rename(folder / "bare")
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return time.perf_counter() - start


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def acknowledged(server: ServerProcess, start: int, count: int) -> tuple[list[dict[str, Any]], float]:
    """Latency of rows from `start` on; returns the table rows and the median in seconds."""
    feed = Feed(server, f"ack-{start}")
    server.stop()
    prefill(server.data_dir, feed, start)
    server.start()
    feed = Feed(server, f"ack-{start}")
    wait_idle(server)
    taken, bare = [], []
    for checkpoint in range(start, start + count):
        data = feed.record(checkpoint)
        taken.append(feed.push(data))
        bare.append(write_and_sync(server.home, data))
    median = statistics.median(taken)
    base = statistics.median(bare)
    name = f"ack, L={NUM_LAYERS}, t={start}"
    return [
        {
            "name": f"{name}: rows/s",
            "value": 1 / statistics.fmean(taken),
            "unit": "1/s",
            "limit": None,
            "ok": True,
        },
        {"name": f"{name}: p50", "value": median * 1e3, "unit": "ms", "limit": None, "ok": True},
        {
            "name": f"{name}: p99",
            "value": percentile(taken, 0.99) * 1e3,
            "unit": "ms",
            "limit": None,
            "ok": True,
        },
        {
            "name": f"{name}: p50 / bare write+fsync",
            "value": median / base,
            "unit": "x",
            "limit": None,
            "ok": True,
        },
    ], median


def wait_idle(server: ServerProcess, seconds: float = 120.0) -> None:
    """Until the server has worked off what it was given: its processor time stands still."""
    assert server.process is not None
    stat = Path(f"/proc/{server.process.pid}/stat")
    deadline = time.monotonic() + seconds
    before = -1
    while time.monotonic() < deadline:
        used = sum(int(field) for field in stat.read_text().rsplit(") ", 1)[1].split()[11:13])
        if used - before <= 3:
            return
        before = used
        time.sleep(0.5)


def many_runs(server: ServerProcess, num_runs: int, checkpoint: int, rows: int) -> list[dict[str, Any]]:
    """Rows of many runs at once, from as many threads."""
    feeds = [Feed(server, f"many-{index}") for index in range(num_runs)]
    server.stop()
    for feed in feeds:
        prefill(server.data_dir, feed, checkpoint)
    server.start()
    feeds = [Feed(server, f"many-{index}") for index in range(num_runs)]
    records = [[feed.record(checkpoint + n) for n in range(rows)] for feed in feeds]
    wait_idle(server)
    taken: list[float] = []

    def send(feed: Feed, data: list[bytes]) -> None:
        taken.extend([feed.push(item) for item in data])

    threads = [threading.Thread(target=send, args=pair) for pair in zip(feeds, records, strict=True)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    name = f"{num_runs} runs at once, t={checkpoint}"
    return [
        {"name": f"{name}: rows/s", "value": len(taken) / elapsed, "unit": "1/s", "limit": None, "ok": True},
        {
            "name": f"{name}: p50",
            "value": statistics.median(taken) * 1e3,
            "unit": "ms",
            "limit": None,
            "ok": True,
        },
        {
            "name": f"{name}: p99",
            "value": percentile(taken, 0.99) * 1e3,
            "unit": "ms",
            "limit": None,
            "ok": True,
        },
    ]


def memory(num_runs: int, checkpoints: int) -> list[dict[str, Any]]:
    """Resident memory with many recovered runs of full length."""
    with tempfile.TemporaryDirectory() as home:
        server = ServerProcess(Path(home)).start()
        base = server.rss_bytes()
        peak = 0
        try:
            for index in range(num_runs):
                feed = Feed(server, f"memory-{index}")
                folder = server.data_dir / "journal" / feed.run.run_id / "rows"
                folder.mkdir(parents=True, exist_ok=True)
                template = [feed.record(n) for n in range(checkpoints)] if index == 0 else []
                feed.client.channel.close()
                if index == 0:
                    rows = template
                for checkpoint, data in enumerate(rows):
                    row = record.decode(data)
                    row.header.run_id = feed.run.run_id
                    row.header.fingerprint = feed.run.fingerprint
                    (folder / f"{checkpoint:08d}.0000.row").write_bytes(record.encode(row))
            server.stop()
            server.start()
            deadline = time.monotonic() + 400
            with Client(server.addresses["grpc"], server.token) as client:
                done = 0
                while done < num_runs and time.monotonic() < deadline:
                    peak = max(peak, server.rss_bytes())
                    done = analysed(client, num_runs, checkpoints)
                    time.sleep(1.0)
            peak = max(peak, server.rss_bytes())
        finally:
            server.stop()
    name = f"resident memory, {num_runs} runs of T={checkpoints}, L={NUM_LAYERS}"
    return [
        {
            "name": f"{name}: runs recovered",
            "value": done,
            "unit": "",
            "limit": f">= {num_runs}",
            "ok": done >= num_runs,
        },
        {
            "name": f"{name}: peak (empty server {base / 2**20:.0f} MiB)",
            "value": peak / 2**20,
            "unit": "MiB",
            "limit": "<= 1024",
            "ok": peak <= 2**30,
        },
    ]


def analysed(client: Client, num_runs: int, checkpoints: int) -> int:
    """How many runs have been worked off to their last checkpoint."""
    from trajmon_protos.v1 import query_pb2

    request = query_pb2.ListRunsRequest(page_size=num_runs)
    runs = client.query.ListRuns(request, metadata=client.metadata, timeout=60).runs
    return sum(run.advice.checkpoint == checkpoints - 1 for run in runs)


def export(checkpoints: int) -> list[dict[str, Any]]:
    """`trajmon export` of one layer's map, from the start of the program to the file."""
    with tempfile.TemporaryDirectory() as home:
        server = ServerProcess(Path(home)).start()
        try:
            feed = Feed(server, "export")
            for checkpoint in range(checkpoints):
                feed.push(feed.record(checkpoint))
            get_map(feed.client, "export", "layer:layer7.weight")
            command = [sys.executable, "-m", "trajmon", "export", "export", "--scope", "layer:layer7.weight"]
            command += ["--server", server.addresses["grpc"], "--out", str(Path(home) / "map.npz")]
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run(
                    command,
                    env={**os.environ, "TRAJMON_HOME": home},
                    check=True,
                    capture_output=True,
                    timeout=60,
                )
                taken.append(time.perf_counter() - start)
        finally:
            server.stop()
    seconds = statistics.median(taken)
    name = f"export of one layer's map, T={checkpoints}, L={NUM_LAYERS}"
    return [{"name": name, "value": seconds, "unit": "s", "limit": "<= 1", "ok": seconds <= 1.0}]


def run() -> list[dict[str, Any]]:
    """All figures."""
    table: list[dict[str, Any]] = []
    medians: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as home:
        server = ServerProcess(Path(home)).start()
        try:
            for start, count in ((100, 100), (1000, 50), (5000, 20)):
                rows, medians[start] = acknowledged(server, start, count)
                table += rows
            table += many_runs(server, num_runs=64, checkpoint=100, rows=10)
        finally:
            server.stop()
    growth = (medians[5000] / medians[1000]) / 5.0
    table.append(
        {
            "name": "cost of a row from t=1000 to t=5000, over what L*t explains",
            "value": growth,
            "unit": "x",
            "limit": "<= 1.5",
            "ok": growth <= 1.5,
        }
    )
    table += export(1000)
    table += memory(num_runs=200, checkpoints=200)
    return table


if __name__ == "__main__":
    for entry in run():
        print(f"{entry['name']:<70} {entry['value']:>10.3f} {entry['unit']}  {entry['limit'] or ''}")
