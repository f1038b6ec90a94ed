"""A map over any choice of checkpoints, out of strips of rows. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.layout import STRIP_ROWS

__all__ = ["gather"]


def gather(
    wanted: NDArray[np.int64], read_strip: Callable[[int], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The matrix over the checkpoints `wanted`, [n, n], symmetric, in their order; one may be wanted twice.

    `read_strip` gives the rows of a strip, [rows, columns], of which what stands above the diagonal is ignored.
    Memory beyond the result: one strip.
    """
    order = np.argsort(wanted, kind="stable")
    if np.any(order[1:] < order[:-1]):
        back = np.argsort(order, kind="stable")
        return gather(wanted[order], read_strip)[np.ix_(back, back)]
    found = np.full((wanted.size, wanted.size), np.nan)
    for strip in np.unique(wanted // STRIP_ROWS):
        first, last = np.searchsorted(wanted, (strip * STRIP_ROWS, (strip + 1) * STRIP_ROWS))
        values = read_strip(int(strip))
        rows = values[np.ix_(wanted[first:last] - strip * STRIP_ROWS, wanted[:last])]
        # In a strip, the part beside the diagonal is whole; on it, only the lower half is.
        corner = rows[:, first:]
        upper = np.arange(last - first)[:, None] < np.arange(last - first)
        rows[:, first:] = np.where(upper & (wanted[first:last, None] != wanted[first:last]), corner.T, corner)
        found[first:last, :last] = rows
        found[:first, first:last] = rows[:, :first].T
    return found
