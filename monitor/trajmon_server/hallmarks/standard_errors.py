"""How the standard errors of estimated inner products reach what is made of them.

A standard error of 0 means exact. The errors of estimates share the signs of their sketches, and how they are
correlated is not known. So nothing here is divided by a root of a count, and errors of several entries add up as
they are: the standard error of a sum is never larger than the sum of the standard errors, whatever the correlations.
Beyond that it is the delta method, except for angles, which it fails near 0 and 180 degrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmon_server.hallmarks.directions import defined_length

__all__ = ["angle_error_degrees", "cosine_error", "known_beyond_error", "length_error", "telling"]

_NOTHING = np.finfo(np.float64).tiny


def known_beyond_error(error: ArrayLike, size: ArrayLike) -> NDArray[np.bool_] | np.bool_:
    """Decide whether an estimate says anything: exact, or its standard error is below `size`.

    `size` is the value itself for a squared length, of which neither root nor direction is known otherwise, and 1 for
    a cosine. Prevents noise from counting as a direction. Anything smaller is shown with its error.

    >>> known_beyond_error([0.0, 0.5, 2.0], [0.0, 1.0, 1.0]).tolist()
    [True, True, False]
    """
    errors = np.asarray(error)
    decision: NDArray[np.bool_] | np.bool_ = (errors == 0) | (errors < np.asarray(size))
    return decision


def telling(
    cosines: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and their standard errors, both NaN where an error of 1 says that nothing is known."""
    known = known_beyond_error(errors, 1.0)
    return np.where(known, cosines, np.nan), np.where(known & ~np.isnan(cosines), errors, np.nan)


def cosine_error(
    cosine: ArrayLike,
    dot_error: ArrayLike,
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
) -> NDArray[np.float64]:
    """Standard error of a cosine out of those of an inner product and of two squared lengths, at most.

    `first` and `second` are a squared length and its standard error.

    >>> cosine_error(0.5, 0.1, (1.0, 0.0), (4.0, 0.4)).round(3).item()
    0.075
    """
    one, other = defined_length(first[0]), defined_length(second[0])
    lengths = np.asarray(first[1]) / (2 * one * one) + np.asarray(second[1]) / (2 * other * other)
    error: NDArray[np.float64] = np.asarray(dot_error) / (one * other) + np.abs(cosine) * lengths
    return error


def length_error(squared: ArrayLike, squared_error: ArrayLike) -> NDArray[np.float64]:
    """Standard error of a length out of that of its square; 0 where the square is exact.

    >>> length_error([4.0, 0.0], [0.4, 0.0]).tolist()
    [0.1, 0.0]
    """
    errors = np.asarray(squared_error, dtype=np.float64)
    doubled = 2 * np.sqrt(np.where(errors > 0, squared, 1.0))
    return np.asarray(errors / doubled, dtype=np.float64)


def angle_error_degrees(angle_degrees: ArrayLike, cosine_error: ArrayLike) -> NDArray[np.float64]:
    """Standard error of an angle in degrees out of that of its cosine.

    Between the ends that is the cosine's error over the sine. Towards 0 and 180 degrees the sine vanishes; there
    it is how far the angle moves, or a little more, when the cosine moves by one standard error to the side where it
    moves more: from an angle of 0, arccos(1 - error). At most 180.

    >>> angle_error_degrees([90.0, 0.0], [np.deg2rad(1.0), 1 - np.cos(np.deg2rad(5.0))]).round(1).tolist()
    [1.0, 5.0]
    """
    half = np.deg2rad(np.asarray(angle_degrees, dtype=np.float64)) / 2
    sine, cosine = np.square(np.sin(half)), np.square(np.cos(half))
    step = np.asarray(cosine_error, dtype=np.float64) / 2
    # With y = sin²(angle/2), a step of y moves √y by step / (√y + √(y - step)): no difference of nearly equal roots.
    near = np.maximum(np.minimum(sine, cosine), step)
    roots = np.sqrt(near) + np.sqrt(near - step)
    moved = np.where(step > 0, 2 * step / np.where(roots > 0, roots, 1.0), 0.0)
    far = np.maximum(np.maximum(sine, cosine) - step, 0.0)
    error: NDArray[np.float64] = np.degrees(moved / np.sqrt(np.where(far > 0, far, _NOTHING)))
    return np.where(np.isnan(half + step), np.nan, np.minimum(error, 180.0))
