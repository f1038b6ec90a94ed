"""What two chunks have in common, against the plain set of their elements."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sharding.cuts import boxes, flat_set, frames_of, whole  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.plan import flat_positions, flat_runs, intersect, local_positions, num_runs, slabs
from trajmon.sharding.reshard import common_pieces, copy_common

FRAMES = st.sampled_from([(), (6,), (7, 3), (4, 1, 5), (2, 3, 4), (3, 2, 2, 2), (1, 1), (0, 3)])
ANY_BOX = FRAMES.flatmap(boxes)


@st.composite
def two_frames(draw: st.DrawFn, numel: int = 60) -> tuple[Chunk, Chunk]:
    frames = st.sampled_from(list(frames_of(numel)))
    return draw(frames.flatmap(boxes)), draw(frames.flatmap(boxes))


@given(ANY_BOX)
def test_runs_are_the_chunk_and_as_long_as_can_be(chunk: Chunk) -> None:
    runs = list(flat_runs(chunk))
    assert len(runs) == num_runs(chunk)
    assert [start + i for start, length, _ in runs for i in range(length)] == flat_set(chunk).tolist()
    assert [local for _, _, local in runs] == [
        sum(length for _, length, _ in runs[:i]) for i in range(len(runs))
    ]
    assert all(a[0] + a[1] < b[0] for a, b in pairwise(runs))


def test_more_runs_than_are_made_at_once() -> None:
    chunk = Chunk(0, (5000, 2), (0, 1), (5000, 1))
    assert [run[0] for run in flat_runs(chunk)] == list(range(1, 10000, 2))


@given(ANY_BOX)
def test_positions_go_there_and_back(chunk: Chunk) -> None:
    local = np.arange(chunk.num_elements)
    np.testing.assert_array_equal(flat_positions(chunk, local), flat_set(chunk))
    numel = int(np.prod(chunk.frame))
    back, inside = local_positions(chunk, np.arange(numel))
    assert np.flatnonzero(inside).tolist() == sorted(flat_set(chunk).tolist())
    np.testing.assert_array_equal(back[inside][np.argsort(flat_set(chunk).argsort())], local)


@given(FRAMES.flatmap(lambda frame: st.tuples(boxes(frame), boxes(frame))))
def test_what_two_boxes_share(pair: tuple[Chunk, Chunk]) -> None:
    common = intersect(*pair)
    expected = np.intersect1d(flat_set(pair[0]), flat_set(pair[1])).tolist()
    assert (flat_set(common).tolist() if common else []) == expected


def test_boxes_of_different_frames_are_not_taken_for_boxes_of_one() -> None:
    with pytest.raises(
        ValueError, match=r"^\[0:2,0:3\] of 2x3 and \[0:6\] of 6 are not boxes of the same frame$"
    ):
        intersect(whole(0, (2, 3)), whole(0, (6,)))
    with pytest.raises(ValueError, match="not boxes of the same frame"):
        intersect(whole(0, (6,)), whole(1, (6,)))


@given(two_frames())
def test_pieces_are_what_chunks_share_in_any_frames(pair: tuple[Chunk, Chunk]) -> None:
    a, b = (flat_set(chunk) for chunk in pair)
    shared: list[int] = []
    for piece in common_pieces(*pair):
        grid = np.indices(piece.sizes).reshape(len(piece.sizes), -1)
        from_a = a[piece.start_a + np.array(piece.strides_a) @ grid]
        from_b = b[piece.start_b + np.array(piece.strides_b) @ grid]
        assert from_a.tolist() == from_b.tolist()
        shared += from_a.tolist()
    assert sorted(shared) == np.intersect1d(a, b).tolist()


def test_a_run_in_a_box_takes_few_pieces() -> None:
    pieces = list(common_pieces(Chunk(0, (10**6,), (12345,), (654321,)), whole(0, (100, 100, 100))))
    assert len(pieces) <= 5
    assert sum(int(np.prod(piece.sizes)) for piece in pieces) == 654321


@given(two_frames())
def test_what_is_shared_is_copied_and_marked_and_nothing_else(pair: tuple[Chunk, Chunk]) -> None:
    source, target = pair
    values = flat_set(source).astype(np.uint16) + 1
    data = np.zeros(target.num_elements, dtype=np.uint16)
    covered = np.zeros(target.num_elements, dtype=np.bool_)
    copy_common(source, values, target, data, covered)
    inside = np.isin(flat_set(target), flat_set(source))
    assert covered.tolist() == inside.tolist()
    assert data.tolist() == np.where(inside, flat_set(target) + 1, 0).tolist()


def test_many_short_runs_in_frames_that_do_not_nest() -> None:
    # More elements than are indexed at once, and neither chunk is a few runs.
    source, target = Chunk(0, (1000, 900), (0, 10), (1000, 400)), Chunk(0, (900, 1000), (0, 7), (900, 500))
    values = flat_set(source).astype(np.uint32)
    data = np.zeros(target.num_elements, dtype=np.uint32)
    covered = np.zeros(target.num_elements, dtype=np.bool_)
    copy_common(source, values, target, data, covered)
    inside = np.isin(flat_set(target), flat_set(source))
    np.testing.assert_array_equal(covered, inside)
    np.testing.assert_array_equal(data, np.where(inside, flat_set(target), 0))


def test_long_runs_in_frames_that_do_not_nest() -> None:
    source, target = Chunk(0, (60, 9000), (0, 1000), (60, 8000)), Chunk(0, (540, 1000), (1, 100), (538, 700))
    values = flat_set(source).astype(np.uint32)
    data = np.zeros(target.num_elements, dtype=np.uint32)
    covered = np.zeros(target.num_elements, dtype=np.bool_)
    copy_common(source, values, target, data, covered)
    inside = np.isin(flat_set(target), flat_set(source))
    np.testing.assert_array_equal(covered, inside)
    np.testing.assert_array_equal(data, np.where(inside, flat_set(target), 0))


def test_data_shorter_than_its_chunk_is_not_read_beyond() -> None:
    source, target = whole(0, (4, 6)), Chunk(0, (4, 6), (2, 0), (2, 6))
    data, covered = np.zeros(12, dtype=np.uint8), np.zeros(12, dtype=np.bool_)
    with pytest.raises(
        ValueError, match=r"^strides is incompatible with shape of requested array and size of buffer$"
    ):
        copy_common(source, np.ones(20, dtype=np.uint8), target, data, covered)
    assert not data.any()
    assert not covered.any()


@given(ANY_BOX, st.integers(1, 30))
def test_slabs_follow_each_other_in_the_data(chunk: Chunk, most: int) -> None:
    parts = list(slabs(chunk, most))
    assert all(0 < part.num_elements <= most for part in parts)
    assert [i for part in parts for i in flat_set(part).tolist()] == flat_set(chunk).tolist()
