"""The same sums as Dask tasks, for checkpoints that are too many bytes for one machine.

A task sums a *span*, 2^k blocks of one tensor that start at a multiple of 2^k; further tasks add spans along the
tree of :mod:`trajmon.ingest.tree`. So the result has the bits of the local one, whatever ran where, and whatever ran
twice because a worker died. Workers open the checkpoints themselves, under the same paths.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from distributed import Client, Future, KilledWorker
from trajmon.checkpoints.opening import open_checkpoint
from trajmon.errors import CheckpointFileError, RefusedError
from trajmon.ingest.blocks import BlockSource
from trajmon.ingest.cut import Tensor, num_blocks
from trajmon.ingest.gram import Place, Step
from trajmon.ingest.run import Stepper
from trajmon.ingest.series import OpenSeries, files_of
from trajmon.ingest.tree import Sums, Tree, push, total

__all__ = ["connect"]

_SPAN_BYTES: Final = 1 << 29
"""Read by a task; it should take seconds, not milliseconds and not minutes."""
_CONNECT_SECONDS: Final = 10
_TASKS_PER_THREAD: Final = 4
_OPEN_SERIES: Final = 2

_mine = threading.local()


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a worker finds the series; hashable, for what it has opened stays open."""

    paths: tuple[str, ...]
    sizes: tuple[tuple[tuple[str, int], ...], ...]
    """Of the files below each path: what tells a worker that it sees the same ones."""
    tensors: tuple[Tensor, ...]
    elements: int


@dataclass(frozen=True, slots=True)
class _Promise:
    """Sums that a worker has, or will have."""

    client: Any
    future: Future[Sums]

    def __add__(self, other: _Promise) -> _Promise:
        return _Promise(self.client, self.client.submit(_add, self.future, other.future, pure=False))


def _client(address: str) -> Any:
    # Its class carries no types.
    return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]


@contextmanager
def connect(address: str, series: OpenSeries) -> Iterator[Stepper]:
    """A way of making the sums on the cluster at `address`. Raises RefusedError if there is none.

    What it yields raises RefusedError when tasks fail for good, and CheckpointFileError from the workers.
    """
    try:
        client: Any = _client(address)
    except (OSError, ValueError, ImportError) as error:
        raise RefusedError(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        yield lambda source, place: _sum_on(client, series, source, place)
    finally:
        client.close()


def _sum_on(client: Any, series: OpenSeries, source: BlockSource, place: Place) -> Iterator[Step]:
    """One step for every tensor, in order; one that was begun elsewhere is begun anew."""
    sizes = tuple(tuple((name, size) for name, size, _ in each.files) for each in series.checkpoints)
    paths = tuple(str(each.path.absolute()) for each in series.checkpoints)
    # Sent once and not with every task; as a task itself, for scattered data is lost with its worker.
    files = client.submit(_same, _Files(paths, sizes, source.tensors, source.elements), pure=False)
    waiting: deque[tuple[int, int, _Promise | None]] = deque()
    submitted = 0
    for tensor, chosen in enumerate(source.tensors):
        if tensor < place.tensor:
            continue
        spans = list(_spans(source, tensor))
        while waiting and submitted + len(spans) > _room(client):
            number, count, promise = waiting.popleft()
            submitted -= count
            yield _step(source, number, promise)
        tree: Tree[_Promise] = Tree()
        for first, last in spans:
            future = client.submit(_span_sums, files, tensor, first, last, pure=False)
            tree = push(tree, _Promise(client, future))
        waiting.append((tensor, len(spans), total(tree)))
        submitted += len(spans)
        del chosen
    while waiting:
        number, _, promise = waiting.popleft()
        yield _step(source, number, promise)


def _spans(source: BlockSource, tensor: int) -> Iterator[tuple[int, int]]:
    """First block and the one behind the last, of each span of a tensor."""
    blocks = num_blocks(source.tensors[tensor], source.elements)
    if not blocks:
        return
    length = 1 << (max(1, _SPAN_BYTES // source.block_bytes(tensor, 0)).bit_length() - 1)
    for first in range(0, blocks, length):
        yield first, min(first + length, blocks)


def _room(client: Any) -> int:
    """Tasks that the cluster may have before it."""
    threads: int = sum(client.nthreads().values())
    return max(16, _TASKS_PER_THREAD * threads)


def _step(source: BlockSource, tensor: int, promise: _Promise | None) -> Step:
    try:
        sums = None if promise is None else promise.future.result()
    except KilledWorker as error:
        raise RefusedError(f"the cluster gave up on {source.tensors[tensor].name!r}: {error}") from error
    sums = sums or Sums.zeros(source.tensors[tensor].num_layers, source.num_checkpoints)
    read_bytes = source.remaining_bytes(tensor, 0) - source.remaining_bytes(tensor + 1, 0)
    return Step(Place(tensor + 1), read_bytes, tensor, sums)


def _span_sums(files: _Files, tensor: int, first: int, last: int) -> Sums:
    """On a worker: the sums of some blocks. Raises CheckpointFileError."""
    source = _source(files)
    buffers: dict[int, Any] = _mine.__dict__.setdefault("buffers", {})
    if id(source) not in buffers:
        buffers.clear()
        buffers[id(source)] = source.buffer()
    tree: Tree[Sums] = Tree()
    for block in range(first, last):
        tree = push(tree, source.sums(tensor, block, buffers[id(source)]))
    sums = total(tree)
    assert sums is not None
    return sums


def _same(files: _Files) -> _Files:
    return files


def _add(left: Sums, right: Sums) -> Sums:
    return left + right


@lru_cache(maxsize=_OPEN_SERIES)
def _source(files: _Files) -> BlockSource:
    readers = []
    for path, expected in zip(files.paths, files.sizes, strict=True):
        try:
            seen = tuple((name, size) for name, size, _ in files_of(Path(path)))
        except OSError as error:
            raise CheckpointFileError(f"{path}: a worker cannot see it: {error.strerror}") from error
        if seen != expected:
            raise CheckpointFileError(f"{path}: a worker sees other files there than this machine")
        readers.append(open_checkpoint(Path(path)))
    return BlockSource(readers, files.tensors, files.elements)
