"""A map read strip by strip and reduced on the way: sums of its entries over blocks. Pure.

What it holds is a strip of 64 rows and the reduced map, however long the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import defined_length
from trajmon_server.hallmarks.resolution import above_resolution, cancellation

__all__ = ["About", "BlockSums", "GramStrip", "Sides", "cosine_block", "cosine_strips"]

_FEW = 8
"""So many blocks of a strip are looked at one by one."""


@dataclass(frozen=True, slots=True)
class GramStrip:
    """Some neighbouring rows of a Gram over T checkpoints."""

    start: int
    """Position of the first row."""
    rows: NDArray[np.float64]
    """[r, start + r]; what stands above the diagonal is not looked at."""


@dataclass(frozen=True, slots=True)
class About:
    """The checkpoint that cosines are taken about."""

    position: int
    row: NDArray[np.float64]
    """[position + 1], its row of the Gram up to its own entry."""
    displacement_squared: NDArray[np.float64] | None
    """[T], exact squared distances from it; None: they are taken from the Gram."""


def cosine_strips(
    strips: Iterator[GramStrip], count: int, about: About | None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The rows of the map, in order: position of the first one, and [r, columns] cosines, NaN above the diagonal.

    About a checkpoint, its row and column are NaN: the map leaves them out. The same numbers as
    :func:`trajectory_map` and :func:`relative_trajectory_map` give.
    """
    squares = np.full(count, np.nan)
    with_tau = np.full(count, np.nan)
    if about is not None:
        with_tau[: about.position + 1] = about.row
    for strip in strips:
        stop = strip.start + len(strip.rows)
        rows = np.arange(strip.start, stop)
        squares[strip.start : stop] = strip.rows[rows - strip.start, rows]
        if about is None:
            lengths = defined_length(squares[:stop])
            entries = cosine_block(strip.rows, lengths[strip.start :], lengths)
        else:
            later = rows[rows > about.position]
            if later.size:
                with_tau[later] = strip.rows[later - strip.start, about.position]
            entries = _relative(strip, squares, with_tau, about)
        own = entries[rows - strip.start, rows]
        entries[rows - strip.start, rows] = np.where(np.isnan(own), np.nan, 1.0)
        entries[:, strip.start :][np.arange(len(rows))[:, None] < np.arange(len(rows))] = np.nan
        if about is not None:
            entries[:, about.position : about.position + 1] = np.nan
            entries[rows == about.position] = np.nan
        yield strip.start, entries


def _relative(
    strip: GramStrip, squares: NDArray[np.float64], with_tau: NDArray[np.float64], about: About
) -> NDArray[np.float64]:
    stop = strip.start + len(strip.rows)
    own = float(about.row[-1])
    if about.displacement_squared is None:
        distances = squares[:stop] - 2 * with_tau[:stop] + own
    else:
        distances = about.displacement_squared[:stop]
    sides = Sides(with_tau[:stop], defined_length(distances), cancellation(squares[:stop], own, distances))
    is_exact = about.displacement_squared is not None
    return sides.cosines(strip.rows, slice(strip.start, stop), slice(0, stop), own, lengths_exact=is_exact)


