"""The map about a checkpoint when inner products are estimates, and its standard errors.

Two ways lead to an entry:

* *by differences of estimates*: ⟨θ_i−θ_τ, θ_j−θ_τ⟩ out of the filled Gram. Where the inner products with θ_τ are known,
  as those with the initialization are while its snapshot is kept, θ_τ is an anchor of the one estimate there is, and
  this way is taken. Else the errors of up to three estimates meet, taken to be as unlucky as three errors from the
  same signs can be: added.
* *by sketches of differences*: sketches are linear, so the difference is taken first and the cosine is that of two
  sketched differences. Its error (1−ρ²)/√k is relative to the differences and not to the parameters, however
  near θ_i is to θ_τ. Where the lengths of the differences are known exactly, they serve as margins. Taken where an
  inner product with θ_τ is an estimate and this error is the smaller one.

Sketches of a group are sums over layers. The formula of one layer, with the largest rate among them, is then an upper
bound: for 2×2 Grams R_l of the layers and a symmetric M, Σ_l tr(M R_l M R_l) ≤ tr(M R M R) with R = Σ_l R_l.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import clamp_cosine, defined_length
from trajmon_server.hallmarks.margin_mle import margin_mle
from trajmon_server.hallmarks.relative_map import relative_gram
from trajmon_server.hallmarks.residuals import Accuracy, rounding_error
from trajmon_server.hallmarks.resolution import ENTRY_ACCURACY, above_resolution, cancellation
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["relative_map_with_error"]

_FLOAT32_ROUNDING = 2.0**-24


def relative_map_with_error(
    trajectory: Trajectory,
    gram_error: NDArray[np.float64],
    sketch_gram: NDArray[np.float64] | None,
    rate: float,
    tau: int = 0,
    *,
    rounding: float = _FLOAT32_ROUNDING,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines about checkpoint τ and their standard errors, [t-1, t-1] each.

    `trajectory` has its estimates filled in, `gram_error` [t, t] their standard errors, 0 where exact; `sketch_gram`
    [t, t] are inner products of sketches of the same scope; `rate` is 1/k, for a group the largest of its layers;
    `rounding` is that of the sketches' columns. NaN, both, where a checkpoint coincides with τ and where the
    cosine is not resolved, as decided by :func:`above_resolution` for what is exact. Without estimates the map is that
    of :func:`relative_trajectory_map`. Raises IndexError if there is no checkpoint τ.
    """
    about = _about(trajectory, gram_error, tau)
    cosines, errors = _by_estimates(about)
    if sketch_gram is not None:
        others = _by_sketches(about, sketch_gram, Accuracy(np.array([rate]), rounding))
        # Not where one estimate says it all: the smaller of two errors as good as each other is too small.
        uncertain = about.tau_errors > 0
        better = uncertain[:, None] | uncertain[None, :]
        better &= others[1] < np.where(np.isnan(errors), np.inf, errors)
        cosines, errors = np.where(better, others[0], cosines), np.where(better, others[1], errors)
    np.fill_diagonal(cosines, np.where(np.isnan(cosines.diagonal()), np.nan, 1.0))
    np.fill_diagonal(errors, np.where(np.isnan(cosines.diagonal()), np.nan, 0.0))
    return cosines, errors


@dataclass(frozen=True, slots=True)
class _About:
    """Differences from checkpoint τ, which is left out: t-1 of them."""

    tau: int
    lengths_exact: bool
    """Whether squared lengths are measured, and not subtracted from Gram entries, where they are known so."""
    dots: NDArray[np.float64]
    """[t-1, t-1], inner products out of the filled Gram."""
    errors: NDArray[np.float64]
    """[t-1, t-1], of the inner products of the checkpoints themselves."""
    squares: NDArray[np.float64]
    """[t-1], squared lengths."""
    tau_errors: NDArray[np.float64]
    """[t-1], of the inner products with τ; 0 where the squared length is exact."""
    reach: NDArray[np.float64]
    """[t-1], |θ_i| + |θ_τ|."""
    ratios: NDArray[np.float64]
    """[t-1], cancellation."""


