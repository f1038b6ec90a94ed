"""A map with bars at its rows: what comes out when training is switched there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.paper.drawing import COLORS, STYLE, draw_map, save_png, scale_of
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["Bars", "draw_bars"]

Seeds = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """Test accuracies in percent, for each seed."""

    points: tuple[int, ...]
    """Checkpoints from which on a part alone was trained."""
    full: Seeds
    before: tuple[Seeds, ...]
    """One for each point: at the switch."""
    norm: tuple[Seeds, ...]
    """At the end, after norm-only training from the point."""
    head: tuple[Seeds, ...]
    """The same with the last layer alone."""


def draw_bars(path: Path, entries: NDArray[np.float64], bars: Bars) -> None:
    """The map at the left; at the right a group of bars at the row of each point."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        axes: Any = figure.subplots(1, 2, width_ratios=(1.0, 1.05))
        left, right = axes
        image = draw_map(left, entries, scale_of([entries]), f"full training, ω = {np.mean(entries):.3f}")
        left.set(xlabel="checkpoint", ylabel="checkpoint")
        bar = figure.colorbar(
            image, ax=left, location="left", fraction=0.046, pad=0.02, label="cosine similarity"
        )
        bar.outline.set_linewidth(0.6)
        at = np.array(bars.points, dtype=np.float64)
        height = 0.2 * float(np.min(np.diff(at)))
        kinds = (
            ("norm-only from there", bars.norm, COLORS[0]),
            ("last layer from there", bars.head, COLORS[1]),
            ("before the switch", bars.before, "#b9c2cc"),
        )
        # The first bar lies at the row itself, the others below it.
        for place, (label, values, color) in enumerate(kinds):
            means = np.mean(values, axis=1)
            reach = np.stack([means - np.min(values, axis=1), np.max(values, axis=1) - means])
            right.barh(
                at + place * height,
                means,
                height,
                xerr=reach,
                color=color,
                label=label,
                error_kw={"linewidth": 0.8, "ecolor": "#333333"},
            )
        right.axvline(
            float(np.mean(bars.full)), color="#333333", linewidth=0.9, linestyle="--", label="full training"
        )
        right.set_ylim(*left.get_ylim())
        right.set_yticks(bars.points)
        right.tick_params(labelsize=7)
        right.grid(visible=False, axis="y")
        right.set(xlim=(0, 100), xlabel="test accuracy (%)", ylabel="switched at checkpoint")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=7)
        save_png(figure, path)
