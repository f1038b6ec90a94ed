"""Displacements from the initialization, taken out of a Gram whose holes are filled with estimates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmon_server.hallmarks.resolution import above_resolution, cancellation
from trajmon_server.hallmarks.standard_errors import known_beyond_error

__all__ = ["Estimated", "dots_from_gram", "squares_from_gram", "with_start"]


@dataclass(frozen=True, slots=True)
class Estimated:
    """Numbers with their standard errors, 0 where exact; of one shape, or both scalars."""

    values: NDArray[np.float64]
    errors: NDArray[np.float64]


def with_start(
    products: Estimated, squares: NDArray[np.float64], start_square: float, displacements: Estimated
) -> Estimated:
    """⟨θ_t, θ_0⟩ [n], exact where ‖θ_t−θ_0‖² is: that came from differences of the parameters and says the same.

    `squares` [n] are ‖θ_t‖², `start_square` ‖θ_0‖².
    """
    told = (squares + start_square - displacements.values) / 2
    takes = (products.errors > 0) & (displacements.errors == 0) & np.isfinite(told)
    return Estimated(
        np.where(takes, told, products.values),
        np.where(takes, 0.0, products.errors),
    )


def squares_from_gram(start: Estimated, squares: NDArray[np.float64], start_square: float) -> Estimated:
    """‖θ_t−θ_0‖² [n] out of ⟨θ_t, θ_0⟩.

    Undefined is what the Gram does not resolve, and what is not larger than its own standard error.
    """
    values, errors = squares - 2 * start.values + start_square, 2 * start.errors
    ratios = cancellation(squares, start_square, values)
    known = above_resolution(ratios, ratios, lengths_exact=True) & known_beyond_error(errors, values)
    return Estimated(np.where(known, values, np.nan), np.where(known, errors, np.nan))


def dots_from_gram(
    first: Estimated,
    start: Estimated,
    first_with_start: Estimated,
    start_square: float,
    ratios: tuple[ArrayLike, ArrayLike],
) -> Estimated:
    """⟨θ_t−θ_0, θ_1−θ_0⟩ [n] out of ⟨θ_t, θ_1⟩, ⟨θ_t, θ_0⟩ and ⟨θ_1, θ_0⟩.

    `ratios` are the :func:`cancellation` of both displacements; undefined is what the Gram does not resolve.
    """
    resolved = above_resolution(*ratios, lengths_exact=True)
    values = first.values - start.values - first_with_start.values + start_square
    errors = first.errors + start.errors + first_with_start.errors
    return Estimated(np.where(resolved, values, np.nan), np.where(resolved, errors, np.nan))
