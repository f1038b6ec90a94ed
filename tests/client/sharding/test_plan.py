"""Ownership: every element once, by somebody who holds it, and a clear word where that cannot be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sharding.cuts import by_axis, by_runs, divide, flat_set, partitions, whole  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.errors import ShardError
from trajmon.numerics.layout import ITEM_BYTES, Dtype, Group, Layer, Layout
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.plan import Held, plan_owners

SHAPES: tuple[tuple[int, ...], ...] = ((7, 13), (10,), (), (3, 4, 2), (0, 3), (1,))


def layers_of(*shapes: tuple[int, ...], dtype: Dtype = "float32") -> list[Layer]:
    return [Layer(f"layer{place}", shape, dtype) for place, shape in enumerate(shapes)]


def held(*ranks: Sequence[Chunk]) -> list[list[Held]]:
    return [[Held(chunk, f"{hash(chunk):x}") for chunk in chunks] for chunks in ranks]


def check(layers: Sequence[Layer], ranks: Sequence[Sequence[Held]]) -> list[tuple[Chunk, ...]]:
    """The plan, checked against counting every element on its own."""
    plan = plan_owners(layers, ranks)
    counts = [np.zeros(layer.num_parameters, dtype=np.int64) for layer in layers]
    for owned, entries in zip(plan, ranks, strict=True):
        assert set(owned) <= {entry.chunk for entry in entries}
        assert list(owned) == sorted(owned, key=lambda chunk: (chunk.layer, chunk.offsets))
        assert all(chunk.num_elements for chunk in owned)
        for chunk in owned:
            np.add.at(counts[chunk.layer], flat_set(chunk), 1)
    assert all((count == 1).all() for count in counts)
    return plan


def loads(layers: Sequence[Layer], plan: Sequence[Sequence[Chunk]]) -> list[int]:
    return [
        sum(chunk.num_elements * ITEM_BYTES[layers[chunk.layer].dtype] for chunk in owned) for owned in plan
    ]


@given(st.data())
def test_any_partition_with_any_replicas_gets_each_element_one_owner(data: st.DataObject) -> None:
    layers = layers_of(*SHAPES)
    num_ranks = data.draw(st.integers(1, 5))
    ranks: list[list[Held]] = [[] for _ in range(num_ranks)]
    for place, layer in enumerate(layers):
        for chunk in data.draw(partitions(whole(place, layer.shape))):
            holders = data.draw(st.sets(st.integers(0, num_ranks - 1), min_size=1))
            for rank in holders:
                ranks[rank].append(Held(chunk, data.draw(st.sampled_from(["", "d1"]))))
    shuffled = [data.draw(st.permutations(entries)) for entries in ranks]
    assert check(layers, ranks) == plan_owners(layers, shuffled)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_sharded_along_an_axis_or_as_runs_each_rank_owns_what_it_holds(num_ranks: int) -> None:
    layers = layers_of(*SHAPES)
    layout = Layout(tuple(layers), (Group("network", tuple(range(len(layers)))),))
    for cut in (by_axis(layout, num_ranks), by_axis(layout, num_ranks, axis=1), by_runs(layout, num_ranks)):
        plan = check(layers, held(*cut))
        assert [set(owned) for owned in plan] == [{c for c in chunks if c.num_elements} for chunks in cut]


def test_seven_rows_on_three_ranks_and_on_eight() -> None:
    layers = layers_of((7, 3))
    rows = [[chunk.sizes[0] for chunk in owned] for owned in check(layers, held(*by_one(layers, 3)))]
    assert rows == [[3], [3], [1]]
    rows = [[chunk.sizes[0] for chunk in owned] for owned in check(layers, held(*by_one(layers, 8)))]
    assert rows == [[1]] * 7 + [[]]


def by_one(layers: Sequence[Layer], parts: int) -> list[list[Chunk]]:
    pieces = [divide(whole(place, layer.shape), 0, parts) for place, layer in enumerate(layers)]
    return [list(chunks) for chunks in zip(*pieces, strict=True)]


def test_replicas_are_spread_over_the_ranks() -> None:
    layers = layers_of(*[(100, 10)] * 8)
    everything = [whole(place, layer.shape) for place, layer in enumerate(layers)]
    plan = check(layers, held(*[everything] * 4))
    assert loads(layers, plan) == [8000] * 4


def test_hsdp_counts_each_shard_once_and_divides_the_work() -> None:
    layers = layers_of((8, 4), (6, 4))
    shards = by_one(layers, 2)
    plan = check(layers, held(shards[0], shards[1], shards[0], shards[1]))
    assert [[chunk.layer for chunk in owned] for owned in plan] == [[0], [0], [1], [1]]


def test_a_parameter_outside_of_the_tensor_parallel_plan_is_counted_once() -> None:
    # Data parallel times tensor parallel, 2 x 2: the second layer lies on the data axis alone, twice over.
    layers = layers_of((8, 6), (9,))
    rows = divide(whole(0, (8, 6)), 0, 2)
    outside = divide(whole(1, (9,)), 0, 2)
    ranks = [[divide(rows[dp], 1, 2)[tp], outside[dp]] for dp in range(2) for tp in range(2)]
    plan = check(layers, held(*ranks))
    assert sum(chunk.num_elements for owned in plan for chunk in owned) == 48 + 9


def test_what_only_one_rank_holds_weighs_before_there_is_a_choice() -> None:
    layers = layers_of((50,), (20,), (20,), (10,))
    free = [whole(place, (size,)) for place, size in ((1, 20), (2, 20), (3, 10))]
    plan = check(layers, held(free, [whole(0, (50,)), *free]))
    assert loads(layers, plan) == [200, 200]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    num_ranks=st.integers(1, 3),
)
def test_the_fullest_rank_has_at_most_four_thirds_of_the_best(sizes: list[int], num_ranks: int) -> None:
    layers = layers_of(*[(size,) for size in sizes])
    everything = [whole(place, (size,)) for place, size in enumerate(sizes)]
    fullest = max(loads(layers, check(layers, held(*[everything] * num_ranks))))
    ways = itertools.product(range(num_ranks), repeat=len(sizes))
    best = min(
        max(
            sum(size for size, owner in zip(sizes, way, strict=True) if owner == rank)
            for rank in range(num_ranks)
        )
        for way in ways
    )
    assert fullest <= 4 * best * (4 - 1 / num_ranks) / 3


def test_boxes_that_no_cut_separates_are_compared_one_by_one() -> None:
    # A pinwheel: no line goes through from side to side.
    wheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    chunks = [Chunk(0, (3, 3), offsets, sizes) for offsets, sizes in wheel]
    check(layers_of((3, 3)), held(*[[chunk] for chunk in chunks]))
    chunks[0] = Chunk(0, (3, 3), (0, 0), (2, 2))
    error = refusal(layers_of((3, 3)), held(*[[chunk] for chunk in chunks]))
    assert re.fullmatch(
        r"layer 'layer0': chunks overlap, \[0:2,0:2\] of 3x3 of rank 0 and .* of rank [34]", error
    )


def refusal(layers: Sequence[Layer], ranks: Sequence[Sequence[Held]]) -> str:
    with pytest.raises(ShardError) as caught:
        plan_owners(layers, ranks)
    return str(caught.value)


def test_a_missing_rank_is_named_by_what_it_leaves_open() -> None:
    layers = layers_of((7, 3), (4,))
    first, second, _ = by_one(layers, 3)
    assert refusal(layers, held(first, second)) == (
        "layer 'layer0' is uncovered: ranks 0, 1 hold 18 of its 21 elements; is a rank or a pipeline stage missing "
        "from the group?"
    )


def test_a_missing_pipeline_stage_is_named() -> None:
    layers = layers_of((4,), (5,), (5,), (5,), (6,))
    error = refusal(layers, held([whole(0, (4,))], []))
    assert error.startswith(
        "layer 'layer1' is uncovered: none of the 2 ranks holds any of its 5 elements; is a "
    )
    assert error.endswith("from the group?; and 1 more")


def test_overlapping_chunks_are_named_with_their_ranks() -> None:
    layers = layers_of((8, 6))
    halves = divide(whole(0, (8, 6)), 0, 2)
    assert refusal(layers, held([halves[0]], [halves[1]], [whole(0, (8, 6))], [halves[1]])) in {
        f"layer 'layer0': chunks overlap, {pair}"
        for pair in (
            "[0:4,0:6] of 8x6 of rank 0 and [0:8,0:6] of 8x6 of rank 2",
            "[0:8,0:6] of 8x6 of rank 2 and [4:8,0:6] of 8x6 of ranks 1, 3",
        )
    }


def test_the_right_number_of_elements_does_not_hide_an_overlap() -> None:
    chunks = [Chunk(0, (8,), (0,), (4,)), Chunk(0, (8,), (2,), (4,))]
    assert refusal(layers_of((8,)), held(chunks[:1], chunks[1:])) == (
        "layer 'layer0': chunks overlap, [0:4] of 8 of rank 0 and [2:6] of 8 of rank 1"
    )


@given(st.data())
def test_overlaps_are_found_wherever_they_are(data: st.DataObject) -> None:
    frame = (4, 5, 3)
    chunks = data.draw(partitions(whole(0, frame)).filter(lambda found: len(found) > 1))
    place = data.draw(st.sampled_from([i for i, chunk in enumerate(chunks) if chunk.num_elements]))
    axis = data.draw(st.integers(0, 2))
    # One element more along an axis reaches into a neighbour, or out of the layer.
    sizes = list(chunks[place].sizes)
    sizes[axis] += 1
    chunks[place] = Chunk(0, frame, chunks[place].offsets, tuple(sizes))
    error = refusal(layers_of(frame), held(*[[chunk] for chunk in chunks]))
    assert "chunks overlap" in error or "reaches out of layer 'layer0'" in error
    assert f"rank {place}" in error


def test_replicas_that_differ_are_refused() -> None:
    layers = layers_of((4,), (3,))
    ranks = [[Held(whole(0, (4,)), digest), Held(whole(1, (3,)), "s")] for digest in ("a", "a", "b", "", "c")]
    assert refusal(layers, ranks) == (
        "layer 'layer0': ranks 0, 2, 4 hold [0:4] of 4 with different values; replicas must be equal: call watch "
        "after wrapping in DDP, or give pipeline stages names of their own"
    )


def test_one_layer_in_frames_that_cannot_be_compared_is_refused() -> None:
    layers = layers_of((4, 6))
    columns = divide(whole(0, (4, 6)), 1, 2)
    assert refusal(layers, held([columns[0]], [Chunk(0, (24,), (12,), (12,))])) == (
        "layer 'layer0': ranks 0, 1 see it in different frames, (4, 6) and (24,)"
    )


def test_runs_of_elements_compare_in_any_frame() -> None:
    layers = layers_of((4, 6))
    rows = divide(whole(0, (4, 6)), 0, 2)
    check(layers, held([rows[0]], [Chunk(0, (24,), (12,), (12,))]))
    assert refusal(layers, held([rows[0]], [Chunk(0, (24,), (11,), (13,))])) == (
        "layer 'layer0': chunks overlap, [0:2,0:6] of 4x6 of rank 0 and [11:24] of 24 of rank 1"
    )
    assert refusal(layers, held([rows[0]], [rows[1]], [Chunk(0, (24,), (0,), (12,))])) == (
        "layer 'layer0': chunks overlap, [0:12] of 24 of rank 2 and [0:2,0:6] of 4x6 of rank 0"
    )


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (Chunk(2, (4,), (0,), (4,)), "rank 1: there is no layer 2"),
        (Chunk(-1, (4,), (0,), (4,)), "rank 1: there is no layer -1"),
        (Chunk(0, (5,), (0,), (5,)), "rank 1: [0:5] of 5 is no box of layer 'layer0' of shape (4,)"),
        (Chunk(0, (4,), (0, 0), (4,)), "rank 1: [0:4] of 4 is no box of layer 'layer0' of shape (4,)"),
        (Chunk(0, (4,), (2,), (3,)), "rank 1: [2:5] of 4 reaches out of layer 'layer0'"),
        (Chunk(0, (4,), (-1,), (3,)), "rank 1: [-1:2] of 4 reaches out of layer 'layer0'"),
        (Chunk(0, (-2, -2), (0, 0), (1, 1)), "rank 1: [0:1,0:1] of -2x-2 reaches out of layer 'layer0'"),
    ],
)
def test_what_is_no_box_of_a_layer_is_refused(chunk: Chunk, text: str) -> None:
    assert refusal(layers_of((4,), (4,)), held([], [chunk])) == text


def test_a_rank_that_names_a_chunk_twice_holds_it_once() -> None:
    chunk = Held(whole(0, (4,)), "a")
    assert plan_owners(layers_of((4,)), [[chunk, chunk], [chunk]]) == [(chunk.chunk,), ()]
    error = refusal(layers_of((5,)), [[Held(Chunk(0, (5,), (0,), (4,)))] * 2])
    assert error.startswith("layer 'layer0' is uncovered: rank 0 holds 4 of its 5 elements")


def test_many_ranks_are_not_all_named() -> None:
    ranks = [[Held(whole(0, (4,)), str(rank))] for rank in range(20)]
    assert "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more hold" in refusal(layers_of((4,)), ranks)
