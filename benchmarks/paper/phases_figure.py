"""Four panels on how a direction is found and what the updates do after that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.paper.digits_sweep import Outcome
from benchmarks.paper.drawing import COLORS, STYLE, save_png
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.paper.experiments.phases import Phases

__all__ = ["draw_phases"]


def draw_phases(path: Path, outcomes: Sequence[Outcome], phases: Sequence[Sequence[Phases]]) -> None:
    """A line for each setting, a band over its seeds; `phases` has the runs of each setting."""
    drops_at = outcomes[0].setting.training.drops_at
    titles = (
        "angle at the origin (degrees)",
        "cosine to the last checkpoint",
        "update angle (degrees)",
        "update norm",
    )
    with rc_context(STYLE):
        figure = Figure(figsize=(10.0, 2.7), layout="constrained")
        axes: Any = figure.subplots(1, 4)
        for outcome, runs, color in zip(outcomes, phases, COLORS, strict=False):
            hallmarks = [one.run.hallmarks() for one in outcome.recorded]
            _band(axes[0], [one.angle for one in runs], color, outcome.setting.label)
            _band(axes[1], [one.cosine_to_final for one in runs], color, outcome.setting.label)
            _band(
                axes[2], [one.update_angle_degrees.values for one in hallmarks], color, outcome.setting.label
            )
            _band(axes[3], [one.update_norm.values for one in hallmarks], color, outcome.setting.label)
            for one in runs:
                axes[0].plot(one.saturated_at, one.angle[one.saturated_at], "v", color=color, markersize=4)
        for axis, title in zip(axes, titles, strict=True):
            for drop in drops_at:
                axis.axvline(drop, color="#8a94a0", linewidth=0.7, linestyle=":")
            axis.set_title(title, loc="left", fontsize=8)
            axis.set_xlabel("checkpoint", fontsize=8)
            axis.tick_params(labelsize=7)
        axes[2].axhline(90.0, color="#8a94a0", linewidth=0.7)
        axes[3].set_yscale("log")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(outcomes))
        save_png(figure, path)


def _band(axis: Axes, seeds: Sequence[NDArray[np.float64]], color: str, label: str) -> None:
    values = np.stack(list(seeds))
    x = np.arange(values.shape[1])
    axis.plot(x, values.mean(axis=0), color=color, linewidth=1.1, label=label)
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, lw=0)
