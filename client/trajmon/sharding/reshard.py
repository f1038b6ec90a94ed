"""Snapshots of an earlier cut, put together for a new one.

A run that resumes with another number of ranks, or otherwise sharded, has its earlier checkpoints in other folders:
``RUN``, ``RUN~DIGEST``, siblings of its own, each with its own run.json. The elements of this folder's chunks are
copied out of them into snapshots of this cut. Bytes are copied as they are, whatever the dtype; of any layer, no
more than :data:`SLAB_BYTES` at once are in memory, memory maps aside.
"""

from __future__ import annotations

import logging
import math
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon._files import write_all
from trajmon.errors import DamagedRunError, SnapshotError
from trajmon.numerics.errors import LayoutError
from trajmon.numerics.layout import ITEM_BYTES, Layout
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.chunks import Chunk
from trajmon.sharding.plan import (
    chunk_problem,
    flat_positions,
    flat_runs,
    intersect,
    local_positions,
    num_runs,
    place_of,
    slabs,
)
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore

__all__ = [
    "SLAB_BYTES",
    "Piece",
    "Resharder",
    "common_pieces",
    "copy_common",
]

log = logging.getLogger("trajmon.agent")

SLAB_BYTES: Final = 8 << 20
"""Most bytes of a chunk that are put together at once."""
_RUN_FOLDER_MARK = "~"
# Below this length of a run, an index for every element is cheaper than a copy for every run.
_SHORT_RUN = 512
_INDICES_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of elements that two chunks share. Starts and strides in elements, of either chunk's own data."""

    sizes: tuple[int, ...]
    """At least one element."""
    start_a: int
    strides_a: tuple[int, ...]
    start_b: int
    strides_b: tuple[int, ...]


class _MissingError(Exception):
    """Some elements are in no folder."""


@dataclass(frozen=True, slots=True)
class _Sibling:
    """Another folder of the run."""

    name: str
    run_dir: RunDir
    part: tuple[int, int]
    """Part and parts; an unsharded run is 0 of 1."""
    layout: Layout
    """Of its snapshots."""
    chunks: tuple[tuple[int, Chunk], ...]
    """With positions in its layout; those of this folder's layers."""

    def store(self) -> SnapshotStore:
        """To read from."""
        return SnapshotStore(self.run_dir.snapshots, self.layout.fingerprint, self.layout.nbytes, "none")


