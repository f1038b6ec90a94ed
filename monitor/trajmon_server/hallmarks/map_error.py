"""Standard errors of maps whose Gram holds estimates: first order in the errors of the inner products.

Norms are exact, so each entry of a map about the origin has one uncertain number in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import defined_length
from trajmon_server.hallmarks.kernels import (
    median_bandwidth_squared,
    polynomial_map,
    rbf_map,
    squared_distances,
)

__all__ = ["map_error", "polynomial_map_error", "rbf_map_error"]


def map_error(gram: NDArray[np.float64], gram_error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors of :func:`trajectory_map`, [t, t].

    `gram` [t, t] has its estimates filled in, `gram_error` [t, t] their standard errors, 0 where exact. At most 1,
    the most that a cosine can say nothing by; NaN where the map is.

    >>> map_error(np.array([[1.0, 0.5], [0.5, 4.0]]), np.array([[0.0, 0.1], [0.1, 0.0]])).tolist()
    [[0.0, 0.05], [0.05, 0.0]]
    """
    lengths = defined_length(gram.diagonal())
    error = np.minimum(gram_error / np.outer(lengths, lengths), 1.0)
    return np.where(np.isnan(gram), np.nan, error)


def rbf_map_error(
    gram: NDArray[np.float64], gram_error: NDArray[np.float64], bandwidth_squared: float | None = None
) -> NDArray[np.float64]:
    """Standard errors of :func:`rbf_map`, [t, t], at most; NaN where the map is.

    The default bandwidth is a median of distances, some of them estimates. It moves all entries, those that are exact
    themselves too; its error is added to theirs. Raises ValueError for a squared bandwidth that is not positive.
    """
    values = rbf_map(gram, bandwidth_squared)
    width = median_bandwidth_squared(gram) if bandwidth_squared is None else bandwidth_squared
    width = width if width > 0 else np.nan
    exponent_error = gram_error / width
    if bandwidth_squared is None:
        by_width = _bandwidth_error(gram, gram_error) / (2 * width * width)
        exponent_error = exponent_error + squared_distances(gram) * by_width
    return np.minimum(values * exponent_error, 1.0)


def _bandwidth_error(gram: NDArray[np.float64], gram_error: NDArray[np.float64]) -> float:
    """How far the median of the squared distances moves when all of them err to one side by a standard error."""
    middle = median_bandwidth_squared(gram)
    moved = (median_bandwidth_squared(gram + side * gram_error) for side in (-1.0, 1.0))
    return max(abs(median - middle) for median in moved)


def polynomial_map_error(
    gram: NDArray[np.float64], gram_error: NDArray[np.float64], degree: int = 2, offset: float = 1.0
) -> NDArray[np.float64]:
    """Standard errors of :func:`polynomial_map`, [t, t]; NaN where the map is. Raises ValueError as that does.

    The larger change of c^d when the cosine c moves by its error: the slope alone would be 0 at right angles.
    """
    if np.isnan(polynomial_map(gram, degree, offset)).all():
        return np.full(gram.shape, np.nan)
    cosines = polynomial_map(gram, 1, offset)
    squares = gram.diagonal()
    scale = float(np.mean(squares[np.isfinite(squares)]))
    lengths = defined_length(squares / scale + offset)
    change = gram_error / scale / np.outer(lengths, lengths)
    moved = (np.abs(cosines) + change) ** degree
    error: NDArray[np.float64] = np.minimum(moved - np.abs(cosines) ** degree, 1.0)
    return error
