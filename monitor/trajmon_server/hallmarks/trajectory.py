"""The data that every hallmark is a function of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.resolution import above_resolution, cancellation

__all__ = ["Trajectory"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One scope's Gram and update products, along the path. Nothing here is ever written to.

    Raises ValueError if the shapes do not belong together.
    """

    gram: NDArray[np.float64]
    """[t, t], symmetric; NaN where missing."""
    update_squared: NDArray[np.float64]
    """[t], ‖θ_t−θ_{t−1}‖² from float64 differences; NaN at 0."""
    update_dot: NDArray[np.float64]
    """[t], ⟨θ_t−θ_{t−1}, θ_{t−1}−θ_{t−2}⟩; NaN at 0 and 1."""
    displacement_squared: NDArray[np.float64]
    """[t], ‖θ_t−θ_0‖²; 0 at 0."""
    displacement_dot: NDArray[np.float64]
    """[t], ⟨θ_t−θ_0, θ_1−θ_0⟩; 0 at 0, or NaN there if not recorded."""

    def __post_init__(self) -> None:
        t = len(self.gram)
        products = (self.update_squared, self.update_dot, self.displacement_squared, self.displacement_dot)
        if self.gram.shape != (t, t) or any(product.shape != (t,) for product in products):
            shapes = [self.gram.shape, *(product.shape for product in products)]
            raise ValueError(
                f"a trajectory of t checkpoints needs one [t, t] and four [t] arrays, got {shapes}"
            )

    def __len__(self) -> int:
        return len(self.gram)

    @property
    def squared_norms(self) -> NDArray[np.float64]:
        """[t], ‖θ_t‖²."""
        return self.gram.diagonal()

    @classmethod
    def from_gram(cls, gram: NDArray[np.float64]) -> Trajectory:
        """Take the products out of a [t, t] Gram alone; each is NaN where the Gram does not resolve it."""
        t = len(gram)
        norms = gram.diagonal()
        update_squared, update_dot = np.full(t, np.nan), np.full(t, np.nan)
        displacement_squared, displacement_dot = np.full(t, np.nan), np.full(t, np.nan)
        if t == 0:
            return cls(gram, update_squared, update_dot, displacement_squared, displacement_dot)
        # Second differences of the Gram are the inner products of updates.
        updates = gram[1:, 1:] - gram[1:, :-1] - gram[:-1, 1:] + gram[:-1, :-1]
        squares = updates.diagonal()
        ratios = cancellation(norms[1:], norms[:-1], squares)
        update_squared[1:] = np.where(_square_resolved(ratios), squares, np.nan)
        lagged = above_resolution(ratios[1:], ratios[:-1], lengths_exact=True)
        update_dot[2:] = np.where(lagged, updates.diagonal(-1), np.nan)
        displacements = gram - gram[:, :1] - gram[:1, :] + gram[0, 0]
        from_start = displacements.diagonal()
        ratios = cancellation(norms, norms[0], from_start)
        displacement_squared[:] = np.where(_square_resolved(ratios), from_start, np.nan)
        if t > 1:
            resolved = above_resolution(ratios, ratios[1], lengths_exact=True)
            displacement_dot[:] = np.where(resolved, displacements[:, 1], np.nan)
        if np.isfinite(norms[0]):
            displacement_squared[0] = displacement_dot[0] = 0.0
        return cls(gram, update_squared, update_dot, displacement_squared, displacement_dot)


def _square_resolved(ratios: NDArray[np.float64]) -> NDArray[np.bool_] | np.bool_:
    return above_resolution(ratios, ratios, lengths_exact=True)
