"""Cuts of a small run, and folders of it with known contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmon.numerics.layout import ITEM_BYTES, Group, Layer, Layout
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.chunks import Chunk, Shard
from trajmon.sharding.reshard import Resharder
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore

RUN_ID = "a" * 32
LAYOUT = Layout(
    (
        Layer("w", (7, 13), "float32"),
        Layer("bias", (10,), "bfloat16"),
        Layer("cube", (3, 4, 5), "float16"),
        Layer("scale", (), "float64"),
        Layer("none", (0, 4), "float32"),
    ),
    (Group("network", (0, 1, 2, 3, 4)),),
)
HEADER = SnapshotHeader(
    checkpoint=0, attempt=1, step=0, fingerprint="", time_unix_seconds=1.7e9, metrics={"loss": 0.5}
)


def whole(layer: int, shape: tuple[int, ...]) -> Chunk:
    """A layer in one piece."""
    return Chunk(layer, shape, (0,) * len(shape), shape)


def divide(chunk: Chunk, axis: int, parts: int) -> list[Chunk]:
    """Along an axis, as torch.chunk does: ragged, and the last ones may have no elements."""
    extent = chunk.sizes[axis]
    step = -(-extent // parts)
    cuts = [min(extent, step * index) for index in range(parts + 1)]
    return [
        replace(
            chunk,
            offsets=(*chunk.offsets[:axis], chunk.offsets[axis] + start, *chunk.offsets[axis + 1 :]),
            sizes=(*chunk.sizes[:axis], stop - start, *chunk.sizes[axis + 1 :]),
        )
        for start, stop in pairwise(cuts)
    ]


def by_axis(layout: Layout, parts: int, axis: int = 0) -> list[list[Chunk]]:
    """Every layer divided along an axis, as FSDP2 and tensor parallel do; scalars are the first rank's."""
    held: list[list[Chunk]] = [[] for _ in range(parts)]
    for place, layer in enumerate(layout.layers):
        pieces = [whole(place, layer.shape)]
        if layer.shape:
            pieces = divide(pieces[0], min(axis, len(layer.shape) - 1), parts)
        for rank, piece in enumerate(pieces):
            held[rank].append(piece)
    return held