class Resharder:
    """Puts snapshots together for one run folder. Belongs to one thread."""

    def __init__(self, run_dir: RunDir, run: RunDescription) -> None:
        self._run_dir = run_dir
        self._run = run
        self._layout = run.snapshot_layout
        self._chunks = _chunks_of(run)
        self._layers = frozenset(chunk.layer for chunk in self._chunks)
        self._store = SnapshotStore(
            run_dir.snapshots, self._layout.fingerprint, self._layout.nbytes, writer="resharder"
        )
        self._store.remove_leftovers()
        # By folder and by what its run.json was when it was read; None for one that is of no use.
        self._known: dict[tuple[Path, int, int], _Sibling | None] = {}
        self._told: set[str] = set()

    def bring(self, checkpoint: int) -> bool:
        """Make sure that this folder has a snapshot of a checkpoint; True once it has.

        A file that is there is left as it is, readable or not. False if some element is in no other folder *now*:
        a snapshot that still lies in its slot gets into its folder within seconds, and the caller may ask again. The
        log says why, once a reason. Folders whose headers differ in attempt, step or previous checkpoint from those
        of the latest attempt are left out, and damaged ones. Raises OSError, with nothing written.
        """
        path = self._store.path(checkpoint)
        if path.exists():
            return True
        holders = self._holders(checkpoint)
        if not holders:
            self._tell(f"checkpoint {checkpoint}: no other folder of the run holds it")
            return False
        sources: dict[int, list[tuple[Chunk, NDArray[Any]]]] = {}
        for sibling, _ in holders:
            if not sibling.chunks:
                continue
            try:
                for chunk, data in _open(sibling, checkpoint, self._run.layout):
                    sources.setdefault(chunk.layer, []).append((chunk, data))
            except SnapshotError as error:
                self._tell(f"checkpoint {checkpoint}: {sibling.name} is left out: {error}")
        header = replace(holders[0][1], fingerprint=self._layout.fingerprint)
        try:
            # Through a file without a name, which is gone with this process whatever happens: the store takes
            # complete data only.
            with tempfile.TemporaryFile(dir=self._store.folder, buffering=0) as spool:
                for block in self._blocks(sources):
                    write_all(spool.fileno(), block)
                snapshot = _mapped(spool.fileno(), self._layout.nbytes)
                self._store.write(checkpoint, header, snapshot, durable=True)
        except _MissingError as missing:
            names = ", ".join(sibling.name for sibling, _ in holders)
            self._tell(f"checkpoint {checkpoint} cannot be put together from {names}: {missing}")
            return False
        log.info("checkpoint %d was put together from %d folders", checkpoint, len(holders))
        return True

    def _blocks(self, sources: dict[int, list[tuple[Chunk, NDArray[Any]]]]) -> Iterator[memoryview]:
        """The data of the new snapshot, in order. Raises _MissingError."""
        written = 0
        for chunk, start in zip(self._chunks, self._layout.offsets_bytes, strict=True):
            yield memoryview(bytes(start - written))
            layer = self._run.layout.layers[chunk.layer]
            item_bytes = ITEM_BYTES[layer.dtype]
            for slab in slabs(chunk, SLAB_BYTES // item_bytes):
                data = np.zeros(slab.num_elements, dtype=f"u{item_bytes}")
                covered = np.zeros(slab.num_elements, dtype=np.bool_)
                for source, source_data in sources.get(chunk.layer, ()):
                    copy_common(source, source_data, slab, data, covered)
                if not covered.all():
                    lacking = slab.num_elements - int(np.count_nonzero(covered))
                    raise _MissingError(
                        f"{lacking} elements of {place_of(slab)} of layer {layer.name!r} are in none of them"
                    )
                yield data.data.cast("B")
            written = start + chunk.num_elements * item_bytes
        yield memoryview(bytes(self._layout.nbytes - written))

    def _holders(self, checkpoint: int) -> list[tuple[_Sibling, SnapshotHeader]]:
        """Siblings that have the checkpoint, and agree on what it is, in the order of their parts."""
        found = []
        for sibling in self._siblings():
            store = sibling.store()
            if not store.path(checkpoint).exists():
                continue
            try:
                found.append((sibling, store.header(checkpoint)))
            except SnapshotError as error:
                self._tell(f"checkpoint {checkpoint}: {sibling.name} is left out: {error}")
        if not found:
            return []
        # Chosen among all siblings, whatever they hold: every rank of the new cut must choose the same.
        chosen = max(_identity(header) for _, header in found)
        for sibling, header in found:
            if _identity(header) != chosen:
                theirs = _identity(header)
                self._tell(
                    f"checkpoint {checkpoint}: {sibling.name} is left out: attempt, step and previous checkpoint are "
                    f"{theirs} there and {chosen} elsewhere"
                )
        agreeing = [(sibling, header) for sibling, header in found if _identity(header) == chosen]
        return sorted(agreeing, key=lambda pair: (pair[0].part, pair[0].name))

    def _siblings(self) -> list[_Sibling]:
        """Other folders of this run, in any cut."""
        own = self._run_dir.path
        run_name = own.name.partition(_RUN_FOLDER_MARK)[0]
        found = []
        for path in sorted(own.parent.iterdir()):
            if path == own or path.name.partition(_RUN_FOLDER_MARK)[0] != run_name:
                continue
            run_dir = RunDir(path)
            try:
                facts = run_dir.run_file.stat()
            except (FileNotFoundError, NotADirectoryError):
                # Being made or removed, or no folder at all.
                continue
            key = path, facts.st_ino, facts.st_mtime_ns
            if key not in self._known:
                self._known[key] = self._read_sibling(run_dir)
            sibling = self._known[key]
            if sibling is not None:
                found.append(sibling)
        return found

    def _read_sibling(self, run_dir: RunDir) -> _Sibling | None:
        """A folder as a source; None if it is of another run, or cannot be read."""
        name = run_dir.path.name
        try:
            run = RunDescription.read(run_dir)
            if (run.run_id, run.layout.fingerprint) != (self._run.run_id, self._run.layout.fingerprint):
                return None
            chunks = _chunks_of(run)
            problem = next(filter(None, (chunk_problem(chunk, run.layout.layers) for chunk in chunks)), "")
            if problem:
                raise DamagedRunError(f"{run_dir.run_file}: {problem}")
            layout = run.snapshot_layout
        except (DamagedRunError, LayoutError) as error:
            self._tell(f"{name} is left out: {error}")
            return None
        part = (0, 1) if run.shard is None else (run.shard.part, run.shard.num_parts)
        wanted = tuple((place, chunk) for place, chunk in enumerate(chunks) if chunk.layer in self._layers)
        return _Sibling(name, run_dir, part, layout, wanted)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)


def copy_common(
    source: Chunk,
    source_data: NDArray[Any],
    target: Chunk,
    target_data: NDArray[Any],
    covered: NDArray[np.bool_],
) -> None:
    """Copy what two chunks of a layer share, and mark it; data and marks are [num_elements] of their chunk."""
    if source.frame != target.frame and _are_many_short(source, target):
        for first in range(0, target.num_elements, _INDICES_AT_ONCE):
            to = np.arange(first, min(first + _INDICES_AT_ONCE, target.num_elements))
            taken, inside = local_positions(source, flat_positions(target, to))
            target_data[to[inside]] = source_data[taken[inside]]
            covered[to[inside]] = True
        return
    for piece in common_pieces(source, target):
        values = _block(source_data, piece.start_a, piece.strides_a, piece.sizes)
        _block(target_data, piece.start_b, piece.strides_b, piece.sizes)[...] = values
        _block(covered, piece.start_b, piece.strides_b, piece.sizes)[...] = True


