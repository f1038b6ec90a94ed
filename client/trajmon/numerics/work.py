"""How a layout's elements are cut into tasks, and how threads share them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics import kernel
from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.layout import Layer, Layout

__all__ = ["Work", "address_of", "aligned", "bytes_of", "cut_into_pieces", "cut_into_tasks", "in_pieces"]

_ADDRESS_MULTIPLE = 8
_LINE_ITEMS = 8
"""Numbers of eight bytes in a line of the cache."""
# More pieces than threads: a thread that the system holds up must not hold up the row.
_PIECES_PER_THREAD = 8


@dataclass(frozen=True, slots=True)
class Work:
    """How a layout's elements are cut into tasks; see :mod:`trajmon.numerics.kernel`."""

    tasks: NDArray[np.int64]
    blocks: NDArray[np.int64]
    segments: NDArray[np.int64]
    slot_layers: NDArray[np.int64]


def address_of(layout: Layout, snapshot: NDArray[np.uint8], what: str) -> int:
    """Where the snapshot lies in memory. Raises :class:`SnapshotError` if it is none of this layout."""
    if snapshot.dtype != np.uint8 or snapshot.shape != (layout.nbytes,) or not snapshot.flags.c_contiguous:
        raise SnapshotError(
            f"{what} is {snapshot.dtype} {snapshot.shape}; the layout needs contiguous uint8 ({layout.nbytes},)"
        )
    address: int = snapshot.__array_interface__["data"][0]
    if address % _ADDRESS_MULTIPLE:
        raise SnapshotError(
            f"{what} starts at an address that is not a multiple of {_ADDRESS_MULTIPLE} bytes"
        )
    return address


def aligned(rows: int, columns: int, dtype: type[np.float64 | np.int64]) -> NDArray[Any]:
    """Zeros, [rows, columns or up to 7 more], whose rows start with a line of the cache."""
    columns += -columns % _LINE_ITEMS
    data = np.zeros(rows * columns + _LINE_ITEMS - 1, dtype)
    first = -(data.ctypes.data // data.itemsize) % _LINE_ITEMS
    return data[first : first + rows * columns].reshape(rows, columns)


def in_pieces(run: Callable[[int], None], count: int, threads: int) -> None:
    """Call `run` with each number below `count`, in several threads; raises what one of them does."""
    if threads == 1 or count <= 1:
        for index in range(count):
            run(index)
    else:
        with ThreadPoolExecutor(threads, "trajmon-gram") as pool:
            list(pool.map(run, range(count)))


def cut_into_pieces(tasks: NDArray[np.int64], threads: int, least: int = 1) -> list[NDArray[np.int64]]:
    """What the threads share: at least so many runs of tasks, if there are, [k+1] first blocks each."""
    count = len(tasks) - 1
    number = min(count, max(least, 1 if threads == 1 else threads * _PIECES_PER_THREAD))
    cuts = [index * count // number for index in range(number + 1)] if number else []
    return [tasks[a : b + 1] for a, b in pairwise(cuts)]


def bytes_of(work: Work, piece: NDArray[np.int64]) -> tuple[int, int]:
    """Where in a snapshot the elements of a piece begin and end, at most eight bytes a element."""
    first, last = work.segments[work.blocks[piece[0]]], work.segments[work.blocks[piece[-1]] - 1]
    return int(first[0]), int(last[0] + 8 * last[1])


def cut_into_tasks(layout: Layout) -> Work:
    """The cut of a layout; a matter of its layers alone."""
    return _cut(layout.layers, layout.offsets_bytes)


@lru_cache(maxsize=4)
def _cut(layers: tuple[Layer, ...], offsets_bytes: tuple[int, ...]) -> Work:
    segments: list[tuple[int, int, int, int, int, int, int]] = []
    blocks, tasks, slot_layers = [0], [0], []
    in_block = in_task = 0
    for index, (layer, offset) in enumerate(zip(layers, offsets_bytes, strict=True)):
        start, item_bytes = 0, layer.nbytes // max(layer.num_parameters, 1)
        slot_task = -1
        while start < layer.num_parameters:
            if in_block == kernel.BLOCK:
                blocks.append(len(segments))
                in_block = 0
                if in_task >= kernel.TASK:
                    tasks.append(len(blocks) - 1)
                    in_task = 0
            if slot_task != len(tasks):
                slot_task = len(tasks)
                slot_layers.append(index)
            count = min(kernel.BLOCK - in_block, layer.num_parameters - start)
            code = kernel.CODES[layer.dtype]
            segments.append(
                (offset + start * item_bytes, count, code, len(slot_layers) - 1, in_block, index, start)
            )
            in_block += count
            in_task += count
            start += count
    if in_block:
        blocks.append(len(segments))
    if len(blocks) - 1 > tasks[-1]:
        tasks.append(len(blocks) - 1)
    return Work(
        np.array(tasks, np.int64),
        np.array(blocks, np.int64),
        np.array(segments, np.int64).reshape(-1, 7),
        np.array(slot_layers, np.int64),
    )