def by_runs(layout: Layout, parts: int) -> list[list[Chunk]]:
    """All elements in one row, divided evenly: what FSDP1 does."""
    total = layout.num_parameters
    bounds = [total * index // parts for index in range(parts + 1)]
    held: list[list[Chunk]] = [[] for _ in range(parts)]
    start = 0
    for place, layer in enumerate(layout.layers):
        numel = layer.num_parameters
        for rank in range(parts):
            low, high = max(bounds[rank], start), min(bounds[rank + 1], start + numel)
            if low < high:
                held[rank].append(Chunk(place, (numel,), (low - start,), (high - low,)))
        start += numel
    return held


def elements(layout: Layout, seed: int) -> list[NDArray[Any]]:
    """Random bytes for each layer, as whole numbers of its elements' width, of the layer's shape."""
    random = np.random.default_rng(seed)
    return [
        random.integers(0, 1 << 8 * ITEM_BYTES[layer.dtype], layer.shape, f"u{ITEM_BYTES[layer.dtype]}")
        for layer in layout.layers
    ]


class Folder:
    """One folder of a run."""

    def __init__(
        self,
        home: Path,
        chunks: Sequence[Chunk] | None,
        part: int = 0,
        parts: int = 1,
        layout: Layout = LAYOUT,
    ) -> None:
        """`chunks`: None for the unsharded run."""
        shard, name = None, "net"
        if chunks is not None:
            writer = hashlib.blake2b(f"{part} of {parts}".encode(), digest_size=16).hexdigest()
            shard = Shard(part, parts, writer, 0, tuple(chunks))
            cut = hashlib.blake2b(repr(shard).encode(), digest_size=8).hexdigest()
            name = f"net~{cut}"
        self.run_dir = RunDir.of(home, name)
        self.run_dir.create()
        self.run = RunDescription(RUN_ID, "net", (), layout, 1.7e9, shard)
        self.run.write(self.run_dir)
        self.layout = self.run.snapshot_layout
        self.store = SnapshotStore(
            self.run_dir.snapshots, self.layout.fingerprint, self.layout.nbytes, writer="agent"
        )

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """In the order of the snapshots."""
        if self.run.shard is not None:
            return self.run.shard.chunks
        return tuple(whole(place, layer.shape) for place, layer in enumerate(self.run.layout.layers))

    def data(self, values: Sequence[NDArray[Any]]) -> bytes:
        """What a snapshot holds, gaps zero."""
        data = bytearray(self.layout.nbytes)
        for chunk, start in zip(self.chunks, self.layout.offsets_bytes, strict=True):
            box = values[chunk.layer].reshape(chunk.frame)[chunk.slices].tobytes()
            data[start : start + len(box)] = box
        return bytes(data)

    def record(self, checkpoint: int, values: Sequence[NDArray[Any]], **changes: Any) -> None:
        """Store a checkpoint, as training and agent do."""
        facts = {"step": 10 * checkpoint, "previous": checkpoint - 1 if checkpoint else None} | changes
        header = replace(HEADER, checkpoint=checkpoint, fingerprint=self.layout.fingerprint, **facts)
        self.store.write(checkpoint, header, memoryview(self.data(values)), durable=False)

    def holds(self, checkpoint: int, values: Sequence[NDArray[Any]]) -> bool:
        """Whether the snapshot is what training would have written in this cut."""
        return self.store.data(checkpoint).tobytes() == self.data(values)


def cut_folders(home: Path, cut: Sequence[Sequence[Chunk]], layout: Layout = LAYOUT) -> list[Folder]:
    """A folder for each rank with elements; the others have nothing to record."""
    owned = [[chunk for chunk in chunks if chunk.num_elements] for chunks in cut]
    return [Folder(home, chunks, part, len(cut), layout) for part, chunks in enumerate(owned) if chunks]


def bring(folders: Sequence[Folder], checkpoint: int = 0) -> list[bool]:
    """Put a checkpoint together for each folder, as its agent does."""
    return [Resharder(folder.run_dir, folder.run).bring(checkpoint) for folder in folders]


def flat_set(chunk: Chunk) -> NDArray[np.int64]:
    """Positions in the layer of a chunk's elements, in the chunk's order; an oracle."""
    return np.arange(int(np.prod(chunk.frame))).reshape(chunk.frame)[chunk.slices].ravel()


def frames_of(numel: int) -> Iterator[tuple[int, ...]]:
    """Shapes of up to three axes with so many elements."""
    for first in range(1, numel + 1):
        if numel % first == 0:
            rest = numel // first
            yield first, rest
            yield from (
                (first, second, rest // second) for second in range(1, rest + 1) if rest % second == 0
            )
    yield (numel,)


@st.composite
def boxes(draw: st.DrawFn, frame: tuple[int, ...], layer: int = 0, least: int = 0) -> Chunk:
    """Any box of a frame."""
    offsets, sizes = [], []
    for extent in frame:
        size = draw(st.integers(min(least, extent), extent))
        sizes.append(size)
        offsets.append(draw(st.integers(0, extent - size)))
    return Chunk(layer, frame, tuple(offsets), tuple(sizes))


@st.composite
def partitions(draw: st.DrawFn, chunk: Chunk, depth: int = 3) -> list[Chunk]:
    """A chunk divided and divided again, along any axes."""
    wide = [axis for axis, size in enumerate(chunk.sizes) if size > 1]
    if depth == 0 or not wide or not draw(st.booleans()):
        return [chunk]
    axis = draw(st.sampled_from(wide))
    pieces = divide(chunk, axis, draw(st.integers(2, 4)))
    return [part for piece in pieces for part in draw(partitions(piece, depth - 1))]
