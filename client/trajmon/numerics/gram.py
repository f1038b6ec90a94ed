"""The Gram row of a new snapshot: its exact inner products with all stored ones, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics import kernel
from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.layout import NETWORK, Dtype, Group, Layer, Layout
from trajmon.numerics.sketch_kernel import NO_FOLDING, Folding
from trajmon.numerics.work import (
    Work,
    address_of,
    aligned,
    bytes_of,
    cut_into_pieces,
    cut_into_tasks,
    in_pieces,
)
from trajmon_protos.record import PRODUCTS, LayerStatus

__all__ = [
    "GramRow",
    "PathIndices",
    "Release",
    "compile_kernels",
    "folded_rows",
    "gram_row",
    "gram_rows",
    "mark_layers",
    "sum_layers",
]

Release = Callable[[int, int], None]
"""Told first byte and end of a part of the snapshots that is done with."""

_PIECE_BYTES: Final = 64 << 20
"""Largest part that is released at once."""
_UPDATE_SQUARED, _UPDATE_DOT, _DISPLACEMENT_SQUARED, _DISPLACEMENT_DOT = range(len(PRODUCTS))


@dataclass(frozen=True, slots=True)
class PathIndices:
    """Where the new checkpoint's path runs through the stored snapshots; the origin is ``stored[0]``.

    The very first checkpoint has no path: all None. The path's second checkpoint has ``previous == 0`` and the
    others None: it is itself the path's first step. From the third on, all three are given.
    """

    previous: int | None
    """The checkpoint before the new one."""
    before_previous: int | None
    """The one before that."""
    first: int | None
    """The path's second checkpoint, where the first step led."""

    def check(self, num_stored: int) -> None:
        """Raise :class:`SnapshotError` unless these are positions of a path through `num_stored` snapshots."""
        given = (self.previous, self.before_previous, self.first)
        if num_stored == 0:
            valid = given == (None, None, None)
        elif self.previous == 0:
            valid = given == (0, None, None)
        else:
            valid = all(index is not None and 0 <= index < num_stored for index in given)
        if not valid:
            raise SnapshotError(f"{self} names no path through {num_stored} stored snapshots")


@dataclass(frozen=True, slots=True)
class GramRow:
    """One checkpoint's numbers, ready for a row record."""

    gram: NDArray[np.float64]
    """[L, n], n = stored snapshots + 1; the last column is the new snapshot with itself."""
    products: NDArray[np.float64]
    """[L, 4], columns as in ``trajmon_protos.record.PRODUCTS``."""
    status: NDArray[np.uint8]
    """[L], values of ``trajmon_protos.record.LayerStatus``."""


def gram_row(
    layout: Layout,
    new: NDArray[np.uint8],
    stored: Sequence[NDArray[np.uint8] | None],
    path: PathIndices,
    *,
    threads: int = 1,
) -> GramRow:
    """Inner products of a new snapshot with all stored ones and itself, and its update products.

    Every snapshot is [layout.nbytes] uint8, contiguous, at an address that is a multiple of 8, and may be
    memory-mapped and read-only; None is a snapshot that could not be read.
    Its entries are NaN and the layers' status SNAPSHOT_MISSING. A layer that holds NaN or Inf in
    the new snapshot, or whose squares overflow, is NON_FINITE and all its entries are NaN; one that does so in an
    older snapshot has NaN where that snapshot takes part. Other layers stay exact. A layer without elements is 0.

    Error of an entry: at most 1e-13 ‖a‖‖b‖, plus 2^-1074 per element where products of float64 parameters
    underflow. So the valid range for float64 is ‖a‖‖b‖ from 1e-292 to 1e308, i.e. parameters of about 1e-146 to
    1e150; the three narrower dtypes are valid in their whole range, subnormals included. Differences
    are taken of the tensors in float64 (Sterbenz: exact for neighbouring float64), never of Gram entries.

    The same bits for any number of threads. Raises :class:`SnapshotError` for buffers that are no snapshots
    of this layout and for path indices that name no path.

    >>> layout = Layout((Layer("w", (2,), "float64"),), (Group("network", (0,)),))
    >>> older, newer = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
    >>> older.view(np.float64)[:2] = [1.0, 2.0]
    >>> newer.view(np.float64)[:2] = [3.0, 1.0]
    >>> row = gram_row(layout, newer, [older], PathIndices(0, None, None))
    >>> row.gram.tolist(), row.products.tolist()
    ([[5.0, 10.0]], [[5.0, nan, 5.0, 5.0]])
    """
    (row,) = gram_rows(layout, [new], stored, [path], threads=threads)
    return row


