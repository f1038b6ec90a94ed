"""Means over the entries of a map that grows by a row at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunningError", "RunningMean"]


@dataclass(frozen=True, slots=True)
class RunningMean:
    """A mean over the defined entries of a growing map."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, cosines: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> RunningMean:
        """Add a row up to its diagonal, [n]; each entry but the last also stands for its mirror."""
        total = float(cosines.sum() if weights is None else cosines @ weights)
        if math.isnan(total):
            return self._add_defined(cosines, np.ones(len(cosines)) if weights is None else weights)
        if weights is None:
            return RunningMean(
                self.total + 2 * total - float(cosines[-1]), self.weight + 2 * len(cosines) - 1
            )
        last = float(weights[-1])
        return RunningMean(
            self.total + 2 * total - last * float(cosines[-1]), self.weight + 2 * float(weights.sum()) - last
        )

    def _add_defined(self, cosines: NDArray[np.float64], weights: NDArray[np.float64]) -> RunningMean:
        products = cosines * weights
        defined = ~np.isnan(products)
        products, weights = np.where(defined, products, 0.0), np.where(defined, weights, 0.0)
        return RunningMean(
            self.total + float(2 * products.sum() - products[-1]),
            self.weight + float(2 * weights.sum() - weights[-1]),
        )

    @property
    def value(self) -> float:
        """NaN before the first defined entry."""
        return self.total / self.weight if self.weight > 0 else math.nan


@dataclass(frozen=True, slots=True)
class RunningError:
    """Sum of the standard errors over the defined entries of a growing map."""

    total: float = 0.0

    def add(self, errors: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> RunningError:
        """Add a row up to its diagonal, [n], NaN where undefined, as to the mean."""
        products = errors if weights is None else errors * weights
        products = np.where(np.isnan(products), 0.0, products)
        return RunningError(self.total + float(2 * products.sum() - products[-1]))

    def mean(self, weight: float) -> float:
        """Over entries of this weight together; 0 where there are none."""
        return self.total / weight if weight > 0 else 0.0
