"""A trajectory map as lines of terminal text: half blocks in colour, shades in plain ASCII."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB, Scale, to_rgb
from trajmon.plot.modes import norm_only_spans, span_words, switch_positions

__all__ = ["SHADES", "count_undefined", "legend", "map_lines", "modes_line", "resample", "ticks"]

SHADES = ".:-=+*%#@"
"""Pale to dark, for terminals without colour."""
UNDEFINED_SHADE = "?"
_SWITCH_STYLE = Style(color=Color.from_rgb(*SWITCH_RGB))


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
    entries: NDArray[np.float64],
    checkpoint: NDArray[np.int64],
    scale: Scale,
    side: int,
    color: bool,
    mode: NDArray[np.uint8] | None = None,
) -> list[Text]:
    """The map with its axes, [T, T] and [T], at most `side` pixels each way.

    Where `mode`, [T], changes, thin lines cross the map, and a bar under it spans norm-only training. A line of
    text is `side` cells wide plus the width of the labels (at most that of the largest number, plus 3).
    """
    picture = resample(entries, side)
    k = len(picture.pixels)
    margin = max((len(str(number)) for number in checkpoint), default=1) + 1
    switches = [] if mode is None else [int(picture.edges[i]) for i in switch_positions(mode)]
    rows = (
        _half_blocks(picture.pixels, scale, switches) if color else _shades(picture.pixels, scale, switches)
    )
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
    if mode is not None and norm_only_spans(mode):
        lines.append(Text(" " * (margin + 1)).append_text(_bar(picture.edges, mode, k, color)))
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


def _bar(edges: NDArray[np.float64], mode: NDArray[np.uint8], width: int, color: bool) -> Text:
    covered = np.zeros(width, dtype=bool)
    for span in norm_only_spans(mode):
        # Never less than one sign, however many checkpoints share it.
        covered[int(edges[span.start]) : int(np.ceil(edges[span.stop]))] = True
    signs = "".join(_bar_sign(color) if cell else " " for cell in covered)
    return Text(signs.rstrip(), _SWITCH_STYLE if color else "")


def _bar_sign(color: bool) -> str:
    return "▀" if color else "="


def modes_line(mode: NDArray[np.uint8], checkpoint: NDArray[np.int64], color: bool) -> Text | None:
    """What the bar under a map means, for [T] modes and numbers; None without norm-only training."""
    spans = norm_only_spans(mode)
    if not spans:
        return None
    sign = (_bar_sign(color) * 2, _SWITCH_STYLE if color else "")
    return Text.assemble(sign, f" norm-only training: {span_words(spans, checkpoint)}")


def _half_blocks(pixels: NDArray[np.float64], scale: Scale, switches: list[int]) -> list[Text]:
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
                line.append(sign, _SWITCH_STYLE + Style(bgcolor=_rich(cell.mean(axis=0))))
                continue
            lower = _rich(cell[1]) if len(cell) > 1 else None
            line.append("▀", Style(color=_rich(cell[0]), bgcolor=lower))
        lines.append(line)
    return lines


def _shades(pixels: NDArray[np.float64], scale: Scale, switches: list[int]) -> list[Text]:
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


def _rich(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> Color:
    return Color.from_rgb(int(rgb[0]), int(rgb[1]), int(rgb[2]))
