"""Sketches of sharded trainings: the ranks' parts add up to the sketch of the whole, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.calls import get_map, get_run
from support.server import Client, ServerProcess
from support.sharded import torchrun, watched
from trajmon.numerics.layout import ALIGNMENT_BYTES
from trajmon.numerics.sketch import SketchPlan, sketch_digits
from trajmon.rundir import RunDescription, RunDir
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.sketch_record import decode_sketch, spec_message

STEPS = 10
BINS = 61
HOLES = ("--mode", "sketch", "--sketch-bins", str(BINS), "--every", "1", "--steps", str(STEPS))


@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1"])
def test_parts_of_sketches_add_up_to_the_sketch_of_the_whole(tmp_path: Path, kind: str) -> None:
    server = ServerProcess(tmp_path / "home").start()
    try:
        torchrun(2, tmp_path / "unwatched", [kind], "--every", "1", "--steps", str(STEPS))
        watched(2, tmp_path / "watched", [kind], server, *HOLES)
        with np.load(tmp_path / "unwatched" / f"{kind}.npz") as file:
            truth = {name: file[name].reshape(STEPS + 1, -1) for name in file.files}
        with Client(server.grpc_address, server.token) as client:
            answer, summary = get_map(client, kind), get_run(client, kind).summary
    finally:
        server.stop()
    assert summary.sketch == spec_message(SketchSpec(bins=BINS))

    layout = RunDescription.read(RunDir(next((server.home / "client").glob(f"{kind}~*")))).layout
    plan = SketchPlan.of(layout, SketchSpec(bins=BINS))
    for checkpoint in range(STEPS + 1):
        snapshot = np.zeros(layout.nbytes + ALIGNMENT_BYTES, np.uint8)
        start = -snapshot.ctypes.data % ALIGNMENT_BYTES
        snapshot = snapshot[start : start + layout.nbytes]
        for layer, offset in zip(layout.layers, layout.offsets_bytes, strict=True):
            values = truth[layer.name][checkpoint].astype(np.float32)
            snapshot[offset : offset + layer.nbytes] = values.reshape(-1).view(np.uint8)
        (whole,) = server.data_dir.glob(f"journal/*/sketches/{checkpoint:08d}.0000.sketch")
        stored = decode_sketch(whole.read_bytes())
        np.testing.assert_array_equal(stored.values, sketch_digits(plan, snapshot).values())
        norms = [float(np.sum(np.square(truth[a.name][checkpoint]))) for a in layout.layers]
        np.testing.assert_allclose(stored.norms, norms, rtol=1e-12)

    # Each rank estimates from its own part of each layer; the sums are right within the errors that are stated.
    flat = np.concatenate([truth[layer.name] for layer in layout.layers], axis=1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    expected = unit @ unit.T
    off = np.abs(answer["map"] - expected)
    exact = answer["error"] == 0.0
    assert off[exact].max() < 1e-9
    assert (~exact).sum() > STEPS
    assert np.mean(off[~exact] <= 3.0 * answer["error"][~exact]) > 0.97
