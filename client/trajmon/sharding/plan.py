"""One owner for each distinct chunk, every element covered once; and what two chunks have in common.

Ownership is planned over distinct chunks, not over mesh coordinates: a parameter outside of a tensor-parallel plan
lies on the data-parallel axis alone and is there once more on every other, which no placement tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon.errors import ShardError
from trajmon.numerics.layout import ITEM_BYTES, Layer
from trajmon.sharding.chunks import Chunk

__all__ = [
    "Held",
    "chunk_problem",
    "flat_positions",
    "flat_runs",
    "intersect",
    "local_positions",
    "num_runs",
    "place_of",
    "plan_owners",
    "slabs",
]

_RUNS_AT_ONCE = 4096
_MAX_NAMED = 8
_MAX_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Held:
    """A chunk that a rank has in its memory."""

    chunk: Chunk
    digest: str = ""
    """Over sampled values; holders of one chunk have the same. Empty if unknown."""


def plan_owners(layers: Sequence[Layer], held: Sequence[Sequence[Held]]) -> list[tuple[Chunk, ...]]:
    """Chunks that each rank owns, given what each rank holds; the same on every rank that asks.

    Every distinct chunk with elements gets one owner among its holders. Chunks with one holder go first; then the
    heaviest first, each to the holder with the least bytes, the lowest rank among equals. Among ranks that hold
    the same chunks the fullest has at most 4/3 of what the best division would give it (Graham 1969, for longest
    processing time first); a chunk is never divided.

    Raises ShardError for elements that nobody holds or that lie in two chunks, for chunks of one layer that cannot
    be compared, and for holders of one chunk whose digests differ.

    >>> halves = [Chunk(0, (7, 3), (0, 0), (4, 3)), Chunk(0, (7, 3), (4, 0), (3, 3))]
    >>> plan = plan_owners([Layer("w", (7, 3), "float32")], [[Held(halves[rank % 2])] for rank in range(4)])
    >>> [[chunk.slices[0] for chunk in owned] for owned in plan]
    [[slice(0, 4, None)], [slice(4, 7, None)], [], []]
    """
    holders = _holders(layers, held)
    by_layer: list[list[Chunk]] = [[] for _ in layers]
    for chunk in holders:
        by_layer[chunk.layer].append(chunk)
    problems = []
    for layer, chunks in zip(layers, by_layer, strict=True):
        problem = _layer_problem(layer, chunks, holders, len(held))
        if problem:
            problems.append(problem)
    _refuse(problems)
    owned: list[list[Chunk]] = [[] for _ in held]
    loads_bytes = [0] * len(held)
    shared = []
    for chunk, ranks in holders.items():
        nbytes = chunk.num_elements * ITEM_BYTES[layers[chunk.layer].dtype]
        if len(ranks) == 1:
            owned[ranks[0]].append(chunk)
            loads_bytes[ranks[0]] += nbytes
        else:
            shared.append((-nbytes, _order(chunk), chunk))
    for minus_bytes, _, chunk in sorted(shared):
        owner = min(holders[chunk], key=lambda rank: (loads_bytes[rank], rank))
        owned[owner].append(chunk)
        loads_bytes[owner] -= minus_bytes
    return [tuple(sorted(chunks, key=_order)) for chunks in owned]


def chunk_problem(chunk: Chunk, layers: Sequence[Layer]) -> str:
    """What is wrong with a chunk that came from elsewhere; empty if nothing is."""
    if not 0 <= chunk.layer < len(layers):
        return f"there is no layer {chunk.layer}"
    layer = layers[chunk.layer]
    frame, offsets, sizes = chunk.frame, chunk.offsets, chunk.sizes
    if not len(frame) == len(offsets) == len(sizes) or math.prod(frame) != layer.num_parameters:
        return f"{place_of(chunk)} is no box of layer {layer.name!r} of shape {layer.shape}"
    for extent, offset, size in zip(frame, offsets, sizes, strict=True):
        if extent < 0 or offset < 0 or size < 0 or offset + size > extent:
            return f"{place_of(chunk)} reaches out of layer {layer.name!r}"
    return ""


def place_of(chunk: Chunk) -> str:
    """Where a chunk lies in its layer, for messages.

    >>> place_of(Chunk(0, (7, 3), (4, 0), (3, 3)))
    '[4:7,0:3] of 7x3'
    """
    place = ",".join(
        f"{start}:{start + size}" for start, size in zip(chunk.offsets, chunk.sizes, strict=False)
    )
    return f"[{place}] of {'x'.join(str(extent) for extent in chunk.frame) or 'a scalar'}"


def intersect(a: Chunk, b: Chunk) -> Chunk | None:
    """The box that two boxes of the same frame share; None if they share no element. Raises ValueError.

    >>> intersect(Chunk(0, (7, 3), (0, 0), (4, 3)), Chunk(0, (7, 3), (2, 1), (5, 1)))
    Chunk(layer=0, frame=(7, 3), offsets=(2, 1), sizes=(2, 1))
    """
    if (a.layer, a.frame) != (b.layer, b.frame):
        raise ValueError(f"{place_of(a)} and {place_of(b)} are not boxes of the same frame")
    offsets = tuple(map(max, a.offsets, b.offsets))
    stops = (min(x.stop, y.stop) for x, y in zip(a.slices, b.slices, strict=True))
    sizes = tuple(stop - start for start, stop in zip(offsets, stops, strict=True))
    return None if any(size <= 0 for size in sizes) else Chunk(a.layer, a.frame, offsets, sizes)


def flat_runs(chunk: Chunk) -> Iterator[tuple[int, int, int]]:
    """Longest runs of neighbouring elements: first element in the layer, length, first element in the chunk.

    The layer is taken as one row, in row-major order; all runs of a chunk are of the same length.

    >>> list(flat_runs(Chunk(0, (4, 6), (1, 2), (2, 3))))
    [(8, 3, 0), (14, 3, 3)]
    >>> list(flat_runs(Chunk(0, (4, 6), (1, 0), (2, 6))))
    [(6, 12, 0)]
    """
    length = _run_length(chunk)
    count = num_runs(chunk)
    for first in range(0, count, _RUNS_AT_ONCE):
        local = np.arange(first, min(first + _RUNS_AT_ONCE, count)) * length
        for start, local_start in zip(flat_positions(chunk, local).tolist(), local.tolist(), strict=True):
            yield start, length, local_start


def num_runs(chunk: Chunk) -> int:
    """How many runs :func:`flat_runs` gives."""
    length = _run_length(chunk)
    return chunk.num_elements // length if length else 0


def flat_positions(chunk: Chunk, local: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in the layer, row-major, of a chunk's elements, [n] of [n]."""
    rest, flat, stride = local, np.zeros_like(local), 1
    for extent, offset, size in zip(chunk.frame[::-1], chunk.offsets[::-1], chunk.sizes[::-1], strict=True):
        rest, index = np.divmod(rest, size)
        flat += (index + offset) * stride
        stride *= extent
    return flat


