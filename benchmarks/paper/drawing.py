"""Figures in the project's style and colours: maps side by side on one scale, and files that are small."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._files import write_whole
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from trajmon.plot.colors import UNDEFINED_RGB, Scale, choose_scale, colormap
from trajmon.plot.figure import STYLE

__all__ = ["COLORS", "STYLE", "draw_map", "draw_maps", "save_png", "scale_of"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#000000")
"""Of curves and bars: told apart with full colour vision or without (after Okabe and Ito, 2008)."""


def scale_of(maps: Sequence[ArrayLike]) -> Scale:
    """One scale for several maps: from the smallest entry of all to 1."""
    scales = [choose_scale(np.asarray(entries, dtype=np.float64)) for entries in maps]
    return Scale(min(scale.low for scale in scales), 1.0)


def draw_map(
    axis: Axes, entries: ArrayLike, scale: Scale, title: str = "", *, ticks: bool = True, first: int = 0
) -> AxesImage:
    """A trajectory map, [T, T], on an axis: the first checkpoint top left, as in the paper; sand where undefined.

    `first` is its number: 1 in a map about checkpoint 0, which has no row of its own.
    """
    palette = ListedColormap(colormap() / 255.0).with_extremes(bad="#" + bytes(UNDEFINED_RGB).hex())
    values: NDArray[np.float64] = np.asarray(entries, dtype=np.float64)
    image = axis.imshow(
        np.ma.masked_invalid(values),
        cmap=palette,
        norm=Normalize(scale.low, scale.high),
        interpolation="nearest",
        extent=(first - 0.5, first + len(values) - 0.5, first + len(values) - 0.5, first - 0.5),
    )
    axis.grid(False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    axis.set_title(title, loc="left", fontsize=8)
    if ticks:
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(MaxNLocator(nbins=4, steps=(1, 2, 5, 10), integer=True))
        axis.tick_params(labelsize=7)
    else:
        axis.set(xticks=[], yticks=[])
    return image


def draw_maps(
    path: Path,
    maps: Sequence[tuple[str, ArrayLike]],
    *,
    columns: int = 4,
    scale: Scale | None = None,
    size_inches: float = 2.1,
    ticks: bool = True,
    first: int = 0,
    label: str = "cosine similarity",
) -> None:
    """Write a PNG of titled maps in rows of so many, on one scale with one colour bar."""
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    common = scale or scale_of([entries for _, entries in maps])
    with rc_context(STYLE):
        figure = Figure(
            figsize=(size_inches * columns + 0.8, (size_inches + 0.25) * rows), layout="constrained"
        )
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(maps) :]:
            axis.set_axis_off()
        images = [
            draw_map(axis, entries, common, title, ticks=ticks, first=first)
            for axis, (title, entries) in zip(axes.flat, maps, strict=False)
        ]
        if ticks:
            for axis in axes[-1]:
                axis.set_xlabel("checkpoint", fontsize=8)
        bar = figure.colorbar(images[0], ax=axes, fraction=0.046 / columns, pad=0.02, label=label)
        bar.outline.set_linewidth(0.6)
        save_png(figure, path)


def save_png(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a figure with at most 256 colours, which is a third of the bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi)
    small = io.BytesIO()
    with Image.open(buffer) as image:
        # Without dithering: a map's squares stay of one colour.
        palette = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        palette.save(small, format="PNG", optimize=True)
    write_whole(path, small.getvalue())
