"""A map across two runs as lines of terminal text: half blocks in colour, shades in plain ASCII."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from trajmon.plot.colors import Scale, to_rgb
from trajmon.plot.terminal import SHADES, UNDEFINED_SHADE, ticks

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
    starts = [_starts(count, max(1, round(count * side / longest))) for count in entries.shape]
    defined = ~np.isnan(entries)
    sums = _block_sums(np.where(defined, entries, 0.0), starts)
    counts = _block_sums(defined.astype(np.float64), starts)
    sizes = _block_sums(np.ones_like(entries), starts)
    pixels = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=pixels, where=2 * counts > sizes)
    return pixels


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
    lines = []
    for index, line in enumerate(_half_blocks(pixels, scale) if color else _shades(pixels, scale)):
        label = labels.get(index, "")
        mark = " " if not label else "╴" if color else "-"
        lines.append(Text.assemble((label.rjust(margin), "dim"), mark, line))
    lines.append(Text(" " * (margin + 1) + _labels_across(columns, width), style="dim"))
    return lines


def _starts(count: int, pixels: int) -> NDArray[np.intp]:
    return np.arange(pixels) * count // pixels


def _block_sums(array: NDArray[np.float64], starts: list[NDArray[np.intp]]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(array, starts[0], axis=0), starts[1], axis=1)
    return sums


def _labels_across(numbers: NDArray[np.int64], width: int) -> str:
    room = max(len(str(number)) for number in numbers) + 4
    line = ""
    for place in ticks(len(numbers), max(1, width // room)):
        label = str(numbers[place])
        start = max(0, int((place + 0.5) * width / len(numbers)) - (len(label) - 1) // 2)
        start = max(0, min(start, width - len(label)))
        if not line or start > len(line):
            line = line.ljust(start) + label
    return line


def _half_blocks(pixels: NDArray[np.float64], scale: Scale) -> list[Text]:
    """Two pixels in each cell: the upper one is the colour of the sign, the lower one its background."""
    colors = to_rgb(pixels, scale)
    lines = []
    for top in range(0, len(colors), 2):
        line = Text()
        for column in range(colors.shape[1]):
            cell = colors[top : top + 2, column]
            lower = _rich(cell[1]) if len(cell) > 1 else None
            line.append("▀", Style(color=_rich(cell[0]), bgcolor=lower))
        lines.append(line)
    return lines


def _shades(pixels: NDArray[np.float64], scale: Scale) -> list[Text]:
    """One sign for two pixels above each other, the mean of the defined ones."""
    lines = []
    for top in range(0, len(pixels), 2):
        fraction = scale.fraction(pixels[top : top + 2])
        defined = ~np.isnan(fraction)
        count = defined.sum(axis=0)
        mean = np.where(defined, fraction, 0.0).sum(axis=0) / np.maximum(count, 1)
        index = np.minimum((mean * len(SHADES)).astype(int), len(SHADES) - 1)
        signs = [SHADES[i] if n else UNDEFINED_SHADE for i, n in zip(index, count, strict=True)]
        lines.append(Text("".join(signs)))
    return lines


def _rich(rgb: NDArray[np.uint8]) -> Color:
    return Color.from_rgb(int(rgb[0]), int(rgb[1]), int(rgb[2]))
