"""A run as a figure for paper and screen: the trajectory map, alone or beside the curves of the hallmarks."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB, Scale, colormap
from trajmon.plot.curves import number_with_error
from trajmon.plot.modes import norm_only_spans, span_words, switch_positions

__all__ = ["STYLE", "Picture", "map_figure", "overview_figure", "printable"]

# The stubs know every key of matplotlib's settings; a plain dict of them needs Any.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e7ec",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
}
"""Of every figure that the program draws."""
_NAVY, _SKY, _RUST = "#174a85", "#3f9bd8", "#c4622d"
_UNDEFINED = "#" + bytes(UNDEFINED_RGB).hex()
_SWITCH = "#" + bytes(SWITCH_RGB).hex()
_SHADE = (_SWITCH, 0.1)

# Title, then curves: hallmark, label, colour. A panel without a defined value says so.
_PANELS = (
    ("mean directional similarity", (("mds", "MDS", _NAVY), ("relative_mds", "relative MDS", _SKY))),
    ("update angle (degrees)", (("update_angle_degrees", "between updates", _NAVY),)),
    (
        "apex angles (degrees)",
        (
            ("apex_angle_initialization_degrees", "at initialization", _NAVY),
            ("apex_angle_origin_degrees", "at origin", _SKY),
        ),
    ),
    (
        "norms",
        (
            ("parameter_norm", r"$\|\theta_t\|$", _NAVY),
            ("distance_from_initialization", r"$\|\theta_t-\theta_0\|$", _SKY),
            ("update_norm", r"$\|\theta_t-\theta_{t-1}\|$", _RUST),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a figure shows of one run."""

    title: str
    """Run and scope; data from outside, shown letter by letter."""
    entries: NDArray[np.float64]
    """[T, T] map, NaN where undefined."""
    checkpoint: NDArray[np.int64]
    """[T]"""
    scale: Scale
    mean: float
    """Mean of the defined entries; NaN where there are none."""
    symbol: str = "ω"
    """What the mean is called: ω, or ω with the checkpoint that the map is relative to."""
    entry_name: str = "cosine similarity"
    """What an entry of the map is."""
    mode: NDArray[np.uint8] | None = None
    """[T] 1 where only the scalars of normalisation layers were trained; None: nowhere."""
    mean_error: float = 0.0
    """Standard error of `mean`; 0 where it is exact."""
    note: str = ""
    """What stands below the map."""


def map_figure(picture: Picture) -> Figure:
    """The map alone with its colour bar, 4.6 x 4 inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        _draw_map(figure.add_subplot(), picture)
    return figure


def overview_figure(picture: Picture, hallmarks: Mapping[str, NDArray[np.float64]]) -> Figure:
    """The map beside four panels of curves, 10.8 x 4.6 inches.

    `hallmarks` are [T'] each, `checkpoint` among them; by `mode`, norm-only training is shaded.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.8, 4.6), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.08, 1.0))
        _draw_map(halves[0].add_subplot(), picture)
        axes = halves[1].subplots(2, 2, sharex=True)
        x = hallmarks["checkpoint"]
        mode = hallmarks.get("mode", np.zeros(len(x))).astype(np.uint8)
        for axis, (title, curves) in zip(axes.flat, _PANELS, strict=True):
            _draw_curves(
                axis, title, x, [(hallmarks.get(name), label, color) for name, label, color in curves]
            )
            _shade_norm_only(axis, x, mode)
        for axis in axes[1]:
            axis.set_xlabel("checkpoint")
        if norm_only_spans(mode):
            halves[1].legend(
                handles=[Patch(facecolor=_SHADE, edgecolor=_SWITCH, label="norm-only training")],
                loc="outside lower center",
                handlelength=1.0,
            )
    return figure


def printable(text: str) -> str:
    """A text from outside as the figure's font can show it: ``□`` for control characters and unknown signs.

    >>> printable("run\\x1b[31m")
    'run□[31m'
    """
    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    return "".join("□" if unicodedata.category(a)[0] == "C" or ord(a) not in known else a for a in text)


def _draw_map(axis: Axes, picture: Picture) -> None:
    t = len(picture.entries)
    mean = "undefined" if np.isnan(picture.mean) else f"{picture.mean:.3f}"
    if picture.mean_error > 0:
        mean = number_with_error(picture.mean, picture.mean_error)
    title = f"{printable(picture.title)}   {picture.symbol} = {mean}"
    axis.set_title(title, parse_math=False, fontsize=10 if len(title) < 60 else 7, loc="left")
    axis.grid(False)
    axis.set(xlabel="checkpoint", ylabel="checkpoint")
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    if t == 0:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "no checkpoints", transform=axis.transAxes, ha="center", color="#5b6672")
        return
    palette = ListedColormap(colormap() / 255.0).with_extremes(bad=_UNDEFINED)
    low, high = picture.scale.low, picture.scale.high
    if high <= low:
        # All entries are equal; the colour bar still needs two ends.
        low = high - 1e-3 * max(1.0, abs(high))
    image = axis.imshow(
        np.ma.masked_invalid(picture.entries),
        cmap=palette,
        norm=Normalize(low, high),
        interpolation="nearest",
    )
    names = FuncFormatter(lambda x, _: str(picture.checkpoint[round(x)]) if -0.5 < x < t - 0.5 else "")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(MaxNLocator(nbins=7, integer=True))
        direction.set_major_formatter(names)
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03, label=picture.entry_name)
    bar.outline.set_linewidth(0.6)
    if np.isnan(picture.entries).any():
        axis.legend(
            handles=[Patch(color=_UNDEFINED, label="undefined")],
            loc="upper right",
            bbox_to_anchor=(1.0, -0.07),
            handlelength=1.0,
        )
    if picture.note:
        axis.set_xlabel(f"checkpoint\n{picture.note}")
    if picture.mode is not None and norm_only_spans(picture.mode):
        key = _draw_switches(axis, picture.mode, picture.checkpoint)
        axis.figure.legend(handles=[key], loc="outside lower center", handlelength=1.0)


