"""What a difference of Gram entries can still tell: the one place where that is decided.

Error model. An entry K_ab = <a, b> accumulated in float64 is off by at most ENTRY_ACCURACY |a| |b|.
Accumulation over blocks stays one to two orders below that figure, so the model errs on the careful side. The
inner product of two differences, <a-c, b-d>, is a sum of four entries, so it is off by at most

    4 ENTRY_ACCURACY reach(a, c) reach(b, d),        reach(a, c) = max(|a|, |c|).

Divided by the lengths of the differences this is an absolute error of a cosine: 4 ENTRY_ACCURACY q_1 q_2 with
the *cancellation* q = reach / |difference|. If the lengths come out of the Gram too, their squares carry the
relative errors 4 ENTRY_ACCURACY q_1^2 and 4 ENTRY_ACCURACY q_2^2, half of which reaches the cosine; together
2 ENTRY_ACCURACY (q_1 + q_2)^2.

COSINE_TOLERANCE is a quarter of one step of a colour map with 256 colours over [0, 1]: what passes looks and
averages like the truth. With both figures, cosines about a checkpoint are defined while the differences are
longer than about 9e-6 of the parameters (6e-6 where their lengths are known exactly).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmon_server.hallmarks.directions import defined_length

__all__ = ["COSINE_TOLERANCE", "ENTRY_ACCURACY", "above_resolution", "cancellation"]

ENTRY_ACCURACY = 1e-14
"""Largest error of one Gram entry, relative to the product of the two lengths."""
COSINE_TOLERANCE = 1e-3
"""Largest error that a cosine out of subtracted entries may have; beyond, it is undefined."""


def cancellation(
    first_squared: ArrayLike, second_squared: ArrayLike, difference_squared: ArrayLike
) -> NDArray[np.float64]:
    """How many times longer than their difference the longer of two vectors is.

    NaN if the difference has no direction.
    """
    reach = np.sqrt(np.maximum(np.asarray(first_squared), np.asarray(second_squared)))
    ratio: NDArray[np.float64] = reach / defined_length(difference_squared)
    return ratio


def above_resolution(
    first: ArrayLike, second: ArrayLike, *, lengths_exact: bool = False
) -> NDArray[np.bool_] | np.bool_:
    """Decide whether a cosine of two differences, its inner product taken from the Gram, is worth its name.

    `first` and `second` are the differences' :func:`cancellation`; `lengths_exact` says that the lengths it
    is divided by were not subtracted from Gram entries. False where a cancellation is NaN. For a squared
    length out of the Gram, both are its own cancellation and the answer bounds its relative error by the same
    tolerance.

    >>> bool(above_resolution(1e3, 1e3)), bool(above_resolution(1e6, 1e6))
    (True, False)
    """
    one, other = np.asarray(first), np.asarray(second)
    error = 4 * one * other if lengths_exact else 2 * np.square(one + other)
    decision: NDArray[np.bool_] | np.bool_ = error <= COSINE_TOLERANCE / ENTRY_ACCURACY
    return decision
