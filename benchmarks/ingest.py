"""Ingest of 40 checkpoints of 200 MB: how often each byte is read, how fast, and in how much memory.

float32, as safetensors files, in the page cache. Three rates over the same files in the same run, in turn:

* a plain read, one file after the other, each whole into memory that is there already, one thread;
* the Gram matrices of all of them, two threads;
* what one would write: ``cosine_similarity`` of every two state dicts, each pair loaded as it comes (measured on a few
  checkpoints; its work grows with the number of pairs).

The arithmetic has a limit of its own: 41 products and sums an element and checkpoint for 40 checkpoints, in float64.
Memory is the peak of a process of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trajmon.checkpoints import open_checkpoint
from trajmon.ingest.gram import gram_of_checkpoints

CHECKPOINTS = 40
FEW = 10
MEGABYTES = 200
LAYERS = 40
THREADS = 2
ROUNDS = 3
PAIRWISE_CHECKPOINTS = 4
READ_SHARE = 0.6
PAIRWISE_TIMES = 10.0
BYTES_READ = 1.05
PEAK_BYTES = 1 << 30
# A process of its own, with nothing in it but what an ingest needs: prints bytes read and its peak memory.
PROGRAM = """
import sys
from pathlib import Path
from trajmon.checkpoints import open_checkpoint
from trajmon.ingest.gram import gram_of_checkpoints

def of(file, key):
    lines = dict(line.split(":", 1) for line in Path("/proc/self", file).read_text().splitlines())
    return int(lines[key].split()[0])

threads, *paths = sys.argv[1:]
readers = [open_checkpoint(Path(path)) for path in paths]
# Compiled, or loaded from the cache: that reads files too.
gram_of_checkpoints(readers[:1], memory_bytes=1 << 24)
before = of("io", "rchar")
gram_of_checkpoints(readers, threads=int(threads))
print(of("io", "rchar") - before, of("status", "VmHWM") * 1024)
"""

Figure = dict[str, Any]


def figure(name: str, value: float, unit: str, limit: str | None = None, ok: bool = True) -> Figure:
    """One line of the table."""
    return {"name": name, "value": value, "unit": unit, "limit": limit, "ok": ok}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_series(folder: Path, checkpoints: int, megabytes: int) -> list[Path]:
    """A walk of small steps; written once, so in the page cache where there is room."""
    size = megabytes * 1_000_000 // 4 // LAYERS
    random = torch.Generator().manual_seed(0)
    point = {f"block.{index}.weight": torch.randn(size, generator=random) for index in range(LAYERS)}
    noise = torch.randn(size, generator=random)
    paths = []
    for number in range(checkpoints):
        paths.append(folder / f"step{number}.safetensors")
        save_file(point, paths[-1])
        for index, tensor in enumerate(point.values()):
            tensor += 0.01 * noise.roll(number * 97 + index)
    return paths


def read_plainly(paths: Sequence[Path]) -> None:
    """Each file whole into memory."""
    memory = bytearray(max(path.stat().st_size for path in paths))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            view = memoryview(memory)
            while count := file.readinto(view):
                view = view[count:]


def compare_pairwise(paths: Sequence[Path]) -> None:
    """The loop that one would write."""
    for one, other in combinations(paths, 2):
        a, b = load_file(one), load_file(other)
        for name in a:
            torch.nn.functional.cosine_similarity(a[name].flatten(), b[name].flatten(), dim=0)


def ingest(paths: Sequence[Path]) -> None:
    """All Gram matrices and update products."""
    readers = [open_checkpoint(path) for path in paths]
    try:
        gram_of_checkpoints(readers, threads=THREADS)
    finally:
        for reader in readers:
            reader.close()


def in_own_process(paths: Sequence[Path]) -> tuple[int, int]:
    """Bytes read and peak memory."""
    command = [sys.executable, "-c", PROGRAM, str(THREADS), *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    read, peak = done.stdout.split()
    return int(read), int(peak)


def measure(folder: Path, checkpoints: int, megabytes: int, rounds: int) -> list[Figure]:
    """All figures over one series."""
    need = int(1.1e6 * megabytes * checkpoints)
    if shutil.disk_usage(folder).free < need:
        raise OSError(f"{folder} has no room for {need / 1e9:.1f} GB of checkpoints")
    paths = write_series(folder, checkpoints, megabytes)
    total = sum(path.stat().st_size for path in paths)
    read_plainly(paths)
    ingest(paths[:2])
    reading, ingesting = [], []
    for _ in range(rounds):
        reading.append(seconds(lambda: read_plainly(paths)))
        ingesting.append(seconds(lambda: ingest(paths)))
    torch.set_num_threads(THREADS)
    few = paths[:PAIRWISE_CHECKPOINTS]
    pairs = len(few) * (len(few) - 1) / 2
    pairwise = seconds(lambda: compare_pairwise(few)) / pairs * checkpoints * (checkpoints - 1) / 2
    share = statistics.median(a / b for a, b in zip(reading, ingesting, strict=True))
    took = statistics.median(ingesting)
    bytes_read, peak = in_own_process(paths)
    _, few_peak = in_own_process(paths[:FEW])
    what = f"{checkpoints} x {megabytes} MB"
    products = checkpoints + 1
    return [
        figure(f"plain read, {what}", total / 1e9 / statistics.median(reading), "GB/s"),
        figure(f"ingest, {what}, {THREADS} threads", total / 1e9 / took, "GB/s"),
        figure(
            f"ingest, float64 arithmetic of {products} products", total / 4 * products / took / 1e9, "GFLOP/s"
        ),
        figure("ingest over plain read", share, "", f"{READ_SHARE} or more", share >= READ_SHARE),
        figure(
            f"ingest over pairwise loop ({len(few)} checkpoints measured)",
            pairwise / took,
            "times",
            f"{PAIRWISE_TIMES:g} or more",
            pairwise / took >= PAIRWISE_TIMES,
        ),
        figure(
            "bytes read over bytes of the files",
            bytes_read / total,
            "",
            f"{BYTES_READ} or less",
            bytes_read / total <= BYTES_READ,
        ),
        figure(
            f"peak memory, {FEW} checkpoints", few_peak / 2**20, "MiB", "1024 or less", few_peak <= PEAK_BYTES
        ),
        figure(
            f"peak memory, {checkpoints} checkpoints", peak / 2**20, "MiB", "1024 or less", peak <= PEAK_BYTES
        ),
    ]


def run() -> list[Figure]:
    """All figures; needs 9 GB of disk, as much free memory for the page cache, and about two minutes."""
    with tempfile.TemporaryDirectory(prefix="trajmon-bench-ingest-") as folder:
        return measure(Path(folder), CHECKPOINTS, MEGABYTES, ROUNDS)


if __name__ == "__main__":
    for line in run():
        print(line)
