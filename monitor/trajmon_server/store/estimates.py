"""What the maps hold of sketches and estimates, by row and by map. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.store.layout import Quantity, RunShape, Scope

__all__ = ["Estimates", "RowEstimates", "group_sum"]


@dataclass(frozen=True, slots=True)
class RowEstimates:
    """What sketches say of one row, for n = checkpoint + 1, L layers and G groups; NaN where they say nothing."""

    estimate: NDArray[np.float64]
    """[L, n], of entries that the row itself lacks."""
    error: NDArray[np.float64]
    """[L, n], standard errors of `estimate`."""
    sketch_gram: NDArray[np.float64]
    """[L, n], inner products of sketches."""
    group_estimate: NDArray[np.float64]
    """[G, n]"""
    group_error: NDArray[np.float64]
    """[G, n]"""

    @property
    def num_estimated(self) -> int:
        """In how many columns some layer or group has an estimate."""
        layers, groups = (~np.isnan(part) for part in (self.estimate, self.group_estimate))
        return int((layers.any(axis=0) | groups.any(axis=0)).sum())

    def check(self, run: RunShape, checkpoint: int) -> None:
        """ValueError unless all shapes are those of this checkpoint."""
        layers, groups = len(run.layer_names), len(run.groups)
        for name, count in (
            ("estimate", layers),
            ("error", layers),
            ("sketch_gram", layers),
            ("group_estimate", groups),
            ("group_error", groups),
        ):
            shape = getattr(self, name).shape
            if shape != (count, checkpoint + 1):
                raise ValueError(
                    f"{name} of checkpoint {checkpoint} has shape {shape}, not {(count, checkpoint + 1)}"
                )

    def rows(self, run: RunShape) -> dict[tuple[Scope, Quantity], NDArray[np.float64]]:
        """What is stored of it, [layer or group, n]: no estimates where nothing is estimated."""
        found: dict[tuple[Scope, Quantity], NDArray[np.float64]] = {
            ("layer", "sketch_gram"): self.sketch_gram,
            ("group", "sketch_gram"): group_sum(self.sketch_gram, run),
        }
        if self.num_estimated:
            found["layer", "gram_estimate"], found["layer", "gram_error"] = self.estimate, self.error
            found["group", "gram_estimate"] = self.group_estimate
            found["group", "gram_error"] = self.group_error
        return found


@dataclass(frozen=True, slots=True)
class Estimates:
    """What sketches say of one layer or group over n checkpoints; symmetric, NaN where they say nothing."""

    estimate: NDArray[np.float64]
    """[n, n], of entries that the exact map lacks."""
    error: NDArray[np.float64]
    """[n, n], standard errors of `estimate`."""
    sketch_gram: NDArray[np.float64]
    """[n, n], inner products of sketches."""


def group_sum(values: NDArray[np.float64], run: RunShape) -> NDArray[np.float64]:
    """[layer, ...] to [group, ...]; NaN where any of a group's layers is NaN."""
    return np.stack([values[list(members)].sum(axis=0) for _, members in run.groups])
