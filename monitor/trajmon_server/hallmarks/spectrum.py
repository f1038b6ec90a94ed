"""Eigenvalues and effective rank of a map or a Gram.

Ours: the paper plots "spectral measures" without defining them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["defined_points", "effective_rank", "eigenvalues"]


def defined_points(symmetric: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of points between which every entry is defined, dropping the worst point first."""
    kept = np.flatnonzero(np.isfinite(symmetric.diagonal()))
    while len(kept):
        missing = np.count_nonzero(~np.isfinite(symmetric[np.ix_(kept, kept)]), axis=1)
        if not missing.any():
            break
        kept = np.delete(kept, int(np.argmax(missing)))
    return kept


def eigenvalues(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues of a C or K over its defined points, largest first: [n'], n' at most n.

    Both are positive semidefinite; what rounding pushed below zero is returned as 0. In the units of the
    matrix. O(n³). Ours, not the paper's.
    """
    points = defined_points(symmetric)
    if len(points) == 0:
        return np.empty(0)
    ascending = np.linalg.eigvalsh(symmetric[np.ix_(points, points)])
    return np.asarray(np.maximum(ascending[::-1], 0.0), dtype=np.float64)


def effective_rank(symmetric: NDArray[np.float64]) -> float:
    """Exponential of the entropy of the normalised eigenvalues: 1 for a line, n for n orthogonal points.

    NaN if nothing is defined or every point is zero. Definition: Roy & Vetterli, "The effective rank"
    (EUSIPCO 2007); ours, not the paper's.

    >>> round(effective_rank(np.eye(3)), 12)
    3.0
    """
    values = eigenvalues(symmetric)
    total = values.sum()
    if not total > 0:
        return float("nan")
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))
