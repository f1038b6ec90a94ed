"""Maps made small: means of the defined entries of square blocks. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["block_means", "block_size", "block_starts"]


def block_size(count: int, most: int) -> int:
    """Checkpoints in a block, so that `count` of them make at most `most` blocks; 1 where nothing is reduced.

    >>> block_size(10_000, 1024), block_size(1024, 1024), block_size(0, 1024)
    (10, 1, 1)
    """
    return max(1, -(-count // most))


def block_starts(count: int, size: int) -> NDArray[np.int64]:
    """Position of each block's first checkpoint, [ceil(count / size)]; the last block may be shorter."""
    return np.arange(0, count, size, dtype=np.int64)


def block_means(entries: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The mean of the defined entries of each block of a [T, T] map; NaN for a block without any.

    >>> block_means(np.array([[1.0, 0.5, np.nan], [0.5, 1.0, np.nan], [np.nan, np.nan, np.nan]]), 2).tolist()
    [[0.75, nan], [nan, nan]]
    """
    if size == 1 or not entries.size:
        return entries
    starts = block_starts(len(entries), size)
    defined = ~np.isnan(entries)
    sums = _block_sums(np.where(defined, entries, 0.0), starts)
    counts = _block_sums(defined.astype(np.float64), starts)
    means: NDArray[np.float64] = sums / np.where(counts > 0, counts, np.nan)
    return means


def _block_sums(entries: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(
        np.add.reduceat(np.add.reduceat(entries, starts, axis=0), starts, axis=1), dtype=np.float64
    )
