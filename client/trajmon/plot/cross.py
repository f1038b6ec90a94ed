"""A map across two runs: as lines of terminal text, and as a figure beside curves over training."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from trajmon.cross.result import CrossResult
from trajmon.plot.colors import UNDEFINED_RGB, colormap
from trajmon.plot.cross_terminal import cross_scale
from trajmon.plot.figure import STYLE, printable

__all__ = ["cross_figure"]

_NAVY = "#174a85"
_UNDEFINED = "#" + bytes(UNDEFINED_RGB).hex()


def cross_figure(result: CrossResult) -> Figure:
    """The map beside three curves, 10.4 x 4.6 inches: cosine and distance at equal numbers, distance to the nearest."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
        left, right = halves
        _draw_map(left.add_subplot(), result)
        axes = right.subplots(3, 1, sharex=True)
        rows, columns = result.same_number()
        numbers, nearest = result.checkpoint[rows], result.nearest()
        cosine, cosine_error = (array[rows, columns] for array in (result.map, result.error))
        distance, distance_error = (
            array[rows, columns] for array in (result.distance, result.distance_error)
        )
        _draw_curve(axes[0], "cosine at equal checkpoint number", numbers, cosine, cosine_error)
        _draw_curve(axes[1], "distance at equal checkpoint number", numbers, distance, distance_error)
        title = f"distance to the nearest checkpoint of {_short(result.other)}"
        _draw_curve(axes[2], title, result.checkpoint, nearest.distance, nearest.error)
        axes[2].set_xlabel(f"checkpoint of {_short(result.run)}", parse_math=False)
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 34 else name[:33] + "…"


def _draw_map(axis: Axes, result: CrossResult) -> None:
    about = ", from the initializations" if result.from_initialization else ""
    title = f"{_short(result.run)} and {_short(result.other)}\n{printable(result.scope)}{about}"
    axis.set_title(title, parse_math=False, fontsize=8, loc="left")
    axis.grid(False)
    axis.set_ylabel(f"checkpoint of {_short(result.run)}", parse_math=False)
    axis.set_xlabel(f"checkpoint of {_short(result.other)}", parse_math=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    scale = cross_scale(result.map)
    # All entries may be equal; a colour bar still needs two ends.
    low = scale.low if scale.low < scale.high else scale.high - 1e-3
    image = axis.imshow(
        np.ma.masked_invalid(result.map),
        cmap=ListedColormap(colormap() / 255.0).with_extremes(bad=_UNDEFINED),
        norm=Normalize(low, scale.high),
        interpolation="nearest",
        aspect="auto",
    )
    for direction, numbers in ((axis.yaxis, result.checkpoint), (axis.xaxis, result.other_checkpoint)):
        direction.set_major_locator(MaxNLocator(nbins=7, steps=(1, 2, 5, 10), integer=True))
        direction.set_major_formatter(FuncFormatter(_Names(numbers)))
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03, label="cosine similarity")
    bar.outline.set_linewidth(0.6)
    if np.isnan(result.map).any():
        handles = [Patch(color=_UNDEFINED, label="undefined")]
        axis.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, -0.08), handlelength=1.0)


class _Names:
    """The number of the checkpoint at a place of an axis."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self._numbers = numbers

    def __call__(self, x: float, _: int | None = None) -> str:
        return str(self._numbers[round(x)]) if -0.5 < x < len(self._numbers) - 0.5 else ""


def _draw_curve(
    axis: Axes,
    title: str,
    x: NDArray[np.int64],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> None:
    """A curve with a band of one standard error each way."""
    axis.set_title(title, loc="left", fontsize=8, parse_math=False)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if not np.isfinite(values).any():
        axis.text(0.5, 0.5, "undefined", transform=axis.transAxes, ha="center", va="center")
        axis.set_yticks([])
        return
    # A point between two gaps has no line: a marker keeps it visible.
    axis.plot(x, values, color=_NAVY, marker="o" if len(x) <= 30 else None, markersize=2.5)
    axis.fill_between(x, values - errors, values + errors, color=_NAVY, alpha=0.2, lw=0)
