"""Sketches of snapshots: what :mod:`trajmon_protos.sketch` specifies, made in the pass that makes the Gram row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon.numerics import kernel
from trajmon.numerics.errors import SnapshotError
from trajmon.numerics.gram import GramRow, PathIndices, Release, folded_rows
from trajmon.numerics.layout import NETWORK, Dtype, Group, Layer, Layout
from trajmon.numerics.sketch_digits import add_digits
from trajmon.numerics.sketch_kernel import Folding
from trajmon.numerics.work import Work, address_of, aligned, cut_into_pieces, cut_into_tasks, in_pieces
from trajmon.sharding.chunks import Chunk, Shard, shard_layout
from trajmon_protos.errors import SketchError
from trajmon_protos.sketch import LEVELS, SketchSpec, collapse

__all__ = ["Sketch", "SketchPlan", "gram_rows_with_sketches", "sketch_digits"]

_COLUMN_ELEMENTS: Final = 1 << 31
"""Elements below 2^127 whose sum 64-bit digits hold for certain."""


@dataclass(frozen=True, slots=True)
class SketchPlan:
    """Which elements of a snapshot go to which columns. L layers are sketched, into W columns.

    Raises :class:`SketchError` for a layer so large that its sums could overflow: more than 2^31 p elements.

    >>> layout = Layout((Layer("w", (3,), "float32"), Layer("b", (9,), "float32")), (Group("network", (0, 1)),))
    >>> plan = SketchPlan.of(layout, SketchSpec(bins=5))
    >>> plan.widths, plan.starts, plan.num_columns, plan.dtype
    ((3, 5), (0, 3), 8, '<f4')
    """

    layout: Layout
    """Of the snapshot's bytes: its layers are the sketched ones, or chunks of them."""
    spec: SketchSpec
    layers: tuple[Layer, ...]
    """The sketched layers, whole, in order."""
    chunks: tuple[Chunk, ...]
    """Where each layer of `layout` lies; ``Chunk.layer`` is a position in `layers`."""
    dtype: str
    """``<f4``, or ``<f8`` if the run has a float64 layer."""
    widths: tuple[int, ...] = field(init=False)
    """[L], columns of each layer."""
    starts: tuple[int, ...] = field(init=False)
    """[L], first column of each layer."""
    num_columns: int = field(init=False)
    """W"""
    sketch_layout: Layout = field(init=False)
    """Of stored sketches: the sketched layers, with their columns for elements. Its Gram rows are those of sketches."""

    def __post_init__(self) -> None:
        for layer in self.layers:
            if layer.num_parameters > _COLUMN_ELEMENTS * self.spec.bins:
                raise SketchError(
                    f"layer {layer.name!r} has {layer.num_parameters} elements; "
                    f"{self.spec.bins} bins hold at most {_COLUMN_ELEMENTS * self.spec.bins} for certain"
                )
        widths = tuple(self.spec.width(layer.num_parameters) for layer in self.layers)
        ends = np.cumsum([0, *widths]).tolist()
        dtype: Dtype = "float64" if self.dtype == "<f8" else "float32"
        columns = tuple(
            Layer(layer.name, (width,), dtype) for layer, width in zip(self.layers, widths, strict=True)
        )
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "starts", tuple(ends[:-1]))
        object.__setattr__(self, "num_columns", ends[-1])
        object.__setattr__(
            self, "sketch_layout", Layout(columns, (Group(NETWORK, tuple(range(len(columns)))),))
        )

    @classmethod
    def of(cls, layout: Layout, spec: SketchSpec) -> SketchPlan:
        """For snapshots of whole layers."""
        chunks = tuple(
            Chunk(index, layer.shape, (0,) * len(layer.shape), layer.shape)
            for index, layer in enumerate(layout.layers)
        )
        return cls(layout, spec, layout.layers, chunks, _dtype(layout))

    @classmethod
    def of_chunks(cls, run_layout: Layout, chunks: Sequence[Chunk], spec: SketchSpec) -> SketchPlan:
        """For a shard's snapshots; the columns are those of the layers that it has chunks of, ascending."""
        # Whose shard it is does not enter its layout.
        layout = shard_layout(run_layout, Shard(0, 1, "", 0, tuple(chunks)))
        present = sorted({chunk.layer for chunk in chunks})
        place = {layer: index for index, layer in enumerate(present)}
        placed = tuple(Chunk(place[chunk.layer], chunk.frame, chunk.offsets, chunk.sizes) for chunk in chunks)
        layers = tuple(run_layout.layers[index] for index in present)
        return cls(layout, spec, layers, placed, _dtype(run_layout))