def common_pieces(a: Chunk, b: Chunk) -> Iterator[Piece]:
    """Blocks that together are what two chunks of a layer share, each element once.

    One block at most if the frames are the same; otherwise a few blocks for each run of the chunk with fewer runs.

    >>> [piece.sizes for piece in common_pieces(Chunk(0, (12,), (1,), (9,)), Chunk(0, (4, 3), (0, 1), (4, 2)))]
    [(1, 2), (2, 2)]
    """
    if a.frame == b.frame:
        common = intersect(a, b)
        if common is not None:
            yield Piece(
                common.sizes, _within(a, common), _strides(a.sizes), _within(b, common), _strides(b.sizes)
            )
    elif num_runs(a) <= num_runs(b):
        yield from _pieces_of_runs(a, b)
    else:
        for piece in _pieces_of_runs(b, a):
            yield Piece(piece.sizes, piece.start_b, piece.strides_b, piece.start_a, piece.strides_a)


def _pieces_of_runs(a: Chunk, b: Chunk) -> Iterator[Piece]:
    """The shared blocks, seen from the runs of the first chunk; its strides are those of the other's frame."""
    strides = _strides(b.frame)
    own_strides = _strides(b.sizes)
    for start, length, local_start in flat_runs(a):
        for offsets, sizes in _boxes_of_run(b.frame, start, start + length):
            common = intersect(Chunk(b.layer, b.frame, offsets, sizes), b)
            if common is not None:
                flat = sum(offset * stride for offset, stride in zip(common.offsets, strides, strict=True))
                yield Piece(
                    common.sizes, local_start + flat - start, strides, _within(b, common), own_strides
                )


def _boxes_of_run(
    frame: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of the boxes that a run of elements is made of, at most two for each axis of the frame."""
    if not frame:
        yield (), ()
        return
    row = math.prod(frame[1:])
    first, last = start // row, -(-stop // row)
    if last - first == 1 and stop - start < row:
        for offsets, sizes in _boxes_of_run(frame[1:], start - first * row, stop - first * row):
            yield (first, *offsets), (1, *sizes)
        return
    if start % row:
        yield from _boxes_of_run(frame, start, (first + 1) * row)
        first += 1
    whole = stop // row
    if whole > first:
        yield (first, *(0 for _ in frame[1:])), (whole - first, *frame[1:])
    if stop % row:
        yield from _boxes_of_run(frame, whole * row, stop)


def _within(chunk: Chunk, part: Chunk) -> int:
    """Position in a chunk's data of the first element of a part of it."""
    offsets = zip(part.offsets, chunk.offsets, _strides(chunk.sizes), strict=True)
    return sum((inner - outer) * stride for inner, outer, stride in offsets)


def _strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """Of a row-major array, in elements."""
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _are_many_short(a: Chunk, b: Chunk) -> bool:
    """Whether even the chunk with fewer runs has many, and even the longer ones are short."""
    runs = num_runs(a), num_runs(b)
    return min(runs) > 1 and max(a.num_elements // runs[0], b.num_elements // runs[1]) < _SHORT_RUN


def _block(data: NDArray[Any], start: int, strides: Sequence[int], sizes: Sequence[int]) -> NDArray[Any]:
    """A strided block of a row of elements; numpy refuses strides that lead out of it, with ValueError."""
    item_bytes = data.itemsize
    strides_bytes = [stride * item_bytes for stride in strides]
    return np.ndarray(sizes, data.dtype, buffer=data, offset=start * item_bytes, strides=strides_bytes)


def _open(sibling: _Sibling, checkpoint: int, layout: Layout) -> list[tuple[Chunk, NDArray[Any]]]:
    """The chunks of a sibling's snapshot: elements as whole numbers of their width. Raises SnapshotError."""
    data = sibling.store().data(checkpoint)
    sources = []
    for place, chunk in sibling.chunks:
        item_bytes = ITEM_BYTES[layout.layers[chunk.layer].dtype]
        start = sibling.layout.offsets_bytes[place]
        part = np.asarray(data)[start : start + chunk.num_elements * item_bytes]
        sources.append((chunk, part.view(f"u{item_bytes}")))
    return sources


def _chunks_of(run: RunDescription) -> tuple[Chunk, ...]:
    """In the order in which they lie in the run folder's snapshots."""
    if run.shard is not None:
        return run.shard.chunks
    shapes = [layer.shape for layer in run.layout.layers]
    return tuple(Chunk(place, shape, (0,) * len(shape), shape) for place, shape in enumerate(shapes))


def _identity(header: SnapshotHeader) -> tuple[int, int, int]:
    """What makes a checkpoint the same in two folders; the latest is the greatest."""
    return header.attempt, header.step, -1 if header.previous is None else header.previous


def _mapped(descriptor: int, nbytes: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ) if nbytes else b"")
