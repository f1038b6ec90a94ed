"""A trajectory map as lines of terminal text: half blocks in colour, shades in plain ASCII."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from trajmon.plot.blocks import (
    SHADES,
    SWITCH_STYLE,
    UNDEFINED_SHADE,
    beside,
    block_means,
    labels_across,
    pixel_lines,
    rich_color,
    ticks,
)
from trajmon.plot.colors import UNDEFINED_RGB, Scale, to_rgb
from trajmon.plot.modes import norm_only_spans, span_words, switch_positions

__all__ = ["count_undefined", "legend", "map_lines", "modes_line", "resample"]


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
    pixels = block_means(entries, (side, side))
    return Resampled(pixels, np.arange(t + 1, dtype=np.float64) * side / t)


def count_undefined(entries: NDArray[np.float64]) -> int:
    """How many checkpoints of a map, [T, T], have no defined direction at all."""
    return int(np.isnan(entries).all(axis=1).sum())


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
    centres = (picture.edges[:-1] + picture.edges[1:]) / 2
    labels = {
        int(centres[i]) // 2: str(checkpoint[i]) for i in ticks(len(checkpoint), int(np.clip(k // 4, 2, 8)))
    }
    lines = beside(pixel_lines(picture.pixels, scale, color, switches), labels, margin, color)
    if mode is not None and norm_only_spans(mode):
        lines.append(Text(" " * (margin + 1)).append_text(_bar(picture.edges, mode, k, color)))
    lines.append(Text(" " * (margin + 1) + labels_across(centres, checkpoint, k, overhang=3), style="dim"))
    lines.append(Text(" " * (margin + 1) + "checkpoint".center(max(k, 10)).rstrip(), style="dim"))
    return lines


def _bar(edges: NDArray[np.float64], mode: NDArray[np.uint8], width: int, color: bool) -> Text:
    covered = np.zeros(width, dtype=bool)
    for span in norm_only_spans(mode):
        # Never less than one sign, however many checkpoints share it.
        covered[int(edges[span.start]) : int(np.ceil(edges[span.stop]))] = True
    signs = "".join(_bar_sign(color) if cell else " " for cell in covered)
    return Text(signs.rstrip(), SWITCH_STYLE if color else "")


def _bar_sign(color: bool) -> str:
    return "▀" if color else "="


def modes_line(mode: NDArray[np.uint8], checkpoint: NDArray[np.int64], color: bool) -> Text | None:
    """What the bar under a map means, for [T] modes and numbers; None without norm-only training."""
    spans = norm_only_spans(mode)
    if not spans:
        return None
    sign = (_bar_sign(color) * 2, SWITCH_STYLE if color else "")
    return Text.assemble(sign, f" norm-only training: {span_words(spans, checkpoint)}")


def legend(entries: NDArray[np.float64], scale: Scale, color: bool, name: str = "cosine") -> Text:
    """What the colours mean: the scale with its ends, and undefined if the map has any."""
    low, high = scale.label(scale.low), scale.label(scale.high)
    if color:
        ramp = Text.assemble(
            *(
                ("█", Style(color=rich_color(rgb)))
                for rgb in to_rgb(np.linspace(scale.low, scale.high, 16), scale)
            )
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
