"""Boxes of parameters to boxes of layers: where a view divides a parameter, a box of it divides too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajmon.errors import ShardError
from trajmon.numerics.views import Part
from trajmon.sharding.chunks import Chunk

__all__ = ["Piece", "cut"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a layer, and where it lies in the box that this process holds of the parameter."""

    chunk: Chunk
    axis: int
    """Of the box, along which the runs are taken."""
    runs: tuple[tuple[int, int], ...]
    """First index and length of each, in the order in which they follow each other in the chunk."""


def cut(
    name: str,
    shape: tuple[int, ...],
    layers: Sequence[int],
    parts: Sequence[Part],
    box: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> list[Piece]:
    """The pieces of a parameter's box, one for each layer; some may have no elements.

    `layers`: the layers that the parameter gives, one for each of `parts`, or one alone. `box`: frame, offsets and
    sizes. Raises ShardError for a view that does not divide along one axis of the parameter.
    """
    frame, offsets, sizes = box
    if not parts:
        axis = 0
        length = sizes[0] if sizes else 1
        return [Piece(Chunk(layers[0], frame, offsets, sizes), axis, ((0, length),))]
    axis, indices = _indices(name, shape, parts)
    if frame == shape:
        return [
            _of_box(layer, frame, offsets, sizes, axis, mine)
            for layer, mine in zip(layers, indices, strict=True)
        ]
    if len(frame) != 1 or axis != 0:
        raise ShardError(
            f"layer {name!r} lies here as a run of elements; a view along axis {axis} of {shape} cannot be taken of "
            "it: shard with FSDP2, or leave the view out"
        )
    width = math.prod(shape[1:])
    return [
        _of_run(layer, offsets[0], sizes[0], width, mine) for layer, mine in zip(layers, indices, strict=True)
    ]


def _indices(name: str, shape: tuple[int, ...], parts: Sequence[Part]) -> tuple[int, list[NDArray[np.int64]]]:
    """The axis of the parameter that the view divides, and each part's indices along it, ascending."""
    whole, at = parts[0].whole, 0
    for axis, extent in enumerate(shape):
        end, product = at, 1
        while end < len(whole) and (product < extent or (product == extent and whole[end] == 1)):
            product *= whole[end]
            end += 1
        if product != extent:
            break
        if at <= parts[0].axis < end:
            grid = np.arange(extent).reshape(whole[at:end])
            inner = parts[0].axis - at
            return axis, [
                np.take(grid, np.arange(part.start, part.start + part.shape[part.axis]), axis=inner).ravel()
                for part in parts
            ]
        at = end
    raise ShardError(
        f"layer {name!r} of shape {shape} is sharded; the view's shape {whole} mixes its axes and cannot be taken of "
        "a shard"
    )


def _of_box(
    layer: int,
    frame: tuple[int, ...],
    offsets: tuple[int, ...],
    sizes: tuple[int, ...],
    axis: int,
    indices: NDArray[np.int64],
) -> Piece:
    first, last = np.searchsorted(indices, [offsets[axis], offsets[axis] + sizes[axis]])
    runs = _runs(indices[first:last] - offsets[axis])
    chunk = Chunk(
        layer,
        _with(frame, axis, len(indices)),
        _with(offsets, axis, int(first)),
        _with(sizes, axis, int(last - first)),
    )
    return Piece(chunk, axis, runs)


def _of_run(layer: int, start: int, count: int, width: int, rows: NDArray[np.int64]) -> Piece:
    """A run of elements: whole rows and pieces of rows, which follow each other in the part as in the whole."""
    runs: list[tuple[int, int]] = []
    first = total = before = 0
    for row, length in _runs(rows):
        low, high = max(row * width, start), min((row + length) * width, start + count)
        if low < high:
            if not runs:
                first = before + low - row * width
            runs.append((low - start, high - low))
            total += high - low
        before += length * width
    return Piece(Chunk(layer, (len(rows) * width,), (first,), (total,)), 0, tuple(runs))


def _runs(indices: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Ascending indices as runs of neighbours.

    >>> _runs(np.array([0, 1, 4, 5, 6]))
    ((0, 2), (4, 3))
    """
    if not len(indices):
        return ()
    cuts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    return tuple((int(indices[a]), b - a) for a, b in pairwise(cuts))


def _with(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])
