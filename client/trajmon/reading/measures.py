"""Maps and hallmarks out of a Gram and its update products. Pure; docs/hallmarks.md has the formulas.

Who reads a data directory without a server gets these. What is undefined is NaN, and never part of a mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "angle_degrees",
    "origin_map",
    "relative_map",
    "roots",
    "running_mean",
    "triangle_degrees",
]

_ENTRY_ACCURACY = 1e-14
"""Largest error of a Gram entry in units of ‖a‖‖b‖; docs/hallmarks.md, "Undefined"."""
_COSINE_TOLERANCE = 1e-3
"""A cosine whose error could exceed this is undefined."""

Floats = NDArray[np.float64]


def roots(squares: Floats) -> Floats:
    """Square roots; NaN where the square is negative or not finite. A length of zero is a length."""
    return np.sqrt(np.where((squares >= 0) & np.isfinite(squares), squares, np.nan))


def _directed(squares: Floats) -> Floats:
    """Lengths of what has a direction: NaN for a length of zero, which would make a cosine of 0 / 0."""
    lengths = roots(squares)
    return np.where(lengths > 0, lengths, np.nan)


def _cosines(dots: Floats, lengths: Floats) -> Floats:
    """[T, T] within [-1, 1]; the diagonal is 1 where it is defined, whatever rounding says."""
    entries = np.clip(dots / lengths[:, None] / lengths[None, :], -1.0, 1.0)
    diagonal = np.arange(len(entries))
    entries[diagonal, diagonal] = np.where(np.isnan(entries[diagonal, diagonal]), np.nan, 1.0)
    return entries


def origin_map(gram: Floats) -> Floats:
    """Cosines about the origin: C, [T, T].

    >>> origin_map(np.array([[1.0, 1.0], [1.0, 4.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    return _cosines(gram, _directed(np.diagonal(gram)))


def relative_map(gram: Floats, tau: int, distance_squared: Floats | None = None) -> Floats:
    """Cosines about the checkpoint at position `tau`: [T - 1, T - 1], its own row left out.

    `distance_squared`, [T], are the recorded squared distances from it; without them they are subtracted from Gram
    entries. Entries under the resolution of the Gram are undefined.
    """
    others = np.delete(np.arange(len(gram)), tau)
    to_tau = gram[others, tau]
    dots = gram[np.ix_(others, others)] - to_tau[:, None] - to_tau[None, :] + gram[tau, tau]
    lengths = _directed(np.diagonal(dots) if distance_squared is None else distance_squared[others])
    reach = np.sqrt(np.maximum(np.diagonal(gram)[others], gram[tau, tau]))
    ratio = reach / lengths
    one, other = ratio[:, None], ratio[None, :]
    # Four entries make a dot; lengths out of the Gram bring an error of their own.
    error = _ENTRY_ACCURACY * (2 * (one + other) ** 2 if distance_squared is None else 4 * one * other)
    return np.where(error <= _COSINE_TOLERANCE, _cosines(dots, lengths), np.nan)


def running_mean(entries: Floats) -> Floats:
    """Mean of the defined entries of each leading block of a map, [T, T]: [T]. NaN where none is defined.

    >>> running_mean(np.array([[1.0, 0.5], [0.5, 1.0]])).tolist()
    [1.0, 0.75]
    """
    defined = ~np.isnan(entries)
    sums = _leading_sums(np.where(defined, entries, 0.0))
    counts = _leading_sums(defined.astype(np.float64))
    return sums / np.where(counts > 0, counts, np.nan)


def _leading_sums(square: Floats) -> Floats:
    """Sum of each leading block of a square array."""
    rows = np.tril(square).sum(axis=1)
    columns = np.triu(square, 1).sum(axis=0)
    return np.asarray(np.cumsum(rows + columns))


def angle_degrees(dot: Floats, first_squared: Floats, second_squared: Floats) -> Floats:
    """Angle between two vectors, from their inner product and squared lengths; NaN if one has no direction.

    Out of sine and cosine: the arc cosine alone would lose half of the digits near 0 and 180.
    """
    unit = np.where(first_squared > 0, first_squared, np.nan)
    # In units of the first vector: a vector is at exactly 0 degrees to itself.
    length, along = _directed(second_squared / unit), dot / unit
    across = np.sqrt(np.maximum((length - along) * (length + along), 0.0))
    return np.asarray(np.degrees(np.arctan2(across, along)))


def triangle_degrees(first_squared: Floats, second_squared: Floats, opposite_squared: Floats) -> Floats:
    """Angle between two sides of a triangle, from the squares of all three; NaN if one of the two is zero.

    By half angles, which keep the digits of a needle: of two vectors that differ by 1e-7, the cosine has none left.
    """
    first, second = _directed(first_squared), _directed(second_squared)
    gap = (first_squared - second_squared) / (first + second)
    near = np.maximum(opposite_squared - gap**2, 0.0)
    far = np.maximum((first + second) ** 2 - opposite_squared, 0.0)
    return np.asarray(np.degrees(2.0 * np.arctan2(np.sqrt(near), np.sqrt(far))))
