"""Shards' sketches add up to the whole's, bit for bit, however ragged the cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import sketch_by_hand
from trajmon.numerics.errors import LayoutError
from trajmon.numerics.gram import PathIndices
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon.numerics.sketch import SketchPlan, gram_rows_with_sketches, sketch_digits
from trajmon.sharding.chunks import Chunk, Shard, shard_layout
from trajmon_protos.sketch import LEVELS, SketchSpec, canonical

KINDS: dict[Dtype, str] = {"float64": "<f8", "float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}
SHAPES = [(), (1,), (7,), (1000,), (40, 30), (3, 1, 50), (6, 5, 4, 3), (300, 70), (0, 4), (2, 20_000)]


def layout_of(*layers: Layer) -> Layout:
    return Layout(layers, (Group("network", tuple(range(len(layers)))),))


def parameters(layer: Layer, random: np.random.Generator) -> NDArray[np.generic]:
    values = random.standard_normal(layer.shape) * 0.1
    if layer.dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype(KINDS[layer.dtype])


def boxes_of(frame: tuple[int, ...], cuts: int, random: np.random.Generator) -> list[Chunk]:
    """A frame cut in two again and again, along any axis, anywhere: also at the ends."""
    boxes = [((0,) * len(frame), frame)]
    for _ in range(cuts if frame else 0):
        offsets, sizes = boxes.pop(int(random.integers(len(boxes))))
        axis = int(random.integers(len(frame)))
        at = int(random.integers(sizes[axis] + 1))
        for start, size in ((0, at), (at, sizes[axis] - at)):
            offset = (*offsets[:axis], offsets[axis] + start, *offsets[axis + 1 :])
            boxes.append((offset, (*sizes[:axis], size, *sizes[axis + 1 :])))
    # Cuts at the ends leave the same empty box more than once.
    return [Chunk(0, frame, offsets, sizes) for offsets, sizes in dict.fromkeys(boxes)]


def part_of(layout: Layout, values: list[NDArray[np.generic]], shard: Shard) -> NDArray[np.uint8]:
    own = shard_layout(layout, shard)
    data = np.full(own.nbytes, 0xFF, np.uint8)
    for chunk, layer, offset in zip(shard.chunks, own.layers, own.offsets_bytes, strict=True):
        raw = np.ascontiguousarray(values[chunk.layer].reshape(chunk.frame)[chunk.slices]).tobytes()
        data[offset : offset + layer.nbytes] = np.frombuffer(raw, np.uint8)
    return data


def whole_of(layout: Layout, values: list[NDArray[np.generic]]) -> NDArray[np.uint8]:
    shard = Shard(0, 1, "", 0, SketchPlan.of(layout, SketchSpec(bins=2)).chunks)
    return part_of(layout, values, shard)


@settings(max_examples=120, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.sampled_from(SHAPES), st.sampled_from(sorted(KINDS)), st.booleans(), st.integers(0, 8)),
        min_size=1,
        max_size=3,
    ),
    num_parts=st.integers(1, 4),
    bins=st.sampled_from([2, 5, 61, 251, 1021, 16381]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_ragged_shards_add_up_to_the_whole(
    layers: list[tuple[tuple[int, ...], Dtype, bool, int]],
    num_parts: int,
    bins: int,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    layout = layout_of(*(Layer(f"layer{i}", shape, dtype) for i, (shape, dtype, *_) in enumerate(layers)))
    values = [parameters(layer, random) for layer in layout.layers]
    spec = SketchSpec(bins=bins, seed=seed)
    whole_plan = SketchPlan.of(layout, spec)
    whole = sketch_digits(whole_plan, whole_of(layout, values))
    chunks: list[Chunk] = []
    for index, (shape, _, flat, cuts) in enumerate(layers):
        frame = (math.prod(shape),) if flat else shape
        made = boxes_of(frame, cuts, random)
        chunks += [Chunk(index, chunk.frame, chunk.offsets, chunk.sizes) for chunk in made]
    # In any order: chunks of one layer need not lie side by side.
    order = random.permutation(len(chunks))
    owner = random.integers(num_parts, size=len(chunks))
    total = np.zeros((len(LEVELS), whole_plan.num_columns), np.int64)
    for part in range(num_parts):
        mine = tuple(chunks[i] for i in order if owner[i] == part)
        if not mine:
            continue
        shard = Shard(part, num_parts, "", 0, mine)
        plan = SketchPlan.of_chunks(layout, mine, spec)
        assert plan.layout == shard_layout(layout, shard)
        assert [layer.name for layer in plan.layers] == [layout.layers[i].name for i in shard.layers]
        sketch = sketch_digits(plan, part_of(layout, values, shard), threads=threads)
        assert sketch.finite.all()
        for index, layer in enumerate(shard.layers):
            start, width = plan.starts[index], plan.widths[index]
            to = whole_plan.starts[layer]
            assert width == whole_plan.widths[layer]
            total[:, to : to + width] += sketch.digits[:, start : start + width]
    assert (canonical(total) == whole.digits).all()


def test_columns_of_a_box_are_those_of_whole_number_arithmetic() -> None:
    layout = layout_of(Layer("other", (9,), "float32"), Layer("w", (11, 6, 5), "float32"))
    values = [parameters(layer, np.random.default_rng(1)) for layer in layout.layers]
    shard = Shard(0, 2, "", 0, (Chunk(1, (11, 6, 5), (2, 1, 3), (7, 4, 2)), Chunk(1, (330,), (301,), (29,))))
    spec = SketchSpec(bins=61, seed=3)
    plan = SketchPlan.of_chunks(layout, shard.chunks, spec)
    sketch = sketch_digits(plan, part_of(layout, values, shard))
    flat = values[1].ravel().tolist()
    box = [30 * i + 5 * j + k for i in range(2, 9) for j in range(1, 5) for k in (3, 4)]
    expected = sketch_by_hand.sums("w", 3, 61, 330, [(i, flat[i]) for i in [*box, *range(301, 330)]])
    assert expected is not None
    assert sketch.digits.T.tolist() == [sketch_by_hand.digits(total) for total in expected]


def test_a_part_with_a_nan_says_which_of_its_layers() -> None:
    layout = layout_of(
        Layer("a", (50,), "float32"), Layer("b", (50,), "float32"), Layer("c", (9,), "float32")
    )
    values = [parameters(layer, np.random.default_rng(2)) for layer in layout.layers]
    values[2].view("<f4")[4] = np.nan
    shard = Shard(0, 2, "", 0, tuple(Chunk(i, (n,), (0,), (5,)) for i, n in ((2, 9), (0, 50))))
    plan = SketchPlan.of_chunks(layout, shard.chunks, SketchSpec(bins=5))
    assert sketch_digits(plan, part_of(layout, values, shard)).finite.tolist() == [True, False]


def test_a_shard_in_the_fused_pass() -> None:
    layout = layout_of(Layer("w", (600, 700), "float32"))
    values = [parameters(layer, np.random.default_rng(3)) for layer in layout.layers]
    shard = Shard(0, 2, "", 0, (Chunk(0, (600, 700), (0, 100), (600, 333)),))
    plan, data = (
        SketchPlan.of_chunks(layout, shard.chunks, SketchSpec(bins=251)),
        part_of(layout, values, shard),
    )
    first = PathIndices(None, None, None)
    _, (fused,) = gram_rows_with_sketches(shard_layout(layout, shard), [data], [], [first], plan, threads=3)
    assert fused.digits.tobytes() == sketch_digits(plan, data).digits.tobytes()


def test_no_chunks_are_no_shard() -> None:
    with pytest.raises(LayoutError, match="group 'network' holds no layers"):
        SketchPlan.of_chunks(layout_of(Layer("w", (3,), "float32")), [], SketchSpec(bins=5))
