"""Hallmarks of one scope, read strip by strip: the same values as the series, without a map in memory. Pure but for
the object itself.

:mod:`trajmon_server.hallmarks.stream` takes a Python call for each row; here a strip of 64 rows is worked off in blocks
that fit a processor's cache. What needs every entry of a row are three sums; all else is made of a narrow band beside
the diagonal and of the update products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS
from trajmon_server.hallmarks.directions import (
    angle_degrees,
    clamp_cosine,
    defined_length,
    triangle_angle_degrees,
)
from trajmon_server.hallmarks.lagged_cosines import LAGS
from trajmon_server.hallmarks.resolution import above_resolution, cancellation
from trajmon_server.hallmarks.series import HALLMARKS
from trajmon_server.hallmarks.windowed_mds import WINDOW_CHECKPOINTS
from trajmon_server.query.strips import GramStrip, Sides, cosine_block

__all__ = ["StripHallmarks"]

_BLOCK = 1024
"""Columns that are worked off at once: with 64 rows, half a MiB."""
_BAND = max(WINDOW_CHECKPOINTS, max(LAGS) + 2)
_SUMS = ("mds", "relative", "weighted")


class StripHallmarks:
    """Takes in a run's Gram from the first row on; 8 (_BAND + 12) bytes for each checkpoint."""

    def __init__(self) -> None:
        self.count = 0
        """Checkpoints that went in."""
        self._room = 256
        self._columns = {name: np.full(self._room, np.nan) for name in (*PRODUCTS, "square", "with_start")}
        self._sums = {name: np.zeros((2, self._room)) for name in _SUMS}
        """What each row adds to a mean over a map: sum of the defined entries, and their weight."""
        self._band = np.full((_BAND, self._room), np.nan)
        """[k, t]: entry (t, t - k) of the Gram."""

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        arrays = (*self._columns.values(), *self._sums.values(), self._band)
        return sum(array.nbytes for array in arrays)

    def add(self, strip: GramStrip, products: Mapping[str, NDArray[np.float64]]) -> None:
        """Take in the next rows, with the update products of all checkpoints up to them, [t] each, in `products`.

        Raises ValueError for rows that are not the next ones.
        """
        if strip.start != self.count:
            raise ValueError(f"row {strip.start} is not the next one, {self.count} is")
        start, stop = strip.start, strip.start + len(strip.rows)
        self._make_room(stop)
        for name in PRODUCTS:
            self._columns[name][start:stop] = products[name][start:stop]
        rows = np.arange(len(strip.rows))
        self._columns["square"][start:stop] = strip.rows[rows, start + rows]
        self._columns["with_start"][start:stop] = strip.rows[:, 0]
        for k in range(_BAND):
            known = rows[start + rows >= k]
            self._band[k, start + known] = strip.rows[known, start + known - k]
        self._add_sums(strip, stop)
        self.count = stop

    def _make_room(self, count: int) -> None:
        if count > self._room:
            more = max(count, 2 * self._room) - self._room
            self._columns = {name: _widened(array, more, np.nan) for name, array in self._columns.items()}
            self._sums = {name: _widened(array, more, 0.0) for name, array in self._sums.items()}
            self._band = _widened(self._band, more, np.nan)
            self._room += more

    def _add_sums(self, strip: GramStrip, stop: int) -> None:
        start, added = strip.start, slice(strip.start, stop)
        lengths = defined_length(self._columns["square"][:stop])
        distances = defined_length(self._columns["displacement_squared"][:stop])
        weights = _root(self._columns["update_squared"][:stop])
        weights[0] = 0.0  # no step led to the initialization
        start_square = float(self._columns["square"][0])
        about = Sides(self._columns["with_start"][:stop], distances, self._reach(stop))
        for first, last in _blocks(start, stop):
            rows = strip.rows[:, first:last]
            inside = first == start  # the corner on the diagonal: each entry once, those above it not at all
            times = 1.0 if inside else 2.0
            # The diagonal counts once, what stands below it twice.
            share = np.tri(stop - start) * 2 - np.eye(stop - start) if inside else None
            own = np.arange(stop - start)
            cosines = cosine_block(rows, lengths[added], lengths[first:last])
            relative = about.cosines(rows, added, slice(first, last), start_square, lengths_exact=True)
            if inside:
                for entries in (cosines, relative):
                    entries[own, own] = np.where(np.isnan(entries[own, own]), np.nan, 1.0)
            if first == 0:
                relative[:, 0] = np.nan
            _add(self._sums["mds"][:, added], cosines, times, share)
            _add(self._sums["relative"][:, added], relative, times, share)
            _add_weighted(
                self._sums["weighted"][:, added], cosines, weights[added], weights[first:last], times, share
            )

    def _reach(self, stop: int) -> NDArray[np.float64]:
        squares = self._columns["square"][:stop]
        return cancellation(squares, squares[0], self._columns["displacement_squared"][:stop])

    def series(self) -> dict[str, NDArray[np.float64]]:
        """All hallmarks as of every checkpoint, [t] each, NaN where undefined: see :func:`hallmark_series`."""
        t = self.count
        square, update, displacement = (
            self._columns[name][:t] for name in ("square", "update_squared", "displacement_squared")
        )
        update_norm = _root(update)
        update_norm[:1] = np.nan
        distance = _root(displacement)
        path = np.cumsum(np.concatenate([np.zeros(min(t, 1)), update_norm[1:]]))
        relative = self._running("relative")
        relative[:1] = np.nan
        between = np.full(t, np.nan)
        between[2:] = angle_degrees(self._columns["update_dot"][2:t], update[2:], update[1:-1])
        at_start = np.full(t, np.nan)
        at_start[1:] = angle_degrees(
            self._columns["displacement_dot"][1:t], displacement[1:], displacement[1:2]
        )
        values = {
            "mds": self._running("mds"),
            "relative_mds": relative,
            "length_weighted_mds": self._running("weighted"),
            "windowed_mds": self._windowed(),
            "update_angle_degrees": between,
            "apex_angle_initialization_degrees": at_start,
            "apex_angle_origin_degrees": triangle_angle_degrees(square, square[:1], displacement),
            "parameter_norm": _root(square),
            "distance_from_initialization": distance,
            "update_norm": update_norm,
            "path_length": path,
            "tortuosity": path / np.where(distance > 0, distance, np.nan),
            **{f"update_cosine_lag{lag}": self._lagged(lag) for lag in LAGS},
        }
        return {name: values[name] for name in HALLMARKS}

    def _running(self, name: str) -> NDArray[np.float64]:
        sums, weights = np.cumsum(self._sums[name][:, : self.count], axis=1)
        means: NDArray[np.float64] = sums / np.where(weights > 0, weights, np.nan)
        return means

    def _windowed(self) -> NDArray[np.float64]:
        """Means over the last checkpoints: the band holds every entry of such a window."""
        t = self.count
        lengths = defined_length(self._columns["square"][:t])
        sums, counts = np.zeros((WINDOW_CHECKPOINTS, t)), np.zeros((WINDOW_CHECKPOINTS, t))
        for k in range(min(WINDOW_CHECKPOINTS, t)):
            cosines = np.full(t, np.nan)
            cosines[k:] = clamp_cosine(self._band[k, k:t] / (lengths[: t - k] * lengths[k:]))
            if k == 0:
                cosines = np.where(np.isnan(cosines), np.nan, 1.0)
            defined = ~np.isnan(cosines)
            times = 2.0 if k else 1.0
            sums[k], counts[k] = times * np.where(defined, cosines, 0.0), times * defined
        # [q, t]: of row t, its entry on the diagonal and the q beside it.
        np.cumsum(sums, axis=0, out=sums)
        np.cumsum(counts, axis=0, out=counts)
        total, weight = np.zeros(t), np.zeros(t)
        for back in range(min(WINDOW_CHECKPOINTS, t)):
            beside = WINDOW_CHECKPOINTS - 1 - back
            total[back:] += sums[beside, : t - back]
            weight[back:] += counts[beside, : t - back]
        means: NDArray[np.float64] = total / np.where(weight > 0, weight, np.nan)
        return means

    def _lagged(self, lag: int) -> NDArray[np.float64]:
        t = self.count
        values = np.full(t, np.nan)
        if t <= lag + 1:
            return values
        squares, updates = self._columns["square"][:t], self._columns["update_squared"][:t]
        lengths = defined_length(updates)
        now, then = slice(lag + 1, t), slice(1, t - lag)
        if lag == 1:
            dots = self._columns["update_dot"][now]
        else:
            row, before = self._band[:, lag + 1 : t], self._band[:, lag : t - 1]
            dots = row[lag] - row[lag + 1] - before[lag - 1] + before[lag]
        cosines = clamp_cosine(dots / (lengths[then] * lengths[now]))
        if lag > 1:
            ratios = np.full(t, np.nan)
            ratios[1:] = cancellation(squares[1:], squares[:-1], updates[1:])
            cosines = np.where(
                above_resolution(ratios[then], ratios[now], lengths_exact=True), cosines, np.nan
            )
        values[now] = cosines
        return values


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Columns below `start` in blocks, then the corner from `start` to `stop`."""
    for first in range(0, start, _BLOCK):
        yield first, min(first + _BLOCK, start)
    yield start, stop


def _add(
    sums: NDArray[np.float64], entries: NDArray[np.float64], times: float, share: NDArray[np.float64] | None
) -> None:
    """Add the sums over the defined entries of each row, and their number, to [2, rows]."""
    if share is None:
        found = entries.sum(axis=1)
        if not np.isnan(found).any():
            sums[0] += times * found
            sums[1] += times * entries.shape[1]
            return
        share = np.full((1, 1), times)
    defined = ~np.isnan(entries)
    sums[0] += (np.where(defined, entries, 0.0) * share).sum(axis=1)
    sums[1] += (defined * share).sum(axis=1)


def _add_weighted(
    sums: NDArray[np.float64],
    entries: NDArray[np.float64],
    own: NDArray[np.float64],
    others: NDArray[np.float64],
    times: float,
    share: NDArray[np.float64] | None,
) -> None:
    """The same, each entry with the product of its row's weight and its column's."""
    if share is None:
        found = own * (entries @ others)
        if not np.isnan(found).any():
            sums[0] += times * found
            sums[1] += times * own * others.sum()
            return
        share = np.full((1, 1), times)
    pairs = own[:, None] * others
    weighted = pairs * entries
    defined = ~np.isnan(weighted)
    sums[0] += (np.where(defined, weighted, 0.0) * share).sum(axis=1)
    sums[1] += (np.where(defined, pairs, 0.0) * share).sum(axis=1)


def _widened(array: NDArray[np.float64], more: int, filling: float) -> NDArray[np.float64]:
    grown = np.full((*array.shape[:-1], array.shape[-1] + more), filling)
    grown[..., : array.shape[-1]] = array
    return grown


def _root(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero is a length here, though it has no direction."""
    return np.sqrt(np.where((squared >= 0) & (squared < np.inf), squared, np.nan))
