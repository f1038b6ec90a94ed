"""A trajectory map as lines of terminal text: half blocks in colour, shades in plain ASCII."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from trajmon.plot.colors import UNDEFINED_RGB, Scale, to_rgb

__all__ = ["SHADES", "count_undefined", "legend", "map_lines", "resample", "ticks"]

SHADES = ".:-=+*%#@"
"""Pale to dark, for terminals without colour."""
UNDEFINED_SHADE = "?"


@dataclass(frozen=True, slots=True)
class Resampled:
    """A square array of pixels made of a map."""

    pixels: NDArray[np.float64]
    """[k, k], NaN where at least half of a pixel's entries are undefined."""
    edges: NDArray[np.float64]
    """[T + 1], where in the pixels each checkpoint begins and ends."""


def resample(entries: NDArray[np.float64], side: int) -> Resampled:
    """Fit a map, [T, T], into at most `side` pixels each way.

    A small map is enlarged by a whole factor, so that every checkpoint is equally large; a large one is
    averaged over blocks, undefined entries left out.
    """
    t = len(entries)
    if t == 0:
        return Resampled(np.empty((0, 0)), np.zeros(1))
    if t <= side:
        factor = side // t
        return Resampled(
            entries.repeat(factor, axis=0).repeat(factor, axis=1), np.arange(t + 1, dtype=np.float64) * factor
        )
    starts = np.arange(side) * t // side
    defined = ~np.isnan(entries)
    sums = _block_sums(np.where(defined, entries, 0.0), starts)
    counts = _block_sums(defined.astype(np.float64), starts)
    sizes = _block_sums(np.ones_like(entries), starts)
    pixels = np.full((side, side), np.nan)
    np.divide(sums, counts, out=pixels, where=2 * counts > sizes)
    return Resampled(pixels, np.arange(t + 1, dtype=np.float64) * side / t)


def _block_sums(array: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    by_row: NDArray[np.float64] = np.add.reduceat(array, starts, axis=0)
    sums: NDArray[np.float64] = np.add.reduceat(by_row, starts, axis=1)
    return sums


def count_undefined(entries: NDArray[np.float64]) -> int:
    """How many checkpoints of a map, [T, T], have no defined direction at all."""
    return int(np.isnan(entries).all(axis=1).sum())


def ticks(count: int, most: int) -> list[int]:
    """Positions for axis labels: at most `most`, at 0 and round distances.

    >>> ticks(91, 6)
    [0, 20, 40, 60, 80]
    """
    step = 1
    while count > step * most:
        # 1, 2, 5, 10, 20, 50, ...
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, count, step))


def map_lines(
    entries: NDArray[np.float64], checkpoint: NDArray[np.int64], scale: Scale, side: int, color: bool
) -> list[Text]:
    """The map with its axes, [T, T] and [T], at most `side` pixels each way.

    A line is `side` cells wide plus the width of the labels (at most that of the largest number, plus 3).
    """
    picture = resample(entries, side)
    k = len(picture.pixels)
    margin = max((len(str(number)) for number in checkpoint), default=1) + 1
    rows = _half_blocks(picture.pixels, scale) if color else _shades(picture.pixels, scale)
    centres = (picture.edges[:-1] + picture.edges[1:]) / 2
    labels = {
        int(centres[i]) // 2: str(checkpoint[i]) for i in ticks(len(checkpoint), int(np.clip(k // 4, 2, 8)))
    }
    lines = []
    for index, row in enumerate(rows):
        label = labels.get(index, "")
        lines.append(
            Text.assemble(
                (label.rjust(margin), "dim"), (" " if not label else "-" if not color else "╴"), row
            )
        )
    lines.append(Text(" " * (margin + 1) + _bottom_labels(centres, checkpoint, k), style="dim"))
    lines.append(Text(" " * (margin + 1) + "checkpoint".center(max(k, 10)).rstrip(), style="dim"))
    return lines


def _bottom_labels(centres: NDArray[np.float64], checkpoint: NDArray[np.int64], width: int) -> str:
    line = ""
    room = max((len(str(number)) for number in checkpoint), default=1) + 4
    for i in ticks(len(checkpoint), max(2, width // room)):
        label = str(checkpoint[i])
        start = max(0, int(centres[i]) - (len(label) - 1) // 2)
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
            upper = _rich(colors[top, column])
            lower = _rich(colors[top + 1, column]) if top + 1 < len(colors) else None
            line.append("▀", Style(color=upper, bgcolor=lower))
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
        lines.append(
            Text("".join(SHADES[i] if n else UNDEFINED_SHADE for i, n in zip(index, count, strict=True)))
        )
    return lines


def legend(entries: NDArray[np.float64], scale: Scale, color: bool, name: str = "cosine") -> Text:
    """What the colours mean: the scale with its ends, and undefined if the map has any."""
    low, high = scale.label(scale.low), scale.label(scale.high)
    if color:
        ramp = Text.assemble(
            *(("█", Style(color=_rich(rgb))) for rgb in to_rgb(np.linspace(scale.low, scale.high, 16), scale))
        )
        undefined = Text("█", Style(color=Color.from_rgb(*UNDEFINED_RGB)))
    else:
        ramp, undefined = Text(SHADES), Text(UNDEFINED_SHADE)
    line = Text.assemble(name, " ", low, " ", ramp, " ", high)
    if np.isnan(entries).any():
        line.append("   ").append_text(undefined)
        wholly = count_undefined(entries)
        line.append(f" undefined ({wholly} of {len(entries)} checkpoints)" if wholly else " undefined")
    return line


def _rich(rgb: NDArray[np.uint8]) -> Color:
    return Color.from_rgb(int(rgb[0]), int(rgb[1]), int(rgb[2]))
