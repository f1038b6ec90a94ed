"""Several runs as one figure: their maps on one colour scale, their hallmarks as curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB, Scale, colormap
from trajmon.plot.curves import number_with_error
from trajmon.plot.figure import STYLE, Picture, printable
from trajmon.plot.modes import switch_positions

__all__ = ["Compared", "compare_figure"]

_UNDEFINED = "#" + bytes(UNDEFINED_RGB).hex()
_SWITCH = "#" + bytes(SWITCH_RGB).hex()
# Told apart with full colour vision or without (after Okabe and Ito, 2008, the yellow left out).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#000000")
_DASHES = ("-", "--", ":", "-.")
_PANELS = (
    ("mds", "mean directional similarity"),
    ("relative_mds", "relative MDS, about the initialization"),
    ("update_angle_degrees", "angle between updates (degrees)"),
    ("distance_from_initialization", r"distance from initialization $\|\theta_t-\theta_0\|$"),
)
_MAPS_IN_A_ROW = 4


@dataclass(frozen=True, slots=True)
class Compared:
    """One run among others."""

    picture: Picture
    """Its map; the scale in it is not used."""
    hallmarks: Mapping[str, NDArray[np.float64]]
    """[T'] each, `checkpoint` among them."""
    errors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """[T'] each, the standard errors of hallmarks that rest on estimates."""


def compare_figure(runs: Sequence[Compared], scale: Scale) -> Figure:
    """Maps in rows of up to four on one colour scale, each with its mean; below them four panels of curves."""
    rows = -(-len(runs) // _MAPS_IN_A_ROW)
    columns = -(-len(runs) // rows)
    width = max(7.2, 2.7 * columns + 0.9)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, 2.75 * rows + 3.0), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(2.75 * rows, 3.0))
        upper, lower = halves
        axes = upper.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(runs) :]:
            axis.set_axis_off()
        images = [_draw_map(axis, run, scale) for axis, run in zip(axes.flat, runs, strict=False)]
        _draw_key(upper, axes, images, runs)
        _draw_curves(lower, runs)
    return figure


def _draw_map(axis: Axes, run: Compared, scale: Scale) -> AxesImage:
    entries, checkpoint = run.picture.entries, run.picture.checkpoint
    axis.set_title(_title(run), parse_math=False, loc="left", fontsize=8)
    axis.grid(False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    low, high = scale.low, scale.high
    if high <= low:
        # All entries are equal; a colour bar still needs two ends.
        low = high - 1e-3 * max(1.0, abs(high))
    palette = ListedColormap(colormap() / 255.0).with_extremes(bad=_UNDEFINED)
    shown = entries if entries.size else np.full((1, 1), np.nan)
    image = axis.imshow(
        np.ma.masked_invalid(shown), cmap=palette, norm=Normalize(low, high), interpolation="nearest"
    )
    if not entries.size:
        axis.text(0.5, 0.5, "no checkpoints", transform=axis.transAxes, ha="center", va="center")
        axis.set(xticks=[], yticks=[])
        return image
    words = "checkpoint" + (f"\n{run.picture.note}" if run.picture.note else "")
    axis.set_xlabel(words, fontsize=8)
    t = len(entries)
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 5, 10), integer=True))
        direction.set_major_formatter(
            FuncFormatter(lambda x, _: str(checkpoint[round(x)]) if -0.5 < x < t - 0.5 else "")
        )
    for position in switch_positions(run.picture.mode) if run.picture.mode is not None else []:
        for line in (axis.axvline, axis.axhline):
            line(position - 0.5, color=_SWITCH, linewidth=0.7)
    return image


def _title(run: Compared) -> str:
    """Two lines: the run, and the mean of its map."""
    picture = run.picture
    mean = "undefined" if np.isnan(picture.mean) else f"{picture.mean:.3f}"
    if picture.mean_error > 0:
        mean = number_with_error(picture.mean, picture.mean_error)
    name = printable(picture.title)
    return f"{name if len(name) <= 34 else name[:33] + '…'}\n{picture.symbol} = {mean}"


def _draw_key(figure: Any, axes: Any, images: Sequence[AxesImage], runs: Sequence[Compared]) -> None:
    # A column of maps beside each other has one bar: equal colours mean equal entries.
    bar = figure.colorbar(
        images[0], ax=axes, fraction=0.046 / axes.shape[1], pad=0.02, label=runs[0].picture.entry_name
    )
    bar.outline.set_linewidth(0.6)
    handles = []
    if any(np.isnan(run.picture.entries).any() for run in runs):
        handles.append(Patch(color=_UNDEFINED, label="undefined"))
    if any(run.picture.mode is not None and switch_positions(run.picture.mode) for run in runs):
        handles.append(Patch(color=_SWITCH, label="switch to norm-only training or back"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=2, handlelength=1.0)


def _draw_curves(figure: Any, runs: Sequence[Compared]) -> None:
    lines: list[Any] = []
    for axis, (name, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        axis.set_title(title, loc="left", fontsize=7)
        axis.set_xlabel("checkpoint", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=(1, 2, 5, 10), integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
        drawn = []
        for number, run in enumerate(runs):
            values = run.hallmarks.get(name)
            if values is None or not np.isfinite(values).any():
                continue
            x = run.hallmarks["checkpoint"]
            style: dict[str, Any] = {
                "color": _COLORS[number % len(_COLORS)],
                "linestyle": _DASHES[number // len(_COLORS) % len(_DASHES)],
                "linewidth": 1.2,
            }
            # A point between two gaps has no line: a marker keeps it visible.
            marker = "o" if len(x) <= 30 else None
            (line,) = axis.plot(x, values, marker=marker, markersize=2, **style)
            line.set_label(_name_in_legend(run))
            error = run.errors.get(name)
            if error is not None:
                axis.fill_between(x, values - error, values + error, color=style["color"], alpha=0.2, lw=0)
            drawn.append(line)
        lines = max(lines, drawn, key=len)
        if not drawn:
            axis.text(0.5, 0.5, "undefined", transform=axis.transAxes, ha="center", va="center")
            axis.set_yticks([])
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=min(4, len(lines)), fontsize=7)


def _name_in_legend(run: Compared) -> str:
    # A leading underscore would hide the entry, and dollars would be read as mathematics.
    name = printable(run.picture.title).replace("$", r"\$")
    return f"\u200b{name}" if name.startswith("_") else name
