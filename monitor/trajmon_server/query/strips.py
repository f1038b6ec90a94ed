"""A map read strip by strip and reduced on the way: sums of its entries over blocks. Pure.

What it holds is a strip of 64 rows and the reduced map, however long the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.resolution import above_resolution, cancellation

__all__ = ["About", "BlockSums", "GramStrip", "cosine_strips"]


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
            entries = clamp_cosine(strip.rows / (lengths[strip.start :, None] * lengths))
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
    dots = strip.rows - with_tau[strip.start : stop, None] - with_tau[:stop] + own
    if about.displacement_squared is None:
        distances = squares[:stop] - 2 * with_tau[:stop] + own
    else:
        distances = about.displacement_squared[:stop]
    ratios = cancellation(squares[:stop], own, distances)
    is_exact = about.displacement_squared is not None
    resolved = above_resolution(ratios[strip.start :, None], ratios[None, :], lengths_exact=is_exact)
    lengths = defined_length(distances)
    return np.where(resolved, clamp_cosine(dots / (lengths[strip.start :, None] * lengths)), np.nan)


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
        columns = self._starts[self._starts < entries.shape[1]]
        blocks = self._block_of[start : start + len(entries)]
        first = np.flatnonzero(np.diff(blocks, prepend=-1))
        defined = ~np.isnan(entries)
        sums = np.add.reduceat(np.where(defined, entries, 0.0), columns, axis=1)
        counts = np.add.reduceat(defined, columns, axis=1, dtype=np.float64)
        part = np.ix_(blocks[first], np.arange(len(columns)))
        self._sums[part] += np.add.reduceat(sums, first, axis=0)
        self._counts[part] += np.add.reduceat(counts, first, axis=0)
        rows = np.arange(len(entries))
        np.add.at(self._own, blocks, defined[rows, start + rows])

    def means(self) -> tuple[NDArray[np.float64], float]:
        """The mean of the defined entries of each block, [m, m], and of the whole map; NaN without any."""
        own = np.diag(self._own)
        sums, counts = self._sums + self._sums.T - own, self._counts + self._counts.T - own
        total = counts.sum()
        means: NDArray[np.float64] = sums / np.where(counts > 0, counts, np.nan)
        return means, float(sums.sum() / total) if total else float("nan")