def cosine_block(
    gram: NDArray[np.float64], row_lengths: NDArray[np.float64], column_lengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Inner products [r, c] over both lengths, within [-1, 1]; NaN where undefined. One array is made, not five."""
    entries = np.multiply.outer(row_lengths, column_lengths)
    np.divide(gram, entries, out=entries)
    np.minimum(np.maximum(entries, -1.0, out=entries), 1.0, out=entries)
    return entries


@dataclass(frozen=True, slots=True)
class Sides:
    """What a map about a checkpoint tau needs of each of its T checkpoints."""

    with_tau: NDArray[np.float64]
    """[T] inner products with tau."""
    distances: NDArray[np.float64]
    """[T] lengths from tau, NaN where there is no direction."""
    ratios: NDArray[np.float64]
    """[T] their :func:`cancellation`."""

    def cosines(
        self, gram: NDArray[np.float64], rows: slice, columns: slice, own: float, *, lengths_exact: bool
    ) -> NDArray[np.float64]:
        """Of a block of the Gram; `own` is the squared norm of tau. NaN where undefined or not resolved."""
        entries = gram - self.with_tau[rows, None]
        entries -= self.with_tau[columns]
        entries += own
        entries = cosine_block(entries, self.distances[rows], self.distances[columns])
        one, other = self.ratios[rows], self.ratios[columns]
        largest = np.max(one, initial=0.0), np.max(other, initial=0.0)
        if not above_resolution(*largest, lengths_exact=lengths_exact):  # also where one of them is NaN
            resolved = above_resolution(one[:, None], other[None, :], lengths_exact=lengths_exact)
            entries[~np.asarray(resolved)] = np.nan
        return entries


class BlockSums:
    """Sums over square blocks of a symmetric map, from its rows up to the diagonal."""

    def __init__(self, starts: NDArray[np.int64], count: int) -> None:
        """`starts`: position of each block's first checkpoint, [m]; `count`: checkpoints."""
        self._starts = starts
        self._block_of = np.searchsorted(starts, np.arange(count), side="right") - 1
        self._sums = np.zeros((len(starts), len(starts)))
        self._counts = np.zeros((len(starts), len(starts)))
        self._own = np.zeros(len(starts))
        """How many entries of the diagonal are defined; each is 1."""

    def add(self, start: int, entries: NDArray[np.float64]) -> None:
        """Add rows, [r, columns], NaN above the diagonal and where undefined."""
        # Left of the corner on the diagonal most is defined, and counted without a look at each entry.
        for first, last in ((0, start), (start, entries.shape[1])):
            if last > first:
                self._add_part(start, first, entries[:, first:last])
        rows = np.arange(len(entries))
        np.add.at(self._own, self._block_of[start + rows], ~np.isnan(entries[rows, start + rows]))

    def _add_part(self, start: int, column: int, entries: NDArray[np.float64]) -> None:
        height, width = entries.shape
        row_blocks, row_first = _runs(self._block_of[start : start + height])
        column_blocks, column_first = _runs(self._block_of[column : column + width])
        sums = np.add.reduceat(entries, column_first, axis=1)
        ends = np.append(column_first[1:], width)
        counts = np.tile((ends - column_first).astype(np.float64), (height, 1))
        bad = np.flatnonzero(np.isnan(sums).any(axis=0))
        if len(bad) > _FEW:
            defined = ~np.isnan(entries)
            sums = np.add.reduceat(np.where(defined, entries, 0.0), column_first, axis=1)
            counts = np.add.reduceat(defined, column_first, axis=1, dtype=np.float64)
        else:
            for block in bad.tolist():
                part = entries[:, column_first[block] : ends[block]]
                sums[:, block] = np.nansum(part, axis=1)
                counts[:, block] = (~np.isnan(part)).sum(axis=1)
        place = np.ix_(row_blocks, column_blocks)
        self._sums[place] += np.add.reduceat(sums, row_first, axis=0)
        self._counts[place] += np.add.reduceat(counts, row_first, axis=0)

    def means(self) -> tuple[NDArray[np.float64], float]:
        """The mean of the defined entries of each block, [m, m], and of the whole map; NaN without any."""
        own = np.diag(self._own)
        sums, counts = self._sums + self._sums.T - own, self._counts + self._counts.T - own
        total = counts.sum()
        means: NDArray[np.float64] = sums / np.where(counts > 0, counts, np.nan)
        return means, float(sums.sum() / total) if total else float("nan")


def _runs(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values of an ascending array, and the position of the first of each."""
    first = np.flatnonzero(np.diff(values, prepend=-1))
    return values[first], first