@dataclass(frozen=True, slots=True)
class Sketch:
    """One snapshot's sketch; of a shard, what this part has of its layers' sums."""

    plan: SketchPlan
    digits: NDArray[np.int64]
    """[9, W], canonical, from level -5 up; 0 for a layer that is undefined."""
    finite: NDArray[np.bool_]
    """[L], false for a layer with an element that is not finite, or not below 2^127: its sketch is undefined."""

    def values(self) -> NDArray[Any]:
        """The columns, [W] in the plan's dtype; NaN in undefined layers, infinite where a sum leaves the dtype."""
        columns = collapse(self.digits)
        for layer in np.flatnonzero(~self.finite):
            start = self.plan.starts[layer]
            columns[start : start + self.plan.widths[layer]] = np.nan
        with np.errstate(over="ignore"):
            return columns.astype(self.plan.dtype)

    def sketch_bytes(self) -> NDArray[np.uint8]:
        """The columns as a snapshot of ``plan.sketch_layout``, [sketch_layout.nbytes]; gaps are 0."""
        layout, values = self.plan.sketch_layout, self.values()
        data = np.zeros(layout.nbytes, np.uint8)
        for layer, offset, start in zip(layout.layers, layout.offsets_bytes, self.plan.starts, strict=True):
            raw = values[start : start + layer.num_parameters].view(np.uint8)
            data[offset : offset + layer.nbytes] = raw
        return data


