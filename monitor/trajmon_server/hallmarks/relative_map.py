"""The relative trajectory map: cosines about one of the checkpoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.resolution import above_resolution, cancellation
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["relative_gram", "relative_trajectory_map"]


def relative_gram(gram: NDArray[np.float64], tau: int) -> NDArray[np.float64]:
    """Inner products ⟨θ_i−θ_τ, θ_j−θ_τ⟩: K_τ, [t-1, t-1], the row of τ left out.

    Plain subtraction: whether an entry means anything is decided by :func:`above_resolution`. Raises
    IndexError if there is no checkpoint τ. Source: Hallmarks, sec. 2, "Matrix representation of Trajectory".
    """
    if not 0 <= tau < len(gram):
        raise IndexError(f"no checkpoint {tau} in a trajectory of {len(gram)} checkpoints")
    about = gram - gram[:, tau, None] - gram[None, tau, :] + gram[tau, tau]
    return np.delete(np.delete(about, tau, axis=0), tau, axis=1)


def relative_trajectory_map(trajectory: Trajectory, tau: int = 0) -> NDArray[np.float64]:
    """Cosine between every two checkpoints, seen from checkpoint τ: C_τ, [t-1, t-1] in [-1, 1].

    About the initialization the lengths are the exact ‖θ_t−θ_0‖. NaN where an entry is missing, a checkpoint
    coincides with τ, or the Gram does not resolve the cosine; the diagonal is held to the same rule, so that
    a checkpoint too near to τ does not count as perfectly aligned. Raises IndexError if there is no
    checkpoint τ. Source: Hallmarks, sec. 2, "Trajectory Map".
    """
    dots = relative_gram(trajectory.gram, tau)
    norms = trajectory.squared_norms
    measured = tau == 0 and trajectory.from_start
    squares = trajectory.displacement_squared[1:] if measured else dots.diagonal()
    ratios = cancellation(np.delete(norms, tau), norms[tau], squares)
    resolved = above_resolution(ratios[:, None], ratios[None, :], lengths_exact=measured)
    lengths = defined_length(squares)
    cosines = np.where(resolved, clamp_cosine(dots / np.outer(lengths, lengths)), np.nan)
    np.fill_diagonal(cosines, np.where(np.isnan(cosines.diagonal()), np.nan, 1.0))
    return cosines
