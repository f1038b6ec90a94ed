"""Rows of a backlog: 8 checkpoints that wait, computed together, beside the time of one.

32 stored snapshots of 25 million float32 parameters, 100 MB each, two threads. One row, all eight together and all
eight one by one alternate on the same bytes; a ratio is the median over the rounds.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.gram import figure, layout_of, random_snapshots, seconds

from trajmon.numerics.gram import PathIndices, compile_kernels, gram_row, gram_rows

PARAMETERS = 25_000_000
LAYERS = 50
STORED = 32
PENDING = 8
THREADS = 2
ROUNDS = 5
LIMIT = 3.0
MOST_BYTES = 64 << 20


def run() -> list[dict[str, Any]]:
    """All figures; needs about 4.2 GB of memory."""
    compile_kernels()
    layout = layout_of("float32", PARAMETERS, LAYERS)
    snapshots = random_snapshots(layout, STORED + PENDING)
    stored, new = snapshots[:STORED], snapshots[STORED:]
    paths = [PathIndices(STORED - 1 + i, STORED - 2 + i, 1) for i in range(PENDING)]

    def one() -> None:
        gram_row(layout, new[0], stored, paths[0], threads=THREADS)

    def together() -> None:
        gram_rows(layout, new, stored, paths, threads=THREADS)

    def one_by_one() -> None:
        for index, path in enumerate(paths):
            gram_row(layout, new[index], [*stored, *new[:index]], path, threads=THREADS)

    one()
    before = _peak_bytes(anew=True)
    together()
    grown = _peak_bytes(anew=False) - before
    times = [(seconds(one), seconds(together), seconds(one_by_one)) for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b, _ in times)
    spared = statistics.median(c / b for _, b, c in times)
    what = f"{PENDING} pending, {STORED} stored of {layout.nbytes / 1e6:.0f} MB"
    return [
        figure(f"one row, {STORED} stored", statistics.median(a for a, _, _ in times), "s"),
        figure(f"{what}, together", statistics.median(b for _, b, _ in times), "s"),
        figure(f"{what}, over one row", ratio, "times", f"{LIMIT:g} or less", ratio <= LIMIT),
        figure(f"{what}, one by one over together", spared, "times"),
        figure(
            "memory that they take together",
            grown / 2**20,
            "MiB",
            f"{MOST_BYTES >> 20} or less",
            grown <= MOST_BYTES,
        ),
    ]


def _peak_bytes(*, anew: bool) -> int:
    """Most memory that this process has held, since it started or was last asked with `anew`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _peak_bytes(anew=False)
    return peak


if __name__ == "__main__":
    for line in run():
        print(line)
