"""The Gram matrices of a series of checkpoints, on this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from trajmon.checkpoints.base import CheckpointReader
from trajmon.checkpoints.plan import plan_checkpoints
from trajmon.ingest.blocks import BlockSource
from trajmon.ingest.cut import block_elements, num_blocks
from trajmon.ingest.series import tensors_of
from trajmon.ingest.tree import Sums, Tree, push, total
from trajmon.numerics.views import View

__all__ = ["DEFAULT_MEMORY_BYTES", "Place", "Step", "gram_of_checkpoints", "sum_tensors"]

DEFAULT_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """How far the sums are: all tensors before `tensor`, and of that one all blocks before `block`."""

    tensor: int = 0
    block: int = 0
    tree: Tree[Sums] = field(default_factory=Tree)
    """Of those blocks."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one more block, or one tensor, brought."""

    place: Place
    """Where it goes on."""
    read_bytes: int
    """Read from all checkpoints for this step."""
    done: int | None = None
    """Position of the tensor that is now complete."""
    sums: Sums | None = None
    """Its sums."""


def gram_of_checkpoints(
    readers: Sequence[CheckpointReader],
    *,
    views: Sequence[View] = (),
    threads: int = 1,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inner products of all checkpoints with each other, and their update products, layer by layer.

    Returns the Gram matrices, [L, T, T], and the products, [L, T, 4], columns as in
    ``trajmon_protos.record.PRODUCTS``; layers as ``plan_checkpoints`` orders them. Each byte is read
    once. Each entry is within 1e-13 ‖a‖‖b‖ of the exact one. Where a checkpoint's layer holds NaN or Inf, or its
    squares overflow, what it takes part in is not finite; ``trajmon.numerics.gram.mark_layers`` makes rows of it.
    The same bits for any number of threads. Memory beside the result: at most `memory_bytes`, for up to about 1000
    checkpoints.

    Raises OtherModelError if the checkpoints do not hold the same tensors, ViewError, CheckpointFileError, and
    ValueError if there are none.
    """
    if not readers:
        raise ValueError("there are no checkpoints")
    tensors = tensors_of(plan_checkpoints(readers[0], views=views))
    source = BlockSource(readers, tensors, block_elements(len(readers), memory_bytes))
    layers = sum(tensor.num_layers for tensor in tensors)
    gram = np.zeros((layers, len(readers), len(readers)))
    products = np.zeros((layers, len(readers), 4))
    for step in sum_tensors(source, threads=threads, memory_bytes=memory_bytes):
        if step.done is not None and step.sums is not None:
            first = tensors[step.done].first_layer
            gram[first : first + len(step.sums.gram)] = step.sums.gram
            products[first : first + len(step.sums.gram)] = step.sums.products
    upper = np.triu_indices(len(readers), 1)
    gram[:, upper[0], upper[1]] = gram[:, upper[1], upper[0]]
    return gram, products


def sum_tensors(
    source: BlockSource,
    place: Place | None = None,
    *,
    threads: int = 1,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Iterator[Step]:
    """Sum all tensors from a place on, in order; one step for every block, and for a tensor without any.

    One thread more than `threads`, so that one may wait for its disk; fewer, if their buffers would take more than
    half of the memory. Each reads a block and sums it while that is in the cache. Raises ValueError,
    CheckpointFileError.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, it must be at least 1")
    at = place or Place()
    workers = max(1, min(threads + 1, memory_bytes // 2 // source.buffer_bytes))
    computed = _in_order(source, at, workers)
    for tensor in range(at.tensor, len(source.tensors)):
        blocks = num_blocks(source.tensors[tensor], source.elements)
        start = at.block if tensor == at.tensor else 0
        tree: Tree[Sums] = at.tree if tensor == at.tensor else Tree()
        for block in range(start, blocks - 1):
            tree = push(tree, next(computed))
            yield Step(Place(tensor, block + 1, tree), source.block_bytes(tensor, block))
        read_bytes = 0
        if start < blocks:
            tree = push(tree, next(computed))
            read_bytes = source.block_bytes(tensor, blocks - 1)
        zeros = Sums.zeros(source.tensors[tensor].num_layers, source.num_checkpoints)
        yield Step(Place(tensor + 1), read_bytes, tensor, total(tree) or zeros)


def _in_order(source: BlockSource, place: Place, workers: int) -> Iterator[Sums]:
    """The sums of every block from a place on, computed by several threads."""
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    for _ in range(workers):
        buffers.put(source.buffer())

    def compute(tensor: int, block: int) -> Sums:
        buffer = buffers.get()
        try:
            return source.sums(tensor, block, buffer)
        finally:
            buffers.put(buffer)

    pending: deque[Future[Sums]] = deque()
    pool = ThreadPoolExecutor(workers, "trajmon-ingest")
    try:
        for tensor in range(place.tensor, len(source.tensors)):
            start = place.block if tensor == place.tensor else 0
            for block in range(start, num_blocks(source.tensors[tensor], source.elements)):
                pending.append(pool.submit(compute, tensor, block))
                # One that the system holds up must not hold up the others; results wait in memory, so not too many.
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
