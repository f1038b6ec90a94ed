"""The data that every hallmark is a function of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.displacements import Estimated, dots_from_gram, squares_from_gram, with_start
from trajmon_server.hallmarks.resolution import above_resolution, cancellation

__all__ = ["Trajectory"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One scope's Gram and update products, along the path. Nothing here is ever written to.

    Holes of the Gram may be filled with estimates; then `gram_error` says which and how good they are.

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
    gram_error: NDArray[np.float64] | None = None
    """[t, t], symmetric: standard errors of the entries of `gram`, 0 where exact. None: all of them are exact."""
    displacement_squared_error: NDArray[np.float64] | None = None
    """[t], standard errors, 0 where exact. None: all exact."""
    displacement_dot_error: NDArray[np.float64] | None = None
    """[t], likewise."""

    def __post_init__(self) -> None:
        t = len(self.gram)
        products = (self.update_squared, self.update_dot, self.displacement_squared, self.displacement_dot)
        if self.gram.shape != (t, t) or any(product.shape != (t,) for product in products):
            shapes = [self.gram.shape, *(product.shape for product in products)]
            raise ValueError(
                f"a trajectory of t checkpoints needs one [t, t] and four [t] arrays, got {shapes}"
            )
        errors = (
            ("gram_error", self.gram_error, (t, t)),
            ("displacement_squared_error", self.displacement_squared_error, (t,)),
            ("displacement_dot_error", self.displacement_dot_error, (t,)),
        )
        for name, error, shape in errors:
            if error is not None and error.shape != shape:
                raise ValueError(f"{name} of {t} checkpoints needs the shape {shape}, got {error.shape}")

    def __len__(self) -> int:
        return len(self.gram)

    @property
    def squared_norms(self) -> NDArray[np.float64]:
        """[t], ‖θ_t‖²."""
        return self.gram.diagonal()

    @property
    def from_start(self) -> bool:
        """Whether displacements are taken from its first checkpoint; not so in a part that starts later."""
        return not (len(self) and self.displacement_squared[0] > 0)

    @property
    def is_estimated(self) -> bool:
        """Whether anything in it is an estimate."""
        errors = (self.gram_error, self.displacement_squared_error, self.displacement_dot_error)
        return any(error is not None and bool((error > 0).any()) for error in errors)

    def completed(self) -> Trajectory:
        """With what rows that rest on estimates lack, as far as the other numbers say it.

        Their displacements are taken from the Gram by differences, with standard errors; and where a displacement is
        exact, it says what the inner product with θ_0 is. Rows without estimates, and the products of updates, stay as
        they are: exact or undefined. What comes back of a trajectory with estimates has all of its error arrays.
        """
        if not self.is_estimated or not self.from_start:
            return self
        t = len(self)
        gram_error = np.zeros((t, t)) if self.gram_error is None else self.gram_error
        rests = (np.tril(gram_error) > 0).any(axis=1)
        squared, dot = self.displacement_squared, self.displacement_dot
        squared_error, dot_error = (
            np.zeros(t) if error is None else error
            for error in (self.displacement_squared_error, self.displacement_dot_error)
        )
        start = with_start(
            Estimated(self.gram[:, 0], gram_error[:, 0]),
            self.squared_norms,
            self.gram[0, 0],
            Estimated(squared, squared_error),
        )
        gram, gram_error = self.gram.copy(), gram_error.copy()
        gram[:, 0] = gram[0] = start.values
        gram_error[:, 0] = gram_error[0] = start.errors
        lacks = rests & np.isnan(squared)
        squares = squares_from_gram(start, self.squared_norms, gram[0, 0])
        squared = np.where(lacks, squares.values, squared)
        squared_error = np.where(lacks, squares.errors, squared_error)
        lacks = rests & np.isnan(dot)
        first = min(1, t - 1)
        ratios = cancellation(self.squared_norms, gram[0, 0], squared)
        dots = dots_from_gram(
            Estimated(gram[:, first], gram_error[:, first]),
            start,
            Estimated(gram[first, 0], gram_error[first, 0]),
            gram[0, 0],
            (ratios, ratios[first]),
        )
        return replace(
            self,
            gram=gram,
            gram_error=gram_error,
            displacement_squared=squared,
            displacement_squared_error=squared_error,
            displacement_dot=np.where(lacks, dots.values, dot),
            displacement_dot_error=np.where(lacks, dots.errors, dot_error),
        )

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
