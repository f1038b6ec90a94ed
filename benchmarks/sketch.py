"""Sketches beside the Gram row that they are made with, beside other random projections, and of a billion parameters.

A row against 2 stored snapshots, as in sketch mode: 25.6 million float32 parameters, two threads. Reading, the row
alone, the row with its sketch and the sketch alone alternate on the same bytes; a ratio is the median over the rounds.
In all about three minutes, 1.5 GiB of memory, and 13 GB of disk for the billion parameters.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.gram import figure, layout_of, random_snapshots, read_all, seconds
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from trajmon.numerics.gram import PathIndices, compile_kernels, gram_row
from trajmon.numerics.sketch import SketchPlan, gram_rows_with_sketches, sketch_digits
from trajmon_protos.sketch import SketchSpec

PARAMETERS = 25_600_000
LAYERS = 50
BINS = 16_381
THREADS = 2
ROUNDS = 25
READ_SHARE = 0.3
MATRIX_BYTES = 1 << 29
"""What the matrix of another projection may take; the sparse one takes a minute and a half to make."""
GAUSSIAN_ELEMENTS = MATRIX_BYTES // (8 * BINS)
# sqrt(n) entries in each of its rows, as float64 with a 32-bit index.
SPARSE_ELEMENTS = (MATRIX_BYTES // (12 * BINS)) ** 2
CHECKPOINTS = 4
MOST_BYTES = 10 << 30
TRAINING_SECONDS = 300.0


def measure_speed() -> tuple[list[dict[str, Any]], float]:
    """The figures, and elements a second of the sketch alone."""
    layout = layout_of("float32", PARAMETERS, LAYERS)
    *stored, new = random_snapshots(layout, 3)
    for snapshot in (*stored, new):
        values = snapshot.view(np.float32)
        values *= np.float32(0.02)
    plan = SketchPlan.of(layout, SketchSpec(bins=BINS))
    # In sketch mode the initialization and the first step are gone, and the last two snapshots are there.
    kept, path = [None, None, *stored], PathIndices(3, 2, 1)
    reading, one, row, fused, alone = [], [], [], [], []
    with ThreadPoolExecutor(THREADS) as pool:
        read_all(pool, [*stored, new])
        for _ in range(ROUNDS + 1):
            reading.append(seconds(lambda: read_all(pool, [*stored, new])))
            row.append(seconds(lambda: gram_row(layout, new, kept, path, threads=THREADS)))
            fused.append(
                seconds(lambda: gram_rows_with_sketches(layout, [new], kept, [path], plan, threads=THREADS))
            )
            one.append(seconds(lambda: read_all(pool, [new])))
            alone.append(seconds(lambda: sketch_digits(plan, new, threads=THREADS)))
    # The first round compiles.
    reading, one, row, fused, alone = (times[1:] for times in (reading, one, row, fused, alone))

    def ratios(a: list[float], b: list[float]) -> list[float]:
        return [x / y for x, y in zip(a, b, strict=True)]

    def ratio(a: list[float], b: list[float]) -> float:
        return statistics.median(ratios(a, b))

    share, of_row = ratio(reading, fused), ratio(row, fused)
    quarters = statistics.quantiles(ratios(reading, fused), n=4)
    gigabytes, rate = 3 * layout.nbytes / 1e9, PARAMETERS / min(alone)
    what = f"2 + 1 x {PARAMETERS / 1e6:.1f} M float32, {THREADS} threads"
    return [
        figure(f"read bandwidth, {what}", gigabytes / statistics.median(reading), "GB/s"),
        figure(f"row with its sketch of {BINS} bins", gigabytes / statistics.median(fused), "GB/s"),
        figure(
            "row with sketch over read bandwidth", share, "", f"{READ_SHARE} or more", share >= READ_SHARE
        ),
        figure("the same, a quarter of the passes below", quarters[0], ""),
        figure("the same, a quarter of the passes above", quarters[2], ""),
        figure("of a pass: as long as reading takes", share, ""),
        figure("of a pass: the row's arithmetic", of_row - share, ""),
        figure("of a pass: the sketch", 1 - of_row, ""),
        figure("row alone over read bandwidth", ratio(reading, row), ""),
        figure("row with sketch, time over the row's alone", ratio(fused, row), "times"),
        figure("sketch alone over a read of the same bytes", ratio(one, alone), ""),
        figure("sketch alone", rate, "elements/s"),
    ], rate


def measure_others(own_rate: float) -> list[dict[str, Any]]:
    """The same number of columns by matrices, on as many elements as they can hold; making them is not counted."""
    figures = []
    random = np.random.default_rng(0)
    for projection, size in (
        (SparseRandomProjection(n_components=BINS, random_state=0), SPARSE_ELEMENTS),
        (GaussianRandomProjection(n_components=BINS, random_state=0), GAUSSIAN_ELEMENTS),
    ):
        values = random.standard_normal((1, size))
        with warnings.catch_warnings():
            # As many columns as elements is no reduction, says the dense one.
            warnings.simplefilter("ignore")
            projection.fit(values)
        rate = size / min(seconds(lambda: projection.transform(values)) for _ in range(5))  # noqa: B023  # called at once
        name = type(projection).__name__
        held = f"{size:,} elements, {MATRIX_BYTES / 2**30:g} GiB"
        figures.append(figure(f"sklearn {name}, {held}", rate, "elements/s"))
        figures.append(figure(f"sketch alone over {name}", own_rate / rate, "times"))
    return figures


def measure_a_billion() -> list[dict[str, Any]]:
    """Checkpoints of 1.0e9 parameters, the agent's work on each in a process of its own; 13 GB of disk."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="trajmon-sketch-") as folder:
        for checkpoint in range(CHECKPOINTS):
            for task in ("train", "row"):
                answer = subprocess.run(
                    [sys.executable, "-m", "benchmarks._sketch_agent", task, folder, str(checkpoint)],
                    cwd=Path(__file__).parents[1],
                    stdout=subprocess.PIPE,
                    check=True,
                    timeout=TRAINING_SECONDS,
                )
            rows.append(json.loads(answer.stdout))
    own, total = (max(row[name] for row in rows) for name in ("own_bytes", "total_bytes"))
    last = rows[-1]
    what = f"{last['parameters'] / 1e9:.3f}e9 float32, {last['bins']:.0f} bins"
    return [
        figure(
            f"{what}: the agent's peak memory, mapped snapshots included",
            total / 2**30,
            "GiB",
            f"{(MOST_BYTES - last['slot_bytes']) / 2**30:.1f} or less",
            total + last["slot_bytes"] <= MOST_BYTES,
        ),
        figure("of it the agent's own", own / 2**30, "GiB"),
        figure("beside it in shared memory: the slot of training's copy", last["slot_bytes"] / 2**30, "GiB"),
        figure("row with sketch, 2 stored snapshots", min(row["seconds"] for row in rows[2:]), "s"),
        figure("a sketch on disk", last["sketch_bytes"] / 2**20, "MiB a checkpoint"),
        figure("a snapshot on disk, of which two are kept", last["snapshot_bytes"] / 2**20, "MiB"),
        figure(f"all on disk after {CHECKPOINTS} checkpoints", last["disk_bytes"] / 2**20, "MiB"),
    ]


def run() -> list[dict[str, Any]]:
    """All figures."""
    compile_kernels()
    speed, rate = measure_speed()
    return [*speed, *measure_others(rate), *measure_a_billion()]


if __name__ == "__main__":
    for line in run():
        print(line)
