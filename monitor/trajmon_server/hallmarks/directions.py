"""Lengths, cosines and angles out of inner products: the guards that every measure shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["angle_degrees", "clamp_cosine", "defined_length", "mean_of_defined", "triangle_angle_degrees"]


def defined_length(squared: ArrayLike) -> NDArray[np.float64]:
    """Length out of a squared length; NaN where there is no direction: zero, negative or not finite.

    Prevents a division by zero from turning a point without a direction into a cosine of 0, 1 or inf.
    Rounding may push a squared length that was obtained by subtraction below zero.

    >>> defined_length([4.0, 0.0, -1e-20, float("inf")]).tolist()
    [2.0, nan, nan, nan]
    """
    values = np.asarray(squared, dtype=np.float64)
    return np.sqrt(np.where((values > 0) & (values < np.inf), values, np.nan))


def clamp_cosine(cosine: ArrayLike) -> NDArray[np.float64]:
    """Cosine brought back into [-1, 1]; NaN stays NaN.

    Prevents a cosine of 1 + 2e-16, which rounding produces for parallel vectors, from leaving the range
    that readers and colour scales rely on.
    """
    clamped: NDArray[np.float64] = np.minimum(np.maximum(np.asarray(cosine, dtype=np.float64), -1.0), 1.0)
    return clamped


def angle_degrees(dot: ArrayLike, first_squared: ArrayLike, second_squared: ArrayLike) -> NDArray[np.float64]:
    """Angle between two vectors in degrees, from their inner product and squared lengths.

    Taken with atan2 of sine and cosine, both in units of the first vector's squared length. With products
    right to 2e-16 the angle is right to 1e-12 degrees between 1 and 179 degrees; towards 0 and 180 the
    sine is a difference of nearly equal numbers and the error grows to 1e-6 degrees. NaN if a vector
    has no direction.

    >>> angle_degrees([1.0, 0.0, -2.0], [1.0, 1.0, 1.0], [1.0, 3.0, 4.0]).tolist()
    [0.0, 90.0, 180.0]
    """
    first = np.asarray(first_squared, dtype=np.float64)
    first = np.where(first > 0, first, np.nan)
    cosine = np.asarray(dot, dtype=np.float64) / first
    length = defined_length(np.asarray(second_squared, dtype=np.float64) / first)
    sine_squared = np.maximum((length - cosine) * (length + cosine), 0.0)
    angle: NDArray[np.float64] = np.degrees(np.arctan2(np.sqrt(sine_squared), cosine))
    return angle


def triangle_angle_degrees(
    first_squared: ArrayLike, second_squared: ArrayLike, opposite_squared: ArrayLike
) -> NDArray[np.float64]:
    """Angle of a triangle in degrees, from the squares of its two legs and of the side opposite.

    The half-angle form keeps its digits for needle triangles: with an opposite side of 1e-7 of the legs,
    known to full accuracy, the angle is right to 1e-6 of itself, where the inner product of the legs has
    no digit left. The legs' difference is taken from their squares for the same reason. NaN if a leg is zero.

    >>> float(triangle_angle_degrees(9.0, 16.0, 25.0))
    90.0
    """
    first, second = defined_length(first_squared), defined_length(second_squared)
    gap = (np.asarray(first_squared) - np.asarray(second_squared)) / (first + second)
    opposite = np.asarray(opposite_squared, dtype=np.float64)
    near = np.maximum(opposite - np.square(gap), 0.0)
    far = np.maximum(np.square(first + second) - opposite, 0.0)
    angle: NDArray[np.float64] = np.degrees(2 * np.arctan2(np.sqrt(near), np.sqrt(far)))
    return angle


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Mean of the entries that are not NaN; NaN if there is none.

    Prevents an undefined entry from counting as 0, and an empty mean from raising a warning.
    """
    defined = ~np.isnan(values)
    count = np.count_nonzero(defined)
    return float(np.sum(values, where=defined) / count) if count else float("nan")