def gram_rows(
    layout: Layout,
    new: Sequence[NDArray[np.uint8]],
    stored: Sequence[NDArray[np.uint8] | None],
    paths: Sequence[PathIndices],
    *,
    threads: int = 1,
    release: Release | None = None,
) -> list[GramRow]:
    """Rows of consecutive new snapshots, with one pass over the stored ones for all of them.

    Row i is ``gram_row(layout, new[i], [*stored, *new[:i]], paths[i])``, bit for bit. Beside the rows themselves it
    takes a few hundred bytes for each row and column in each layer and each 131072 elements. The new snapshots'
    blocks, 64 KiB each, should fit into a core's cache together: up to 8. `release` is told which bytes of the
    snapshots are done with, part by part, in any order. Raises as :func:`gram_row` does.
    """
    return folded_rows(
        layout,
        new,
        stored,
        paths,
        lambda work, pieces: lambda index: NO_FOLDING,
        threads=threads,
        release=release,
    )


def folded_rows(
    layout: Layout,
    new: Sequence[NDArray[np.uint8]],
    stored: Sequence[NDArray[np.uint8] | None],
    paths: Sequence[PathIndices],
    prepare: Callable[[Work, Sequence[NDArray[np.int64]]], Callable[[int], Folding]],
    *,
    threads: int = 1,
    release: Release | None = None,
) -> list[GramRow]:
    """:func:`gram_rows`, with the new snapshots folded into sketches as they pass.

    `prepare` is told how the work is cut, and gives what is folded into where, for each piece by its number.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, it must be at least 1")
    if len(new) != len(paths):
        raise ValueError(f"{len(new)} new snapshots came with {len(paths)} paths")
    for index, path in enumerate(paths):
        path.check(len(stored) + index)
    new_addresses = [
        address_of(layout, snapshot, "the new snapshot" if len(new) == 1 else f"new snapshot {index}")
        for index, snapshot in enumerate(new)
    ]
    addresses = [
        0 if snapshot is None else address_of(layout, snapshot, f"stored snapshot {index}")
        for index, snapshot in enumerate(stored)
    ]
    known = [*addresses, *new_addresses]
    present = [index for index, snapshot in enumerate(stored) if snapshot is not None]
    work = cut_into_tasks(layout)
    sums = np.zeros((len(new), len(work.slot_layers), len(present) + len(new)))
    slot_products = np.zeros((len(new), len(work.slot_layers), len(PRODUCTS)))
    new_array = np.array(new_addresses, np.uint64)
    stored_array = np.array([addresses[index] for index in present], np.uint64)
    path_array = np.array(
        [_on_path(path, known[: len(stored) + i + 1]) for i, path in enumerate(paths)], np.uint64
    ).reshape(-1, 4)

    pieces = cut_into_pieces(work.tasks, threads, 1 if release is None else layout.nbytes // _PIECE_BYTES)
    folding_of = prepare(work, pieces)

    def run(index: int) -> None:
        kernel.run_tasks(
            pieces[index],
            work.blocks,
            work.segments,
            aligned(len(new), kernel.BLOCK, np.float64),
            new_array,
            stored_array,
            path_array,
            sums,
            slot_products,
            folding_of(index),
        )
        if release is not None:
            release(*bytes_of(work, pieces[index]))

    in_pieces(run, len(pieces), threads)
    rows = []
    for index, path in enumerate(paths):
        count = len(stored) + index
        gram = np.full((len(layout.layers), count + 1), np.nan)
        columns = [*present, *range(len(stored), count + 1)]
        gram[:, columns] = _total(sums[index, :, : len(columns)], work.slot_layers, len(layout.layers))
        products = _total(slot_products[index], work.slot_layers, len(layout.layers))
        missing = [address == 0 for address in known[:count]]
        rows.append(GramRow(gram, products, mark_layers(gram, products, missing, path)))
    return rows


def _on_path(path: PathIndices, addresses: Sequence[int]) -> tuple[int, int, int, int]:
    """Addresses of previous, the one before, origin and first; all 0 for the very first snapshot.

    What is missing on the path is stood in for by the new snapshot; the columns are marked afterwards. Without
    the origin there is no displacement to compute: it is 0 then.
    """
    if len(addresses) == 1:
        return (0, 0, 0, 0)
    new = addresses[-1]
    previous, before, origin, first = (
        new if index is None else addresses[index] or new
        for index in (path.previous, path.before_previous, 0, path.first)
    )
    return previous, before, origin if addresses[0] else 0, first


def compile_kernels() -> None:
    """Compile the loops, or load them from numba's cache, so that the first checkpoint need not wait."""
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16", "float16")
    layers = tuple(Layer(dtype, (1,), dtype) for dtype in dtypes)
    layout = Layout(layers, (Group(NETWORK, (0, 1, 2, 3)),))
    snapshot = np.zeros(layout.nbytes, np.uint8)
    gram_row(layout, snapshot, [snapshot], PathIndices(0, None, None))


