"""Figures of trainings on digits: maps beside a measure over a setting, and curves of hallmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paper.digits_sweep import Outcome
from benchmarks.paper.drawing import COLORS, STYLE, draw_map, draw_maps, save_png, scale_of
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

__all__ = ["draw_curves", "draw_row", "draw_sweep"]

_PANEL_INCHES = 2.1
_PANELS_IN_A_ROW = 5
_NAVY = "#174a85"


def draw_sweep(
    path: Path,
    outcomes: Sequence[Outcome],
    words: str,
    values: Sequence[float],
    *,
    logarithmic: bool = False,
) -> None:
    """A map of each setting's first seed on one scale; at their right MDS of all seeds against the setting's value."""
    maps = [outcome.maps[0] for outcome in outcomes]
    scale = scale_of(maps)
    panels = len(maps) + 1
    rows = 1 if panels <= _PANELS_IN_A_ROW else 2
    columns = -(-panels // rows)
    with rc_context(STYLE):
        figure = Figure(figsize=(_PANEL_INCHES * columns + 0.9, 2.6 * rows), layout="constrained")
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[panels:]:
            axis.set_axis_off()
        images = [
            draw_map(axis, entries, scale, f"{outcome.setting.label}\nω = {outcome.mds[0]:.3f}")
            for axis, entries, outcome in zip(axes.flat, maps, outcomes, strict=False)
        ]
        for axis in axes.flat[: len(maps)]:
            axis.set_xlabel("checkpoint", fontsize=8)
        # Beside the first column: the last panel has an axis of its own.
        bar = figure.colorbar(
            images[0], ax=axes[:, 0], location="left", fraction=0.08, pad=0.04, label="cosine similarity"
        )
        bar.outline.set_linewidth(0.6)
        _draw_means(axes.flat[len(maps)], outcomes, words, values, logarithmic=logarithmic)
        save_png(figure, path)


def draw_row(path: Path, outcomes: Sequence[Outcome]) -> None:
    """The map of each setting's first seed, on one scale."""
    draw_maps(
        path,
        [(f"{outcome.setting.label}\nω = {outcome.mds[0]:.3f}", outcome.maps[0]) for outcome in outcomes],
        size_inches=2.3,
    )


def _draw_means(
    axis: Axes, outcomes: Sequence[Outcome], words: str, values: Sequence[float], *, logarithmic: bool
) -> None:
    mds = np.array([outcome.mds for outcome in outcomes])
    means = mds.mean(axis=1)
    reach = np.stack([means - mds.min(axis=1), mds.max(axis=1) - means])
    axis.errorbar(values, means, yerr=reach, color=_NAVY, marker="o", markersize=4, capsize=3, linewidth=1.2)
    axis.set_title("MDS, all seeds", loc="left", fontsize=8)
    axis.set_xlabel(words, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if logarithmic:
        axis.set_xscale("log")
    axis.set_xticks(list(values), [f"{value:g}" for value in values], fontsize=7)
    axis.xaxis.set_minor_locator(NullLocator())


def draw_curves(
    path: Path,
    outcomes: Sequence[Outcome],
    panels: Sequence[tuple[str, str]],
    drops_at: Sequence[int],
    columns: int = 4,
) -> None:
    """A panel for each hallmark (name, title): mean over the seeds, with a band from the smallest to the largest."""
    rows = -(-len(panels) // columns)
    read = [[one.run.hallmarks() for one in outcome.recorded] for outcome in outcomes]
    with rc_context(STYLE):
        figure = Figure(figsize=(2.5 * columns, 2.1 * rows + 0.35), layout="constrained")
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (name, title) in zip(axes.flat, panels, strict=False):
            for color, runs in zip(COLORS, read, strict=False):
                values = np.stack([hallmarks[name].values for hallmarks in runs])
                x = runs[0].checkpoint.values
                axis.plot(x, values.mean(axis=0), color=color, linewidth=1.1)
                axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, lw=0)
            for drop in drops_at:
                axis.axvline(drop, color="#8a94a0", linewidth=0.7, linestyle=":")
            if name == "update_norm":
                axis.set_yscale("log")
            if name == "update_angle_degrees":
                axis.axhline(90.0, color="#8a94a0", linewidth=0.7)
            axis.set_title(title, loc="left", fontsize=8)
            axis.set_xlabel("checkpoint", fontsize=8)
            axis.tick_params(labelsize=7)
        handles = [
            axes.flat[0].plot([], [], color=color, label=outcome.setting.label)[0]
            for color, outcome in zip(COLORS, outcomes, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        save_png(figure, path)
