"""The exact Gram row beside its limit, the read bandwidth, and beside what one would write in torch.

16 snapshots of 25.6 million float32 parameters (a ResNet-50), two threads. Reading and computing alternate on the
same bytes, and the ratio is the median over the rounds: what else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from trajmon.numerics.gram import PathIndices, compile_kernels, gram_row
from trajmon.numerics.layout import Group, Layer, Layout

PARAMETERS = 25_600_000
LAYERS = 50
SNAPSHOTS = 16
THREADS = 2
ROUNDS = 7
TORCH_SNAPSHOTS = 2
PIECE = 1 << 20
READ_SHARE = 0.6
TORCH_TIMES = 8.0


@njit(nogil=True, fastmath=True)
def sum_of(values: NDArray[np.float32]) -> float:
    """Touch every element and do as little as possible with it."""
    total = np.float32(0)
    for i in range(len(values)):
        total += values[i]
    return float(total)


def read_all(pool: ThreadPoolExecutor, snapshots: Sequence[NDArray[np.uint8]]) -> None:
    """Read every byte once, pieces of the snapshots in turn to the threads."""
    pieces = []
    for snapshot in snapshots:
        values = snapshot.view(np.float32)
        pieces += [values[start : start + PIECE] for start in range(0, len(values), PIECE)]
    for _ in pool.map(sum_of, pieces):
        pass


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def figure(name: str, value: float, unit: str, limit: str | None = None, ok: bool = True) -> dict[str, Any]:
    """One line of the table."""
    return {"name": name, "value": value, "unit": unit, "limit": limit, "ok": ok}


def layout_of(dtype: str, parameters: int, layers: int) -> Layout:
    """`layers` layers of equal size."""
    size = parameters // layers
    made = tuple(Layer(f"layer{index}", (size,), dtype) for index in range(layers))  # type: ignore[arg-type]  # one of four
    return Layout(made, (Group("network", tuple(range(layers))),))


def random_snapshots(layout: Layout, count: int) -> list[NDArray[np.uint8]]:
    """Normal parameters; 16-bit ones are cut from float32, which gives finite bfloat16."""
    random = np.random.default_rng(0)
    snapshots = []
    for _ in range(count):
        if layout.layers[0].dtype == "bfloat16":
            values = random.standard_normal(layout.nbytes // 2, np.float32).view(np.uint16)[1::2]
        else:
            dtype = np.dtype(layout.layers[0].dtype)
            values = random.standard_normal(layout.nbytes // dtype.itemsize, np.float32).astype(dtype)
        snapshots.append(np.ascontiguousarray(values).view(np.uint8))
    return snapshots


def measure_float32() -> list[dict[str, Any]]:
    """The figures with limits."""
    layout = layout_of("float32", PARAMETERS, LAYERS)
    *stored, new = random_snapshots(layout, SNAPSHOTS + 1)
    path = PathIndices(previous=SNAPSHOTS - 1, before_previous=SNAPSHOTS - 2, first=1)
    gigabytes = SNAPSHOTS * layout.nbytes / 1e9
    x = torch.from_numpy(new).view(torch.float32)
    older = [torch.from_numpy(snapshot).view(torch.float32) for snapshot in stored[:TORCH_SNAPSHOTS]]
    torch.set_num_threads(THREADS)
    reading, row, in_torch = [], [], []
    with ThreadPoolExecutor(THREADS) as pool:
        read_all(pool, stored)
        gram_row(layout, new, stored, path, threads=THREADS)
        for _ in range(ROUNDS):
            reading.append(seconds(lambda: read_all(pool, stored)))
            row.append(seconds(lambda: gram_row(layout, new, stored, path, threads=THREADS)))
            dots = seconds(lambda: [torch.dot(s.double(), x.double()) for s in older])
            in_torch.append(dots * SNAPSHOTS / TORCH_SNAPSHOTS)
    share = statistics.median(a / b for a, b in zip(reading, row, strict=True))
    times = statistics.median(a / b for a, b in zip(in_torch, row, strict=True))
    what = f"{SNAPSHOTS} x {PARAMETERS / 1e6:.1f} M float32, {THREADS} threads"
    return [
        figure(f"read bandwidth, {what}", gigabytes / statistics.median(reading), "GB/s"),
        figure(f"Gram row, {what}", gigabytes / statistics.median(row), "GB/s"),
        figure("Gram row over read bandwidth", share, "", f"{READ_SHARE} or more", share >= READ_SHARE),
        figure(
            "Gram row over torch.dot on .double()",
            times,
            "times",
            f"{TORCH_TIMES:g} or more",
            times >= TORCH_TIMES,
        ),
    ]


def measure_others() -> list[dict[str, Any]]:
    """Other dtypes, and a model of many small layers: for information."""
    figures = []
    cases = [
        ("float64", PARAMETERS // 2, LAYERS),
        ("bfloat16", PARAMETERS, LAYERS),
        ("float16", PARAMETERS, LAYERS),
    ]
    for dtype, parameters, layers in cases:
        layout = layout_of(dtype, parameters, layers)
        *stored, new = random_snapshots(layout, SNAPSHOTS + 1)
        path = PathIndices(SNAPSHOTS - 1, SNAPSHOTS - 2, 1)
        gram_row(layout, new, stored, path, threads=THREADS)
        took = statistics.median(
            seconds(lambda: gram_row(layout, new, stored, path, threads=THREADS))  # noqa: B023  # called at once
            for _ in range(3)
        )
        figures.append(figure(f"Gram row, {dtype}", SNAPSHOTS * layout.nbytes / 1e9 / took, "GB/s"))
    layout = layout_of("float32", 64_000, 1000)
    stored = random_snapshots(layout, 2000)
    gram_row(layout, stored[0], stored, PathIndices(1999, 1998, 1), threads=THREADS)
    took = seconds(lambda: gram_row(layout, stored[0], stored, PathIndices(1999, 1998, 1), threads=THREADS))
    figures.append(figure("1000 layers of 64 x 2000 snapshots", took / 2e6 * 1e9, "ns a layer and snapshot"))
    return figures


def run() -> list[dict[str, Any]]:
    """All figures; needs about 3.5 GB of memory."""
    compile_kernels()
    return [*measure_float32(), *measure_others()]


if __name__ == "__main__":
    for line in run():
        print(line)
