"""Pixels as lines of terminal text, and the labels beside them: what maps of one run and of two have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from trajmon.plot.colors import SWITCH_RGB, Scale, to_rgb

__all__ = [
    "SHADES",
    "SWITCH_STYLE",
    "UNDEFINED_SHADE",
    "beside",
    "block_means",
    "labels_across",
    "pixel_lines",
    "rich_color",
    "ticks",
]

SHADES = ".:-=+*%#@"
"""Pale to dark, for terminals without colour."""
UNDEFINED_SHADE = "?"
SWITCH_STYLE = Style(color=Color.from_rgb(*SWITCH_RGB))


def block_means(entries: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """A map, [T, U], averaged over blocks into `shape`, no more each way; undefined entries are left out.

    NaN where at least half of a block's entries are undefined.
    """
    starts = [np.arange(pixels) * count // pixels for count, pixels in zip(entries.shape, shape, strict=True)]

    def sums(array: NDArray[np.float64]) -> NDArray[np.float64]:
        by_row: NDArray[np.float64] = np.add.reduceat(array, starts[0], axis=0)
        by_both: NDArray[np.float64] = np.add.reduceat(by_row, starts[1], axis=1)
        return by_both

    defined = ~np.isnan(entries)
    counts, sizes = sums(defined.astype(np.float64)), sums(np.ones_like(entries))
    means = np.full(shape, np.nan)
    np.divide(sums(np.where(defined, entries, 0.0)), counts, out=means, where=2 * counts > sizes)
    return means


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


def pixel_lines(
    pixels: NDArray[np.float64], scale: Scale, color: bool, switches: Collection[int] = ()
) -> list[Text]:
    """Two pixels, [H, W], above each other in a sign; `switches` are the pixels that a change of mode goes through."""
    return _half_blocks(pixels, scale, switches) if color else _shades(pixels, scale, switches)


def _half_blocks(pixels: NDArray[np.float64], scale: Scale, switches: Collection[int]) -> list[Text]:
    """Two pixels in each cell: the upper one is the colour of the sign, the lower one its background.

    A cell that a switch goes through has the mean of the two behind a thin line.
    """
    colors = to_rgb(pixels, scale)
    # By line of text: the sign of a switch above the cell's pixels, or between the two.
    across = {pixel // 2: "─" if pixel % 2 else "▔" for pixel in switches}
    lines = []
    for top in range(0, len(colors), 2):
        line = Text()
        for column in range(colors.shape[1]):
            cell = colors[top : top + 2, column]
            if column in switches or top // 2 in across:
                sign = "▏" if column in switches else across[top // 2]
                line.append(sign, SWITCH_STYLE + Style(bgcolor=rich_color(cell.mean(axis=0))))
                continue
            lower = rich_color(cell[1]) if len(cell) > 1 else None
            line.append("▀", Style(color=rich_color(cell[0]), bgcolor=lower))
        lines.append(line)
    return lines


def _shades(pixels: NDArray[np.float64], scale: Scale, switches: Collection[int]) -> list[Text]:
    """One sign for two pixels above each other, the mean of the defined ones.

    A switch is a line downwards and none across: what it covers still stands at its mirror image.
    """
    lines = []
    for top in range(0, len(pixels), 2):
        fraction = scale.fraction(pixels[top : top + 2])
        defined = ~np.isnan(fraction)
        count = defined.sum(axis=0)
        mean = np.where(defined, fraction, 0.0).sum(axis=0) / np.maximum(count, 1)
        index = np.minimum((mean * len(SHADES)).astype(int), len(SHADES) - 1)
        signs = [SHADES[i] if n else UNDEFINED_SHADE for i, n in zip(index, count, strict=True)]
        for column in switches:
            signs[column] = "|"
        lines.append(Text("".join(signs)))
    return lines


def beside(lines: Collection[Text], labels: Mapping[int, str], margin: int, color: bool) -> list[Text]:
    """The lines, behind a margin with the labels of some of them, by index, and a mark at each."""
    labelled = []
    for index, line in enumerate(lines):
        label = labels.get(index, "")
        mark = " " if not label else "╴" if color else "-"
        labelled.append(Text.assemble((label.rjust(margin), "dim"), mark, line))
    return labelled


def labels_across(
    centres: NDArray[np.float64], numbers: NDArray[np.int64], width: int, overhang: int = 0
) -> str:
    """Some of the numbers, [T], in one line below their centres, as many as find room in `width` signs.

    The last one may be `overhang` signs longer; beyond that it is moved to the left.
    """
    line = ""
    room = max((len(str(number)) for number in numbers), default=1) + 4
    for place in ticks(len(numbers), max(2, width // room)):
        label = str(numbers[place])
        start = max(0, min(int(centres[place]) - (len(label) - 1) // 2, width + overhang - len(label)))
        if not line or start > len(line):
            line = line.ljust(start) + label
    return line


def rich_color(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> Color:
    """Of red, green and blue, [3], 0 to 255."""
    return Color.from_rgb(int(rgb[0]), int(rgb[1]), int(rgb[2]))