def _about(trajectory: Trajectory, gram_error: NDArray[np.float64], tau: int) -> _About:
    trajectory = replace(trajectory, gram_error=gram_error).completed()
    gram = trajectory.gram
    errors = gram_error if trajectory.gram_error is None else trajectory.gram_error
    dots = relative_gram(gram, tau)
    rest = np.delete(np.arange(len(gram)), tau)
    tau_errors, squares = errors[rest, tau], dots.diagonal()
    lengths_exact = tau == 0 and trajectory.from_start
    if lengths_exact:
        measured = np.isfinite(trajectory.displacement_squared)
        if trajectory.displacement_squared_error is not None:
            measured &= trajectory.displacement_squared_error == 0
        squares = np.where(measured[rest], trajectory.displacement_squared[rest], squares)
        tau_errors = np.where(measured[rest], 0.0, tau_errors)
    norms = gram.diagonal()
    return _About(
        tau=tau,
        lengths_exact=lengths_exact,
        dots=dots,
        errors=errors[np.ix_(rest, rest)],
        squares=squares,
        tau_errors=tau_errors,
        reach=np.sqrt(np.maximum(norms[rest], 0.0)) + np.sqrt(np.maximum(norms[tau], 0.0)),
        ratios=cancellation(norms[rest], norms[tau], squares),
    )


def _by_estimates(about: _About) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lengths = defined_length(about.squares)
    bound = np.outer(lengths, lengths)
    exact = about.lengths_exact
    resolved = above_resolution(about.ratios[:, None], about.ratios[None, :], lengths_exact=exact)
    cosines = np.where(resolved, clamp_cosine(about.dots / bound), np.nan)
    # An error of ⟨θ_i, θ_τ⟩ is in the inner product of the differences and in the length of one of them.
    sides = about.tau_errors[:, None] * np.abs(cosines / np.square(lengths)[:, None] - 1 / bound)
    errors = about.errors / bound + sides + sides.T
    # First order holds while the lengths are known to a fraction of themselves.
    vague = about.tau_errors > about.squares / 4
    errors = np.where(vague[:, None] | vague[None, :], np.inf, errors)
    return cosines, np.where(np.isnan(cosines), np.nan, np.minimum(errors, 1.0))


def _by_sketches(
    about: _About, sketch_gram: NDArray[np.float64], accuracy: Accuracy
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    dots = relative_gram(sketch_gram, about.tau)
    own = dots.diagonal()
    lengths = defined_length(own)
    ratios = about.reach / lengths
    resolved = above_resolution(ratios[:, None], ratios[None, :])
    cosines = clamp_cosine(dots / np.outer(lengths, lengths))
    spread = 1 - np.square(cosines)
    exact = (about.tau_errors == 0) & np.isfinite(about.ratios)
    margins = np.where(exact, about.squares, np.nan)
    likeliest = margin_mle(dots, margins[:, None], margins[None, :], own[:, None], own[None, :])
    by_margins = np.isfinite(likeliest)
    likeliest = clamp_cosine(likeliest / np.sqrt(np.outer(margins, margins)))
    cosines = np.where(by_margins, likeliest, cosines)
    spread = np.where(by_margins, (1 - likeliest**2) / np.sqrt(1 + likeliest**2), spread)
    # In units of the differences' lengths.
    unit = np.ones((1, 1))
    rounded = rounding_error(accuracy, cosines, (unit, ratios[:, None]), (unit, ratios[None, :]))
    floor = 2 * ENTRY_ACCURACY * np.square(ratios[:, None] + ratios[None, :])
    errors = np.sqrt(np.square(spread) * accuracy.rates[0] + np.square(rounded) + np.square(floor))
    cosines = np.where(resolved, cosines, np.nan)
    return cosines, np.where(np.isnan(cosines), np.nan, np.minimum(errors, 1.0))
