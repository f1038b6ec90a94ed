"""Inner products out of sketches whose vectors' lengths are known: margin-constrained maximum likelihood.

Columns of the sketches of two vectors are taken for draws from a normal distribution whose two variances are known
and whose covariance is not. The likelihood is greatest at a root of a cubic. Source: Li, Hastie and Church,
"Improving Random Projections Using Marginal Information", COLT 2006, sec. 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["margin_mle", "pair_variance"]

_STEPS = 60
"""More than bisection alone needs to reach the last bit in [-1, 1]."""
_CLOSE = 4e-16
_SECOND_ORDER = 15.0


def margin_mle(
    dot: ArrayLike,
    first_squared: ArrayLike,
    second_squared: ArrayLike,
    sketch_first_squared: ArrayLike,
    sketch_second_squared: ArrayLike,
) -> NDArray[np.float64]:
    """Inner product of two vectors, from that of their sketches; arrays of one shape, or broadcast to it.

    The likeliest root a of a³ − a² d + a (m1 s2 + m2 s1 − m1 m2) − m1 m2 d = 0, for the sketches' inner product d and
    squared lengths s1, s2, and the vectors' squared lengths m1, m2. Within ±√(m1 m2); 0 if a length is 0 or below;
    NaN where an argument is not finite.

    >>> float(margin_mle(3.0, 4.0, 9.0, 4.0, 9.0))
    3.0
    """
    arguments = (dot, first_squared, second_squared, sketch_first_squared, sketch_second_squared)
    d, m1, m2, s1, s2 = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arguments))
    result = np.full(d.shape, np.nan)
    finite = np.isfinite(d) & np.isfinite(m1) & np.isfinite(m2) & np.isfinite(s1) & np.isfinite(s2)
    directed = finite & (m1 > 0) & (m2 > 0)
    result[finite] = 0.0
    # Products of squared lengths may leave the range of float64; quotients do not.
    length = np.sqrt(m1[directed]) * np.sqrt(m2[directed])
    cosine = d[directed] / length
    spread = s1[directed] / m1[directed] + s2[directed] / m2[directed]
    result[directed] = length * _root(cosine, spread)
    return result


def pair_variance(
    estimate: ArrayLike, first_squared: ArrayLike, second_squared: ArrayLike, rate: ArrayLike
) -> NDArray[np.float64]:
    """Variance of :func:`margin_mle`, for `rate` = 1/k of a sketch of k columns: (m1 m2 − a²)² / (m1 m2 + a²) · rate.

    Times 1 + 15 · rate, the next order in 1/k for orthogonal vectors: 12 for the estimate, 3 for a variance that is
    taken at the estimate. 0 for vectors without length and for sketches without collisions (rate 0). Source of the
    first order: the same, sec. 3, Lemma 2.
    """
    m1 = np.maximum(np.asarray(first_squared, dtype=np.float64), 0.0)
    m2 = np.maximum(np.asarray(second_squared, dtype=np.float64), 0.0)
    length = np.sqrt(m1) * np.sqrt(m2)
    cosine = np.asarray(estimate, dtype=np.float64) / np.where(length > 0, length, 1.0)
    cosine = np.minimum(np.abs(cosine), 1.0)
    free = (1.0 - cosine) * (1.0 + cosine)
    scale = np.asarray(rate, dtype=np.float64)
    scale = scale * (1.0 + _SECOND_ORDER * scale)
    variance: NDArray[np.float64] = np.square(length * free) / (1.0 + np.square(cosine)) * scale
    return variance


def _root(cosine: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Likeliest root in [-1, 1] of f(x) = x³ − c x² + (s − 1) x − c.

    f(1) = s − 2c and f(−1) = −(s + 2c) are squared lengths of the difference and of the sum of the sketches, up to
    sign: there is a root between. Rounding can push it out, hence the clamp.
    """
    above, below = spread - 2 * cosine <= 0, spread + 2 * cosine <= 0
    low, high = np.full(cosine.shape, -1.0), np.ones(cosine.shape)
    x = np.minimum(np.maximum(cosine, -1.0), 1.0)
    for _ in range(_STEPS):
        value = ((x - cosine) * x + (spread - 1.0)) * x - cosine
        slope = (3 * x - 2 * cosine) * x + (spread - 1.0)
        low, high = np.where(value < 0, x, low), np.where(value > 0, x, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            after = x - value / slope
        # Newton's step where it stays between the ends, else half of what is left.
        inside = (after >= low) & (after <= high)
        after = np.where(value == 0, x, np.where(inside, after, (low + high) / 2))
        done = bool(np.all(np.abs(after - x) <= _CLOSE))
        x = after
        if done:
            break
    several = np.square(cosine) >= 3 * (spread - 1.0)
    if several.any():
        x[several] = _likeliest(x[several], cosine[several], spread[several])
    x[above], x[below] = 1.0, -1.0
    x[above & below] = 0.0
    return x


def _likeliest(
    x: NDArray[np.float64], cosine: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where sketches are much shorter than their vectors, f can have three roots: the one of greatest likelihood.

    Given one root x, the others solve the quadratic that is left of f without it.
    """
    linear = x - cosine
    constant = linear * x + (spread - 1.0)
    under = np.square(linear) - 4 * constant
    half = np.sqrt(np.maximum(under, 0.0))
    # The far root first, then the near one out of their product: the plain formula cancels.
    far = -(linear + np.copysign(half, linear)) / 2
    near = np.where(far == 0, 0.0, constant / np.where(far == 0, 1.0, far))
    roots = np.stack([x, np.where(under >= 0, far, x), np.where(under >= 0, near, x)])
    free = 1.0 - np.square(roots)
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.log(free) + (spread - 2 * cosine * roots) / free
    best = np.argmin(np.where(free > 0, cost, np.inf), axis=0)
    likeliest: NDArray[np.float64] = np.take_along_axis(roots, best[None], axis=0)[0]
    return likeliest
