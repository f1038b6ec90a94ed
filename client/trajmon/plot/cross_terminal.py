"""A map across two runs as lines of terminal text: half blocks in colour, shades in plain ASCII."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from trajmon.plot.blocks import beside, block_means, labels_across, pixel_lines, ticks
from trajmon.plot.colors import Scale

__all__ = ["cross_lines", "cross_scale", "fit"]


_MOST_ENLARGED = 8


def cross_scale(entries: NDArray[np.float64]) -> Scale:
    """From the least entry of a map, [T, U], to 1; from 0 if none is defined.

    >>> cross_scale(np.array([[0.25, np.nan]]))
    Scale(low=0.25, high=1.0)
    """
    defined = entries[np.isfinite(entries)]
    return Scale(float(defined.min()) if defined.size else 0.0, 1.0)


def fit(entries: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A map, [T, U], as pixels: the longer axis takes up to `side` of them, the other in proportion.

    Enlarged by one whole factor, or averaged over blocks with undefined entries left out; NaN where at least half of
    a pixel's entries are undefined.
    """
    longest = max(entries.shape)
    if longest <= side:
        factor = min(side // longest, _MOST_ENLARGED)
        return entries.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, round(count * side / longest)) for count in entries.shape)
    return block_means(entries, (height, width))


def cross_lines(
    entries: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    scale: Scale,
    side: int,
    color: bool,
) -> list[Text]:
    """A map, [T, U], with the numbers of its checkpoints, [T] downwards and [U] across.

    A line is at most `side` cells wide plus the labels: the longest number of `rows` and 2 more.
    """
    pixels = fit(entries, side)
    height, width = pixels.shape
    margin = max(len(str(number)) for number in rows) + 1
    labels = {
        int((place + 0.5) * height / len(rows)) // 2: str(rows[place])
        for place in reversed(ticks(len(rows), int(np.clip(height // 4, 1, 8))))
    }
    lines = beside(pixel_lines(pixels, scale, color), labels, margin, color)
    centres = (np.arange(len(columns)) + 0.5) * width / len(columns)
    lines.append(Text(" " * (margin + 1) + labels_across(centres, columns, width), style="dim"))
    return lines