def mark_layers(
    gram: NDArray[np.float64], products: NDArray[np.float64], missing: Sequence[bool], path: PathIndices
) -> NDArray[np.uint8]:
    """Put NaN, in place, where an entry does not exist or cannot be believed; say so by layer.

    Guards against infinities that stand for overflow, and against a product that a missing or non-finite
    snapshot went into. `gram`: [L, n]; `products`: [L, 4]; `missing`: [n-1]. Returns the status, [L].
    """
    gram[~np.isfinite(gram)] = np.nan
    finite = ~np.isnan(gram[:, -1])
    if not missing:
        products[:, [_UPDATE_SQUARED, _UPDATE_DOT]] = np.nan
    else:
        takes_part: dict[int, tuple[int | None, ...]] = {
            _UPDATE_SQUARED: (path.previous,),
            _UPDATE_DOT: (path.previous, path.before_previous),
            _DISPLACEMENT_SQUARED: (0,),
            _DISPLACEMENT_DOT: (0, path.first),
        }
        if path.first is None:
            products[:, _DISPLACEMENT_DOT] = products[:, _DISPLACEMENT_SQUARED]
            takes_part[_DISPLACEMENT_DOT] = (0,)
        for column, indices in takes_part.items():
            known = np.full(len(gram), None not in indices)
            for index in indices:
                known &= True if index is None else ~np.isnan(gram[:, index])
            # All that goes in is finite and the outcome is not: the differences overflow.
            finite &= np.isfinite(products[:, column]) | ~known
            products[~known, column] = np.nan
    gram[~finite] = np.nan
    products[~finite] = np.nan
    usable = LayerStatus.SNAPSHOT_MISSING if any(missing) else LayerStatus.EXACT
    return np.where(finite, usable, LayerStatus.NON_FINITE).astype(np.uint8)


def sum_layers(row: GramRow, layer_of: Sequence[int], num_layers: int) -> GramRow:
    """Rows of layers that are disjoint parts of others, added up: part i belongs to layer ``layer_of[i]``.

    A layer with a part that is NON_FINITE is so itself, and one whose sums overflow. A layer without parts is 0.

    >>> parts = GramRow(np.array([[1.0], [2.0], [4.0]]), np.full((3, 4), np.nan), np.zeros(3, np.uint8))
    >>> sum_layers(parts, [1, 0, 1], 2).gram.tolist()
    [[2.0], [5.0]]
    """
    of = np.asarray(layer_of, dtype=np.int64)
    gram, products = _total(row.gram, of, num_layers), _total(row.products, of, num_layers)
    unknown = np.zeros((num_layers, len(PRODUCTS)), np.bool_)
    np.logical_or.at(unknown, of, np.isnan(row.products))
    status = np.zeros(num_layers, np.uint8)
    # The later says more of what is not known.
    for told in (LayerStatus.NOT_KEPT, LayerStatus.SNAPSHOT_MISSING):
        status[of[row.status == told]] = told
    # A part that is NON_FINITE is NaN in the last column, and so is the sum.
    finite = np.isfinite(gram[:, -1]) & (np.isfinite(products) | unknown).all(axis=1)
    status[~finite] = LayerStatus.NON_FINITE
    for values in (gram, products):
        values[~finite] = np.nan
        # An infinity stands for overflow.
        values[~np.isfinite(values)] = np.nan
    return GramRow(gram, products, status)


def _total(
    slots: NDArray[np.float64], slot_layers: NDArray[np.int64], num_layers: int
) -> NDArray[np.float64]:
    totals = np.zeros((num_layers, slots.shape[1]))
    carry = np.zeros_like(totals)
    # One memory order, one compiled loop.
    kernel.add_slots(np.ascontiguousarray(slots), slot_layers, totals, carry)
    # A carry beside an infinite sum is NaN or the other infinity: overflow and NaN are marked alike.
    with np.errstate(invalid="ignore"):
        summed: NDArray[np.float64] = totals + carry
    return summed
