"""The Gram of one scope as readers are shown it: holes filled with estimates, and the maps that follow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.names import Scope
from trajmon_server.hallmarks.kernels import polynomial_map, rbf_map
from trajmon_server.hallmarks.map_error import map_error, polynomial_map_error, rbf_map_error
from trajmon_server.hallmarks.relative_error import relative_map_with_error
from trajmon_server.hallmarks.relative_map import relative_trajectory_map
from trajmon_server.hallmarks.standard_errors import telling
from trajmon_server.hallmarks.trajectory import Trajectory
from trajmon_server.hallmarks.trajectory_map import trajectory_map
from trajmon_server.runs.early import Early
from trajmon_server.store.estimates import Estimates

__all__ = ["Kernel", "MapEntries", "ScopeGram", "SketchQuality", "early_rows"]

Kernel = Literal["linear", "rbf", "polynomial"]

MapEntries = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""A map, and its standard errors, 0 where exact; None if all of it is."""


def early_rows(
    early: Early,
    gram: NDArray[np.float64],
    estimates: Estimates | None,
    numbers: NDArray[np.int64],
    scope: Scope,
    index: int,
    members: Sequence[int],
) -> tuple[NDArray[np.float64], Estimates]:
    """Gram and estimates, [T, T], with the rows of checkpoints that are known from their sketches alone."""
    missing = np.full(gram.shape, np.nan)
    found = estimates or Estimates(missing.copy(), missing.copy(), missing.copy())
    for place, number in enumerate(numbers.tolist()):
        row = early.rows.get(number)
        if row is None or not np.isnan(gram[place, place]):
            continue
        earlier = numbers[: place + 1]
        is_layer = scope.kind == "layer"
        for into, values in (
            (gram, row.row.gram[list(members)].sum(axis=0)),
            (
                found.estimate,
                row.estimates.estimate[index] if is_layer else row.estimates.group_estimate[index],
            ),
            (found.error, row.estimates.error[index] if is_layer else row.estimates.group_error[index]),
            (found.sketch_gram, row.estimates.sketch_gram[list(members)].sum(axis=0)),
        ):
            into[place, : place + 1] = into[: place + 1, place] = values[earlier]
    return gram, found


@dataclass(frozen=True, slots=True)
class SketchQuality:
    """How good the sketches of a scope are."""

    rate: float
    """1/k, the largest of its layers."""
    rounding: float
    """Largest relative rounding of a column."""


@dataclass(frozen=True, slots=True)
class ScopeGram:
    """Inner products of one scope over T checkpoints."""

    gram: NDArray[np.float64]
    """[T, T], estimates filled in; NaN where missing."""
    error: NDArray[np.float64] | None = None
    """[T, T] standard errors, 0 where exact. None: no entry is an estimate."""
    sketch_gram: NDArray[np.float64] | None = None
    """[T, T] inner products of sketches. None: no entry is an estimate."""

    @classmethod
    def filled(cls, gram: NDArray[np.float64], estimates: Estimates | None) -> ScopeGram:
        """Exact entries, [T, T], with estimates for the others. An exact entry is never replaced."""
        if estimates is None:
            return cls(gram)
        holes = np.isnan(gram) & ~np.isnan(estimates.estimate) & ~np.isnan(estimates.error)
        if not holes.any():
            return cls(gram)
        return cls(
            np.where(holes, estimates.estimate, gram),
            np.where(holes, estimates.error, 0.0),
            estimates.sketch_gram,
        )

    def without(self, position: int) -> ScopeGram:
        """The same without one checkpoint, and without what only relative maps need."""
        keep = np.arange(len(self.gram)) != position
        error = None if self.error is None else self.error[np.ix_(keep, keep)]
        return ScopeGram(self.gram[np.ix_(keep, keep)], error)

    def about_origin(self, kernel: Kernel) -> MapEntries:
        """The map under a kernel, [T, T]."""
        if kernel == "rbf":
            return rbf_map(self.gram), None if self.error is None else rbf_map_error(self.gram, self.error)
        if kernel == "polynomial":
            errors = None if self.error is None else polynomial_map_error(self.gram, self.error)
            return polynomial_map(self.gram), errors
        return trajectory_map(self.gram), None if self.error is None else map_error(self.gram, self.error)

    def about(self, trajectory: Trajectory, tau: int, quality: SketchQuality | None) -> MapEntries:
        """The map about the checkpoint at position `tau`, [T-1, T-1]; `trajectory` holds this Gram."""
        if self.error is None:
            return relative_trajectory_map(trajectory, tau), None
        trajectory = trajectory.completed()
        assert trajectory.gram_error is not None
        entries, errors = relative_map_with_error(
            trajectory,
            trajectory.gram_error,
            None if quality is None else self.sketch_gram,
            1.0 if quality is None else quality.rate,
            tau,
            rounding=0.0 if quality is None else quality.rounding,
        )
        return telling(entries, errors)
