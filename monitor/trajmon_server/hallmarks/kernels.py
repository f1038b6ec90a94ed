"""Maps under other kernels than the linear one.

Ours: Hallmarks, sec. 2 uses linear kernels throughout and says that they are not necessary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.resolution import above_resolution

__all__ = ["median_bandwidth_squared", "polynomial_map", "rbf_map", "squared_distances"]


def squared_distances(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖θ_i−θ_j‖² by subtraction: [t, t]; rounding below zero becomes 0, missing stays NaN."""
    squares = gram.diagonal()
    distances: NDArray[np.float64] = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, np.where(np.isnan(squares), np.nan, 0.0))
    return distances


def median_bandwidth_squared(gram: NDArray[np.float64]) -> float:
    """Median of the defined ‖θ_i−θ_j‖² over pairs i < j (the median heuristic); NaN without a pair."""
    pairs = squared_distances(gram)[np.triu_indices(len(gram), 1)]
    pairs = pairs[np.isfinite(pairs)]
    return float(np.median(pairs)) if len(pairs) else float("nan")


def rbf_map(gram: NDArray[np.float64], bandwidth_squared: float | None = None) -> NDArray[np.float64]:
    """exp(−‖θ_i−θ_j‖² / 2σ²): [t, t] in [0, 1].

    σ² defaults to the median of the squared distances, so the map shows the same picture whatever the scale
    of the parameters. Unlike a cosine it also tells lengths apart, and moving the origin does not change it.
    NaN where an entry is missing, and everywhere if σ is 0 or the Gram does not resolve it. Raises ValueError
    for a σ² that is not positive.
    """
    if bandwidth_squared is not None and not bandwidth_squared > 0:
        raise ValueError(f"the squared bandwidth must be positive, not {bandwidth_squared}")
    width = median_bandwidth_squared(gram) if bandwidth_squared is None else bandwidth_squared
    lengths = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    # The exponent's error is that of a squared distance over σ²: a difference of length σ.
    ratios = np.maximum(lengths[:, None], lengths[None, :]) / defined_length(width)
    resolved = above_resolution(ratios, ratios, lengths_exact=True)
    values: NDArray[np.float64] = np.exp(-squared_distances(gram) / (2 * (width if width > 0 else np.nan)))
    return np.where(resolved, values, np.nan)


def polynomial_map(gram: NDArray[np.float64], degree: int = 2, offset: float = 1.0) -> NDArray[np.float64]:
    """Cosines in the feature space of (⟨θ_i, θ_j⟩/s + c)^d: [t, t] in [-1, 1].

    s is the mean of the defined ‖θ_t‖², so that c = 1 weighs constant and linear features alike; degree 1
    with offset 0 is the trajectory map. NaN where an entry is missing. Raises ValueError for a degree under 1
    or a negative offset, with which the kernel would not be positive.
    """
    if degree < 1 or not offset >= 0:
        raise ValueError(f"degree must be at least 1 and offset at least 0, not {degree} and {offset}")
    squares = gram.diagonal()
    finite = squares[np.isfinite(squares)]
    scale = float(np.mean(finite)) if len(finite) else float("nan")
    bases = gram / (scale if scale > 0 else np.nan) + offset
    lengths = defined_length(bases.diagonal())
    cosines = clamp_cosine(bases / np.outer(lengths, lengths)) ** degree
    return np.asarray(cosines, dtype=np.float64)