def local_positions(chunk: Chunk, flat: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Inverse of :func:`flat_positions`: positions in the chunk, and which of them are really in it, each [n]."""
    rest, local, stride = flat, np.zeros_like(flat), 1
    inside = np.ones(flat.shape, dtype=np.bool_)
    for extent, offset, size in zip(chunk.frame[::-1], chunk.offsets[::-1], chunk.sizes[::-1], strict=True):
        rest, index = np.divmod(rest, extent)
        index -= offset
        inside &= (index >= 0) & (index < size)
        local += index * stride
        stride *= size
    return local, inside


def slabs(chunk: Chunk, max_elements: int) -> Iterator[Chunk]:
    """A chunk in parts that follow each other in its data, of at most so many elements.

    >>> [slab.slices for slab in slabs(Chunk(0, (4, 3), (1, 0), (3, 3)), 6)]
    [(slice(1, 3, None), slice(0, 3, None)), (slice(3, 4, None), slice(0, 3, None))]
    """
    if chunk.num_elements == 0:
        return
    if chunk.num_elements <= max_elements:
        yield chunk
        return
    axis = next(axis for axis, size in enumerate(chunk.sizes) if size > 1)
    row = chunk.num_elements // chunk.sizes[axis]
    rows = max(1, max_elements // row)
    for first in range(0, chunk.sizes[axis], rows):
        offsets, sizes = list(chunk.offsets), list(chunk.sizes)
        offsets[axis] += first
        sizes[axis] = min(rows, sizes[axis] - first)
        yield from slabs(Chunk(chunk.layer, chunk.frame, tuple(offsets), tuple(sizes)), max_elements)


def _holders(layers: Sequence[Layer], held: Sequence[Sequence[Held]]) -> dict[Chunk, list[int]]:
    """Ranks that hold each distinct chunk, ascending. Raises ShardError."""
    holders: dict[Chunk, list[int]] = {}
    known: dict[Chunk, tuple[int, str]] = {}
    differing: dict[Chunk, list[int]] = {}
    problems = []
    for rank, entries in enumerate(held):
        for entry in entries:
            chunk = entry.chunk
            ranks = holders.get(chunk)
            if ranks is None:
                problem = chunk_problem(chunk, layers)
                if problem:
                    problems.append(f"rank {rank}: {problem}")
                    continue
                if chunk.num_elements == 0:
                    continue
                holders[chunk] = [rank]
            elif ranks[-1] != rank:
                ranks.append(rank)
            if entry.digest and known.setdefault(chunk, (rank, entry.digest))[1] != entry.digest:
                differing.setdefault(chunk, [known[chunk][0]]).append(rank)
    problems += [
        f"layer {layers[chunk.layer].name!r}: {_ranks(ranks)} hold {place_of(chunk)} with different values; replicas "
        "must be equal: call watch after wrapping in DDP, or give pipeline stages names of their own"
        for chunk, ranks in differing.items()
    ]
    _refuse(problems)
    return holders


def _layer_problem(
    layer: Layer, chunks: Sequence[Chunk], holders: Mapping[Chunk, Sequence[int]], num_ranks: int
) -> str:
    """Why a layer's distinct chunks are not the layer, each element once; empty if they are."""
    boxes = {chunk: chunk for chunk in chunks}
    frames = sorted({chunk.frame for chunk in chunks})
    if len(frames) > 1:
        if any(num_runs(chunk) > 1 for chunk in chunks):
            ranks = _ranks(sorted({rank for chunk in chunks for rank in holders[chunk]}))
            return f"layer {layer.name!r}: {ranks} see it in different frames, {frames[0]} and {frames[1]}"
        # Each of them is one run of elements, whatever the frame: they compare as runs.
        boxes = {_as_run(chunk): chunk for chunk in chunks}
        if len(boxes) < len(chunks):
            twice = next(chunk for chunk in chunks if boxes[_as_run(chunk)] != chunk)
            return _overlap(layer, twice, boxes[_as_run(twice)], holders)
    pair = _find_overlap(list(boxes)) if len(boxes) > 1 else None
    if pair is not None:
        return _overlap(layer, boxes[pair[0]], boxes[pair[1]], holders)
    # Within the layer and apart from each other, so never more than there are.
    covered = sum(chunk.num_elements for chunk in chunks)
    if covered == layer.num_parameters:
        return ""
    if chunks:
        ranks = _ranks(sorted({rank for chunk in chunks for rank in holders[chunk]}))
        verb = "hold" if ranks.startswith("ranks") else "holds"
        holding = f"{ranks} {verb} {covered} of its {layer.num_parameters} elements"
    else:
        holding = f"none of the {num_ranks} ranks holds any of its {layer.num_parameters} elements"
    return (
        f"layer {layer.name!r} is uncovered: {holding}; is a rank or a pipeline stage missing from the group?"
    )


def _overlap(layer: Layer, a: Chunk, b: Chunk, holders: Mapping[Chunk, Sequence[int]]) -> str:
    pair = sorted((a, b), key=_order)
    places = " and ".join(f"{place_of(chunk)} of {_ranks(holders[chunk])}" for chunk in pair)
    return f"layer {layer.name!r}: chunks overlap, {places}"


def _find_overlap(boxes: list[Chunk]) -> tuple[Chunk, Chunk] | None:
    """Two boxes of one frame that share an element; None if there are none.

    Boxes that lie apart along any axis are separated first, over and over; what cannot be separated that way,
    which no usual sharding makes, is compared pair by pair.
    """
    pending = [boxes]
    while pending:
        cluster = pending.pop()
        if len(cluster) < 2:
            continue
        for axis in range(len(cluster[0].frame)):
            parts = _apart(cluster, axis)
            if len(parts) > 1:
                pending += parts
                break
        else:
            pair = _compare_pairs(cluster)
            if pair is not None:
                return pair
    return None


def _apart(boxes: list[Chunk], axis: int) -> list[list[Chunk]]:
    """Boxes in sets that no box reaches out of along an axis."""
    parts: list[list[Chunk]] = []
    reach = -1
    for box in sorted(boxes, key=lambda box: box.offsets[axis]):
        start = box.offsets[axis]
        if start >= reach:
            parts.append([])
        parts[-1].append(box)
        reach = max(reach, start + box.sizes[axis])
    return parts


def _compare_pairs(boxes: Sequence[Chunk]) -> tuple[Chunk, Chunk] | None:
    starts = np.array([box.offsets for box in boxes], dtype=np.int64)
    stops = starts + np.array([box.sizes for box in boxes], dtype=np.int64)
    for index in range(len(boxes) - 1):
        rest = slice(index + 1, None)
        shared = ((starts[rest] < stops[index]) & (starts[index] < stops[rest])).all(axis=1)
        if shared.any():
            return boxes[index], boxes[index + 1 + int(shared.argmax())]
    return None


def _run_length(chunk: Chunk) -> int:
    """Elements of each run: whole rows of the last axes, and the extent along the first axis that is not whole."""
    if chunk.num_elements == 0:
        return 0
    length = 1
    for extent, size in zip(chunk.frame[::-1], chunk.sizes[::-1], strict=True):
        length *= size
        if size != extent:
            break
    return length


def _as_run(chunk: Chunk) -> Chunk:
    """A chunk of a single run, in the frame that is one row."""
    ((start, length, _),) = flat_runs(chunk)
    return Chunk(chunk.layer, (math.prod(chunk.frame),), (start,), (length,))


def _order(chunk: Chunk) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return chunk.layer, chunk.offsets, chunk.frame, chunk.sizes


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    named = ", ".join(str(rank) for rank in ranks[:_MAX_NAMED])
    return f"ranks {named}" + (f" and {len(ranks) - _MAX_NAMED} more" if len(ranks) > _MAX_NAMED else "")


def _refuse(problems: Iterable[str]) -> None:
    texts = list(problems)
    if texts:
        more = f"; and {len(texts) - _MAX_PROBLEMS} more" if len(texts) > _MAX_PROBLEMS else ""
        raise ShardError("; ".join(texts[:_MAX_PROBLEMS]) + more)
