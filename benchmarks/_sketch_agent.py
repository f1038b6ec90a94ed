"""Programs that benchmarks/sketch.py starts: a stand-in for training, and what the agent does with its snapshots.

python -m benchmarks._sketch_agent train FOLDER CHECKPOINT    writes one snapshot of a billion parameters
python -m benchmarks._sketch_agent row FOLDER CHECKPOINT      row and sketch; prints figures as JSON
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import numpy as np

from trajmon.numerics.gram import PathIndices, compile_kernels, gram_rows
from trajmon.numerics.layout import Group, Layer, Layout
from trajmon.numerics.sketch import SketchPlan, gram_rows_with_sketches
from trajmon.snapshots.format import SnapshotHeader, snapshot_bytes
from trajmon.snapshots.mapped import releaser
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.sketch import SketchSpec, default_bins

BLOCKS = 24
WIDTH = 1792
VOCABULARY = 50_257
KEPT = 2
THREADS = 2
_SAMPLE_SECONDS = 0.02


def transformer_layout() -> Layout:
    """1.0e9 float32 parameters in 24 blocks of width 1792."""
    layers = [Layer("embedding.weight", (VOCABULARY, WIDTH), "float32")]
    for block in range(BLOCKS):
        shapes = {
            **{f"attention.{name}.weight": (WIDTH, WIDTH) for name in ("query", "key", "value", "output")},
            "mlp.up.weight": (4 * WIDTH, WIDTH),
            "mlp.down.weight": (WIDTH, 4 * WIDTH),
            **{f"norm{number}.{kind}": (WIDTH,) for number in (1, 2) for kind in ("weight", "bias")},
        }
        layers += [Layer(f"block.{block}.{name}", shape, "float32") for name, shape in shapes.items()]
    return Layout(tuple(layers), (Group("network", tuple(range(len(layers)))),))


def plan_of(layout: Layout) -> SketchPlan:
    """With the number of bins that a run takes of itself."""
    bins = default_bins([layer.num_parameters for layer in layout.layers])
    return SketchPlan.of(layout, SketchSpec(bins=bins))


def store_of(folder: Path, name: str, layout: Layout) -> SnapshotStore:
    """A folder of snapshots, or of sketches, as the agent keeps them."""
    (folder / name).mkdir(exist_ok=True)
    return SnapshotStore(folder / name, layout.fingerprint, layout.nbytes, writer="agent")


def header_of(layout: Layout, checkpoint: int) -> SnapshotHeader:
    """The least that a snapshot says of itself."""
    previous = checkpoint - 1 if checkpoint else None
    return SnapshotHeader(checkpoint, 1, checkpoint, layout.fingerprint, previous)


def train(folder: Path, checkpoint: int) -> None:
    """Write θ_t = θ_0 + 0.001 t δ."""
    layout = transformer_layout()
    data = np.zeros(layout.nbytes, np.uint8)
    for index, (layer, offset) in enumerate(zip(layout.layers, layout.offsets_bytes, strict=True)):
        start = np.random.default_rng(index).standard_normal(layer.num_parameters, np.float32)
        start *= np.float32(0.02)
        values = data[offset : offset + layer.nbytes].view(np.float32)
        values[:] = start[::-1] * np.float32(0.001 * checkpoint)
        values += start
    store = store_of(folder, "snapshots", layout)
    store.write(checkpoint, header_of(layout, checkpoint), data.data, durable=False)


class Memory:
    """The largest memory of this process, by the kernel's count, sampled."""

    def __init__(self) -> None:
        self.own_bytes = self.total_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        own, mapped, shared = (
            int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssFile", "RssShmem")
        )
        self.own_bytes = max(self.own_bytes, own + shared)
        self.total_bytes = max(self.total_bytes, own + mapped + shared)

    def stop(self) -> None:
        """After a last look."""
        self._done.set()
        self._thread.join()
        self._sample()


def row(folder: Path, checkpoint: int) -> dict[str, float]:
    """What the agent does with a checkpoint in sketch mode; older snapshots are given up."""
    layout = transformer_layout()
    plan = plan_of(layout)
    snapshots, sketches = (
        store_of(folder, name, at) for name, at in (("snapshots", layout), ("sketches", plan.sketch_layout))
    )
    compile_kernels()
    memory = Memory()
    first = max(0, checkpoint - KEPT)
    stored = [snapshots.data(number) for number in range(first, checkpoint)]
    began = time.perf_counter()
    path = PathIndices(*((None,) * 3 if not stored else (len(stored) - 1, None, None)))
    if len(stored) > 1:
        path = PathIndices(1, 0, 1)
    new = snapshots.data(checkpoint)
    _, (sketch,) = gram_rows_with_sketches(
        layout, [new], stored, [path], plan, threads=THREADS, release=releaser([*stored, new])
    )
    seconds = time.perf_counter() - began
    data, header = sketch.sketch_bytes(), header_of(plan.sketch_layout, checkpoint)
    earlier = [sketches.data(number) for number in range(checkpoint)]
    of_sketches = PathIndices(0 if earlier else None, None, None)
    gram_rows(plan.sketch_layout, [data], earlier, [of_sketches], threads=THREADS)
    sketches.write(checkpoint, header, data.data, durable=True)
    for number in range(checkpoint + 1 - KEPT):
        if snapshots.header(number).kept:
            snapshots.give_up(number)
    memory.stop()
    return {
        "seconds": seconds,
        "gigabytes": (1 + len(stored)) * layout.nbytes / 1e9,
        "own_bytes": memory.own_bytes,
        "total_bytes": memory.total_bytes,
        "slot_bytes": layout.nbytes,
        "snapshot_bytes": snapshot_bytes(header_of(layout, checkpoint), layout.nbytes),
        "sketch_bytes": snapshot_bytes(header, plan.sketch_layout.nbytes),
        "disk_bytes": sum(
            path.stat().st_size for path in chain.from_iterable(part.iterdir() for part in folder.iterdir())
        ),
        "bins": plan.spec.bins,
        "parameters": layout.num_parameters,
    }


if __name__ == "__main__":
    task, where, number = sys.argv[1:]
    if task == "train":
        train(Path(where), int(number))
    else:
        print(json.dumps(row(Path(where), int(number))))
