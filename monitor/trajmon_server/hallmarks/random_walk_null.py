"""What a random walk with the same learning rates would show: the baseline of every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmon_server.hallmarks.mds import mean_directional_similarity

__all__ = ["random_walk_mds", "random_walk_null"]


def random_walk_null(learning_rates: ArrayLike) -> NDArray[np.float64]:
    """Relative trajectory map of a Gaussian random walk with step sizes η_1 … η_n: √(H_s/H_t), [n, n].

    H_u = Σ_{t≤u} η_t²; entry (s, t) with s the earlier. Row i belongs to checkpoint i + 1, as in the map
    about checkpoint 0. NaN before the first step of positive size. Only the ratios of the learning rates
    matter. Raises ValueError if one is negative or not finite. Source: Hallmarks, App. C.

    >>> random_walk_null([1.0, 1.0]).round(3).tolist()
    [[1.0, 0.707], [0.707, 1.0]]
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    if rates.ndim != 1 or not np.all((rates >= 0) & np.isfinite(rates)):
        raise ValueError("learning rates must be one row of finite numbers, none negative")
    # Only ratios matter; in units of the largest rate no square overflows or vanishes.
    largest = np.max(rates, initial=0.0)
    lengths = np.cumsum(np.square(rates / largest)) if largest > 0 else np.zeros(len(rates))
    lengths = np.where(lengths > 0, lengths, np.nan)
    ratios: NDArray[np.float64] = np.minimum(lengths[:, None], lengths[None, :]) / np.maximum(
        lengths[:, None], lengths[None, :]
    )
    return np.sqrt(ratios)


def random_walk_mds(learning_rates: ArrayLike) -> float:
    """Mean of all entries of :func:`random_walk_null`. Source: Hallmarks, App. C."""
    return mean_directional_similarity(random_walk_null(learning_rates))
