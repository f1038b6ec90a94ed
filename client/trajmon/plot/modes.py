"""Which checkpoints of a run were recorded in norm-only training, as spans and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NORM_ONLY", "Span", "norm_only_spans", "span_words", "switch_positions"]

NORM_ONLY = 1
"""In arrays of modes: only the scalars of normalisation layers are trained. Anything else: everything is."""


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring checkpoints in norm-only training, by their positions in the arrays."""

    start: int
    """Inclusive."""
    stop: int
    """Exclusive."""


def norm_only_spans(mode: NDArray[np.uint8]) -> list[Span]:
    """The spans of norm-only training among T checkpoints, [T], in order.

    >>> norm_only_spans(np.array([0, 1, 1, 0, 1], dtype=np.uint8))
    [Span(start=1, stop=3), Span(start=4, stop=5)]
    """
    inside = np.concatenate([[False], mode == NORM_ONLY, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1]).tolist()
    return [Span(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def switch_positions(mode: NDArray[np.uint8]) -> list[int]:
    """Positions of the checkpoints that are the first ones after a switch, to norm-only training or back.

    >>> switch_positions(np.array([1, 1, 0, 0, 1], dtype=np.uint8))
    [2, 4]
    """
    inside = mode == NORM_ONLY
    found: list[int] = (np.flatnonzero(inside[1:] != inside[:-1]) + 1).tolist()
    return found


def span_words(spans: list[Span], checkpoint: NDArray[np.int64], most: int = 3) -> str:
    """The last `most` spans (at least one is given) by the numbers of their checkpoints, [T]; earlier ones are counted.

    >>> span_words([Span(0, 1), Span(2, 4), Span(6, 8)], np.arange(8))
    'checkpoints 0, 2 to 3, 6 to 7'
    >>> span_words([Span(0, 1), Span(2, 4), Span(6, 8)], np.arange(8), most=1)
    'checkpoints 6 to 7, and 2 spans before'
    """
    words = []
    for span in spans[-most:]:
        first, last = int(checkpoint[span.start]), int(checkpoint[span.stop - 1])
        words.append(str(first) if first == last else f"{first} to {last}")
    before = len(spans) - len(words)
    if before:
        words.append(f"and {before} span{'s' if before > 1 else ''} before")
    return f"checkpoint{'' if words == [str(first)] else 's'} {', '.join(words)}"