def sketch_digits(plan: SketchPlan, snapshot: NDArray[np.uint8], *, threads: int = 1) -> Sketch:
    """The sketch of one snapshot, a buffer as :func:`trajmon.numerics.gram.gram_row` takes it.

    The same bits for any number of threads. Raises :class:`trajmon.numerics.errors.SnapshotError` for a buffer that
    is no snapshot of the plan's layout.

    >>> layout = Layout((Layer("w", (2,), "float64"),), (Group("network", (0,)),))
    >>> snapshot = np.zeros(64, np.uint8)
    >>> snapshot.view(np.float64)[:2] = [1.0, 2.0]
    >>> abs(sketch_digits(SketchPlan.of(layout, SketchSpec(bins=5)), snapshot).values()).tolist()
    [1.0, 2.0]
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, it must be at least 1")
    new = np.array([address_of(plan.layout, snapshot, "the snapshot")], np.uint64)
    work = cut_into_tasks(plan.layout)
    pieces = cut_into_pieces(work.tasks, threads)
    sums = _Sums(plan, 1, work, pieces)

    def run(index: int) -> None:
        kernel.sketch_tasks(
            pieces[index],
            work.blocks,
            work.segments,
            aligned(1, kernel.BLOCK, np.float64),
            new,
            sums.folding(index),
        )

    in_pieces(run, len(pieces), threads)
    (sketch,) = sums.sketches()
    return sketch


def gram_rows_with_sketches(
    layout: Layout,
    new: Sequence[NDArray[np.uint8]],
    stored: Sequence[NDArray[np.uint8] | None],
    paths: Sequence[PathIndices],
    plan: SketchPlan,
    *,
    threads: int = 1,
    release: Release | None = None,
) -> tuple[list[GramRow], list[Sketch]]:
    """:func:`trajmon.numerics.gram.gram_rows`, and the sketches of the new snapshots, in one pass over their bytes.

    Both have the bits that they have alone. Raises SnapshotError, too, for a plan that is not for this layout.
    """
    ours = [(layer.num_parameters, layer.dtype) for layer in layout.layers]
    if ours != [(layer.num_parameters, layer.dtype) for layer in plan.layout.layers]:
        raise SnapshotError("the sketch plan is for snapshots of another layout")
    made: list[_Sums] = []

    def prepare(work: Work, pieces: Sequence[NDArray[np.int64]]) -> Callable[[int], Folding]:
        made.append(_Sums(plan, len(new), work, pieces))
        return made[0].folding

    rows = folded_rows(layout, new, stored, paths, prepare, threads=threads, release=release)
    return rows, made[0].sketches()


class _Sums:
    """Where the sketches of some new snapshots are summed.

    The pieces that threads work on share layers. The first piece of a layer adds to the layer's own columns, each
    other one to extra columns that are its alone; these are added when all pieces are done.
    """

    def __init__(
        self, plan: SketchPlan, num_new: int, work: Work, pieces: Sequence[NDArray[np.int64]]
    ) -> None:
        self._plan, self._tables = plan, _tables(plan)
        self._sinks = np.zeros((len(pieces), len(plan.layers)), np.int64)
        self._extra_columns: list[tuple[int, int, int]] = []
        end, owned = 0, np.zeros(len(plan.layers), np.bool_)
        for index, piece in enumerate(pieces):
            segments = work.segments[work.blocks[piece[0]] : work.blocks[piece[-1]]]
            for target in np.unique(self._tables.boxes[segments[:, 5], 0]).tolist():
                self._sinks[index, target] = -1 - end if owned[target] else plan.starts[target]
                if owned[target]:
                    self._extra_columns.append((index, target, end))
                    end += plan.widths[target]
                owned[target] = True
        self._digits = np.zeros((num_new, len(LEVELS), plan.num_columns), np.int64)
        self._extra = np.zeros((num_new, len(LEVELS), end), np.int64)
        self._used = np.zeros((len(pieces), num_new, len(LEVELS)), np.bool_)
        self._undefined = np.zeros((num_new, len(plan.layers)), np.bool_)

    def folding(self, piece: int) -> Folding:
        """For the loops over one piece."""
        num_new, tables, widest = len(self._digits), self._tables, max(self._plan.widths)
        return Folding(
            bins=self._plan.spec.bins,
            boxes=tables.boxes,
            dims=tables.dims,
            seeds=tables.seeds,
            widths=tables.widths,
            sinks=self._sinks[piece],
            accumulators=np.zeros((num_new, len(LEVELS), widest)),
            loads=np.zeros((num_new, len(LEVELS))),
            whole=aligned(num_new, widest, np.int64),
            units=np.zeros(num_new, np.int64),
            adds=np.zeros(num_new, np.int64),
            missed=np.zeros(num_new, np.int64),
            used=self._used[piece],
            open=np.full(1, -1, np.int64),
            signed=np.empty(kernel.BLOCK, np.int64),
            signs=np.empty(kernel.BLOCK // 64 + 1, np.uint64),
            carry=np.zeros(widest, np.int64),
            digits=self._digits,
            extra=self._extra,
            undefined=self._undefined,
        )

    def sketches(self) -> list[Sketch]:
        """Once all pieces are done."""
        plan, sketches = self._plan, []
        carry = np.zeros(max(plan.widths), np.int64)
        for row, (digits, extra, undefined) in enumerate(
            zip(self._digits, self._extra, self._undefined, strict=True)
        ):
            for piece, target, start in self._extra_columns:
                width, to = plan.widths[target], plan.starts[target]
                more, used = extra[:, start : start + width], self._used[piece, row]
                add_digits(digits[:, to : to + width], more, used, carry[:width])
            for target in np.flatnonzero(undefined).tolist():
                digits[:, plan.starts[target] : plan.starts[target] + plan.widths[target]] = 0
            sketches.append(Sketch(plan, digits, ~undefined))
        return sketches


@dataclass(frozen=True, slots=True)
class _Tables:
    """What :class:`trajmon.numerics.sketch_kernel.Folding` holds of a plan."""

    boxes: NDArray[np.int64]
    dims: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    widths: NDArray[np.int64]


@lru_cache(maxsize=4)
def _tables(plan: SketchPlan) -> _Tables:
    boxes: list[tuple[int, int, int, int, int]] = []
    dims: list[tuple[int, int]] = []
    for chunk in plan.chunks:
        first, axes = _axes(chunk)
        run = axes.pop()[0]
        boxes.append((chunk.layer, first, run, len(dims), len(axes)))
        dims += axes
    return _Tables(
        np.array(boxes, np.int64).reshape(-1, 5),
        np.array(dims, np.int64).reshape(-1, 2),
        np.array([plan.spec.layer_seed(layer.name) for layer in plan.layers], np.uint64),
        np.array(plan.widths, np.int64),
    )


def _axes(chunk: Chunk) -> tuple[int, list[tuple[int, int]]]:
    """First element of a chunk in its layer, and its axes as (extent, stride), as few as will do, stride 1 last.

    >>> _axes(Chunk(0, (4, 5, 6), (1, 2, 0), (2, 3, 6)))
    (42, [(2, 30), (18, 1)])
    """
    strides = [1]
    for extent in reversed(chunk.frame[1:]):
        strides.insert(0, strides[0] * extent)
    first = sum(offset * stride for offset, stride in zip(chunk.offsets, strides, strict=False))
    axes = [(1, 1)]
    for extent, stride in zip(reversed(chunk.sizes), reversed(strides[: len(chunk.sizes)]), strict=True):
        inner_extent, inner_stride = axes[0]
        if stride == inner_extent * inner_stride:
            axes[0] = (extent * inner_extent, inner_stride)
        elif extent != 1:
            axes.insert(0, (extent, stride))
    return first, axes


def _dtype(run_layout: Layout) -> str:
    return "<f8" if any(layer.dtype == "float64" for layer in run_layout.layers) else "<f4"