def _draw_switches(axis: Axes, mode: NDArray[np.uint8], checkpoint: NDArray[np.int64]) -> Artist:
    """Lines through the map where training switched, a bar over it along norm-only training; returns their key."""
    for position in switch_positions(mode):
        for line in (axis.axvline, axis.axhline):
            line(position - 0.5, color=_SWITCH, linewidth=0.7)
    spans = norm_only_spans(mode)
    for span in spans:
        # On the frame, over its whole width: the bar never covers an entry.
        axis.plot(
            [span.start - 0.5, span.stop - 0.5],
            [1.008, 1.008],
            transform=axis.get_xaxis_transform(),
            color=_SWITCH,
            linewidth=2.5,
            solid_capstyle="butt",
            clip_on=False,
        )
    words = fill(f"norm-only training: {span_words(spans, checkpoint)}", 60)
    return Line2D([], [], color=_SWITCH, linewidth=2.5, solid_capstyle="butt", label=words)


def _shade_norm_only(axis: Axes, x: NDArray[np.float64], mode: NDArray[np.uint8]) -> None:
    for position in switch_positions(mode):
        axis.axvline((x[position - 1] + x[position]) / 2, color=_SWITCH, linewidth=0.7, zorder=1)
    left, right = axis.get_xlim()
    for span in norm_only_spans(mode):
        start = left if span.start == 0 else (x[span.start - 1] + x[span.start]) / 2
        stop = right if span.stop == len(x) else (x[span.stop - 1] + x[span.stop]) / 2
        axis.axvspan(start, stop, color=_SHADE, linewidth=0, zorder=0.5)


def _draw_curves(
    axis: Axes,
    title: str,
    x: NDArray[np.float64],
    curves: list[tuple[NDArray[np.float64] | None, str, str]],
) -> None:
    axis.set_title(title, loc="left", fontsize=9)
    shown = [(y, label, color) for y, label, color in curves if y is not None and np.isfinite(y).any()]
    for y, label, color in shown:
        # A point between two gaps has no line: a marker keeps it visible.
        axis.plot(x, y, color=color, label=label, marker="o" if len(x) <= 30 else None, markersize=2.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if len(x):
        margin = max(0.5, 0.02 * (x[-1] - x[0]))
        axis.set_xlim(x[0] - margin, x[-1] + margin)
    if not shown:
        axis.text(0.5, 0.5, "undefined", transform=axis.transAxes, ha="center", va="center", color="#5b6672")
        axis.set_yticks([])
    elif len(curves) == 2:
        axis.legend(loc="best", handlelength=1.2, borderaxespad=0.2)
    elif len(curves) > 2:
        # No corner is sure to be free: a row of its own above the curves.
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.2 * (high - low))
        axis.legend(
            loc="upper left", ncols=len(curves), handlelength=1.0, columnspacing=0.8, borderaxespad=0.1
        )
