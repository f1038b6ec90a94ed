"""A map across two runs, as a reader gets it: cosines and distances with their standard errors, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARRAYS", "CrossResult", "Nearest", "result_of"]

ARRAYS = ("map", "error", "distance", "distance_error")
"""Those that are [T, U]."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each of T checkpoints the one of the other run that is nearest to it. Undefined: -1, and NaN."""

    checkpoint: NDArray[np.int64]
    """[T], numbers in the other run."""
    distance: NDArray[np.float64]
    """[T]"""
    error: NDArray[np.float64]
    """[T], standard errors of `distance`, 0 where exact."""
    first: NDArray[np.int64]
    """[T], number of the first checkpoint that is as near within one standard error of both distances."""
    last: NDArray[np.int64]
    """[T], number of the last one, inclusive. Equal to `checkpoint`, as `first` is: there is no other."""


@dataclass(frozen=True, slots=True)
class CrossResult:
    """Checkpoints of one run against those of another, [T, U]."""

    map: NDArray[np.float64]
    """[T, U], cosines; NaN where undefined."""
    error: NDArray[np.float64]
    """[T, U], standard errors of `map`, 0 where exact, NaN where undefined."""
    distance: NDArray[np.float64]
    """[T, U], lengths of the differences, in units of the parameters; NaN where undefined."""
    distance_error: NDArray[np.float64]
    """[T, U], standard errors of `distance`, 0 where exact, NaN where undefined."""
    checkpoint: NDArray[np.int64]
    """[T], numbers of the checkpoints, ascending."""
    step: NDArray[np.int64]
    """[T], training steps; -1 where not known yet."""
    other_checkpoint: NDArray[np.int64]
    """[U]"""
    other_step: NDArray[np.int64]
    """[U]"""
    run: str
    other: str
    scope: str = "network"
    """`network`, `group:NAME` or `layer:NAME`."""
    from_initialization: bool = False
    """Whether each run's initialization was taken off first."""

    @property
    def is_exact(self) -> bool:
        """Whether no entry is an estimate."""
        return not bool((self.error > 0).any() or (self.distance_error > 0).any())

    def named(self, run: str, other: str) -> CrossResult:
        """The same under other names, where it was asked for by ids."""
        return replace(self, run=run, other=other)

    def same_number(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Places in T and in U of the checkpoints whose numbers both sides have, ascending."""
        _, rows, columns = np.intersect1d(
            self.checkpoint, self.other_checkpoint, assume_unique=True, return_indices=True
        )
        return rows, columns

    def nearest(self) -> Nearest:
        """For each checkpoint of `run` the nearest of `other`; the first of several that are equally near."""
        count = len(self.checkpoint)
        numbers, ends = np.full(count, -1, dtype=np.int64), np.full((2, count), -1, dtype=np.int64)
        distance, error = np.full(count, np.nan), np.full(count, np.nan)
        for row in np.flatnonzero(np.isfinite(self.distance).any(axis=1)):
            at = int(np.nanargmin(self.distance[row]))
            numbers[row] = self.other_checkpoint[at]
            distance[row], error[row] = self.distance[row, at], self.distance_error[row, at]
            as_near = self.distance[row] - self.distance_error[row] < distance[row] + error[row]
            as_near[at] = True
            ends[:, row] = self.other_checkpoint[np.flatnonzero(as_near)[[0, -1]]]
        return Nearest(numbers, distance, error, ends[0], ends[1])


def result_of(
    arrays: Mapping[str, NDArray[np.generic]], run: str, other: str, scope: str, from_initialization: bool
) -> CrossResult:
    """The map that a server's arrays hold. Raises ValueError that says which array is missing or does not fit."""
    counts = []
    for name in ("checkpoint", "other_checkpoint"):
        if name not in arrays:
            raise ValueError(f"the array {name} is missing")
        counts.append(arrays[name].size)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ARRAYS, (counts[0], counts[1]))
    shapes |= {"checkpoint": (counts[0],), "step": (counts[0],)}
    shapes |= {"other_checkpoint": (counts[1],), "other_step": (counts[1],)}
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"the array {name} is missing")
        kind = "f" if name in ARRAYS else "i"
        if arrays[name].shape != shape or arrays[name].dtype.kind != kind:
            raise ValueError(
                f"the array {name} is {arrays[name].dtype} {arrays[name].shape}, for {counts[0]} by {counts[1]} "
                "checkpoints"
            )
    for name in ("checkpoint", "other_checkpoint"):
        if (np.diff(arrays[name].astype(np.int64)) <= 0).any():
            raise ValueError(f"the array {name} does not ascend")
    floats = {name: arrays[name].astype(np.float64, copy=False) for name in ARRAYS}
    whole = {name: arrays[name].astype(np.int64, copy=False) for name in shapes if name not in ARRAYS}
    return CrossResult(
        map=floats["map"],
        error=floats["error"],
        distance=floats["distance"],
        distance_error=floats["distance_error"],
        checkpoint=whole["checkpoint"],
        step=whole["step"],
        other_checkpoint=whole["other_checkpoint"],
        other_step=whole["other_step"],
        run=run,
        other=other,
        scope=scope,
        from_initialization=from_initialization,
    )
