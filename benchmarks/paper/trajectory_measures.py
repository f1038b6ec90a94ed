"""Measures of a recorded run that follow from its Gram and are no hallmarks of the server. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "angle_between", "angles_at", "directedness", "first_from", "origin_angles"]

Floats = NDArray[np.float64]


def angles_at(gram: Floats, spacing: int) -> Floats:
    """Angles between successive updates over so many checkpoints each, degrees: [T // spacing - 2] or so.

    Updates here are far larger than what differences of Gram entries lose.

    >>> line = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    >>> angles_at(line @ line.T, 1).round(6).tolist()
    [0.0, 90.0]
    """
    kept = np.arange(0, len(gram), spacing)
    chosen = gram[np.ix_(kept, kept)]
    dots = np.diff(np.diff(chosen, axis=0), axis=1)
    lengths = np.sqrt(np.diagonal(dots))
    angles: Floats = angle_between(np.diagonal(dots, 1), lengths[1:] * lengths[:-1])
    return angles


def angle_between(dots: Floats, lengths: Floats) -> Floats:
    """Degrees, from inner products and products of lengths."""
    degrees: Floats = np.degrees(np.arccos(np.clip(dots / lengths, -1.0, 1.0)))
    return degrees


def origin_angles(gram: Floats, to: int = 0) -> Floats:
    """Angle at the origin between each checkpoint and one of them, degrees: [T]."""
    squares = np.diagonal(gram)
    return angle_between(gram[to], np.sqrt(squares * squares[to]))


def directedness(gram: Floats, first: int, last: int) -> float:
    """‖θ_last − θ_first‖² over the sum of the squared updates between them.

    1 for a random walk, whose updates are orthogonal on average; their number for a straight line; under 1 where
    updates undo each other.

    >>> back_and_forth = np.array([[0.0], [1.0], [0.0], [1.0]])
    >>> round(directedness(back_and_forth @ back_and_forth.T, 0, 3), 3)
    0.333
    """
    squares = np.diagonal(gram)[first : last + 1]
    steps = squares[1:] + squares[:-1] - 2 * np.diagonal(gram, 1)[first:last]
    net = gram[first, first] + gram[last, last] - 2 * gram[first, last]
    return float(net / steps.sum())


def first_from(reached: NDArray[np.bool_]) -> int | None:
    """The first position from which on all entries are true; None if the last one is not.

    >>> first_from(np.array([True, False, True, True]))
    2
    """
    if not reached[-1]:
        return None
    misses = np.flatnonzero(~reached)
    return int(misses[-1]) + 1 if len(misses) else 0
