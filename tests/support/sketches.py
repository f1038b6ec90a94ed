"""Sketch records of synthetic runs, from their parameters in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from support.rows import Cut, SyntheticRun
from trajmon.numerics.layout import ALIGNMENT_BYTES, Group, Layer, Layout
from trajmon.numerics.sketch import Sketch, SketchPlan, sketch_digits
from trajmon_protos.record import LayerStatus, Row, encode
from trajmon_protos.sketch import LEVELS, SketchSpec
from trajmon_protos.sketch_record import DIGITS, SketchRow, encode_sketch, spec_message
from trajmon_protos.v1 import types_pb2

SPEC = SketchSpec(bins=11)


def sketch_of(run: SyntheticRun, theta: NDArray[np.float64], spec: SketchSpec = SPEC) -> Sketch:
    """`theta`: [layers, elements]."""
    layers = tuple(Layer(name, (run.layer_size,), "float64") for name in run.layer_names)
    layout = Layout(layers, (Group("network", tuple(range(run.num_layers))),))
    buffer = np.zeros(layout.nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    snapshot = buffer[start : start + layout.nbytes]
    for values, offset in zip(theta, layout.offsets_bytes, strict=True):
        snapshot[offset : offset + values.nbytes] = values.view(np.uint8)
    return sketch_digits(SketchPlan.of(layout, spec), snapshot)


def sketch_row(
    run: SyntheticRun,
    checkpoint: int,
    spec: SketchSpec = SPEC,
    path: list[int] | None = None,
    attempt: int = 1,
) -> SketchRow:
    """What an agent that keeps whole snapshots hands in."""
    row = run.row(checkpoint, path, attempt)
    values = [sketch_of(run, run.parameters[number], spec).values() for number in range(checkpoint + 1)]
    header = types_pb2.SketchHeader(
        row=row.header, spec=spec_message(spec), num_columns=len(values[0]), dtype="<f8"
    )
    return SketchRow(header, row.gram[:, -1], row.products, row.status, _gram(run, values, spec), values[-1])


def sketch_record(run: SyntheticRun, checkpoint: int, spec: SketchSpec = SPEC) -> bytes:
    return encode_sketch(sketch_row(run, checkpoint, spec))


def part_sketch_row(run: SyntheticRun, checkpoint: int, cut: Cut, part: int) -> SketchRow:
    """What the owner of a part hands in."""
    row = run.part_row(checkpoint, cut, part)
    layers = list(row.header.layers)
    sketches = [
        sketch_of(run, np.where(cut.owner == part, run.parameters[number], 0.0))
        for number in range(checkpoint + 1)
    ]
    width = SPEC.width(run.layer_size)
    columns = np.concatenate([np.arange(layer * width, (layer + 1) * width) for layer in layers])
    header = types_pb2.SketchHeader(
        row=row.header,
        spec=spec_message(SPEC),
        num_columns=len(columns),
        dtype=DIGITS,
        first_level=LEVELS[0],
        num_levels=len(LEVELS),
    )
    gram = _gram(run, [sketch.values() for sketch in sketches], SPEC)[layers]
    return SketchRow(header, row.gram[:, -1], row.products, row.status, gram, sketches[-1].digits[:, columns])


def thinned(run: SyntheticRun, checkpoint: int, kept: set[int], path: list[int] | None = None) -> bytes:
    """A row of which only the entries with the `kept` snapshots are known."""
    row = run.row(checkpoint, path)
    gram = row.gram.copy()
    gone = [number for number in range(checkpoint) if number not in kept]
    gram[:, gone] = np.nan
    status = np.full_like(row.status, LayerStatus.NOT_KEPT if gone else LayerStatus.EXACT)
    return encode(Row(row.header, gram, row.products, status))


def _gram(run: SyntheticRun, values: list[NDArray[np.float64]], spec: SketchSpec) -> NDArray[np.float64]:
    width = spec.width(run.layer_size)
    stacked = np.stack(values).reshape(len(values), run.num_layers, width)
    gram: NDArray[np.float64] = np.einsum("slw,lw->ls", stacked, stacked[-1])
    return gram
