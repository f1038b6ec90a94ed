"""A map as PNG or SVG, drawn like the figures of `trajmon show`: same colours, colour bar, mean in the title.

Imported when the first picture is asked for: matplotlib takes longer to load than a small server to start.
"""

from __future__ import annotations

import io
import threading
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

__all__ = ["colormap", "draw_map", "printable"]

UNDEFINED = "#e2b160"
"""Sand: no entry of the colour map is near it."""
SWITCH = "#d6336c"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    # Without a date and random names, the same map gives the same bytes.
    "svg.hashsalt": "trajmon",
}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_drawing = threading.Lock()
"""matplotlib's settings are the process's: one picture at a time."""


def draw_map(
    head: Mapping[str, Any], entries: NDArray[np.float64], form: str, *, fitted: bool = False
) -> bytes:
    """The picture of a map, [n, n], with what is said of it in `head`. Blocking, about a third of a second."""
    with _drawing, rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        _draw(figure.add_subplot(), head, entries, fitted)
        out = io.BytesIO()
        metadata: dict[str, Any] = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(out, format=form, dpi=200, metadata=metadata)
        return out.getvalue()


def colormap(steps: int = 256) -> NDArray[np.float64]:
    """[steps, 3] colours in [0, 1], pale to dark blue; neighbours differ equally in perceived lightness.

    Lightness falls linearly in the Oklab space (Ottosson 2020) while hue turns from sky to navy, as in the figures
    of the command line.
    """
    x = np.linspace(0.0, 1.0, steps)
    chroma = 0.008 + 0.105 * np.sin(np.pi * x**0.9) ** 0.9 + 0.06 * x
    hue = np.deg2rad(228.0 + 34.0 * x)
    lab = np.stack([0.975 - 0.705 * x, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    cones = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    linear_of = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ cones.T) ** 3 @ linear_of.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colors: NDArray[np.float64] = np.rint(255 * encoded) / 255
    return colors


def printable(text: str) -> str:
    """A text from outside as the figure's font can show it: ``□`` for control characters and unknown signs."""
    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    return "".join("□" if unicodedata.category(a)[0] == "C" or ord(a) not in known else a for a in text)


def _title(head: Mapping[str, Any]) -> str:
    name = head["run"] if head["scope"] == "network" else f"{head['run']} · {head['scope']}"
    symbol = "ω" if head["kernel"] == "linear" else "mean"
    if head["relative_to"] is not None:
        symbol += str(head["relative_to"]).translate(_SUBSCRIPTS)
    mean, error = head["mean"], head["mean_error"]
    said = "undefined" if mean is None else f"{mean:.3f}" + (f" ± {error:.1g}" if error else "")
    return f"{printable(name)}   {symbol} = {said}"


def _scale(entries: NDArray[np.float64], fitted: bool) -> tuple[float, float]:
    off_diagonal = entries[~np.eye(len(entries), dtype=bool)] if len(entries) > 1 else entries.ravel()
    defined = off_diagonal[np.isfinite(off_diagonal)]
    if not defined.size:
        return 0.0, 1.0
    high = float(defined.max()) if fitted else 1.0
    low = min(float(defined.min()), high)
    # All entries are equal; the colour bar still needs two ends.
    return (low, high) if low < high else (high - 1e-3 * max(1.0, abs(high)), high)


def _draw(axis: Axes, head: Mapping[str, Any], entries: NDArray[np.float64], fitted: bool) -> None:
    title = _title(head)
    axis.set_title(title, parse_math=False, fontsize=10 if len(title) < 60 else 7, loc="left")
    axis.set(xlabel="checkpoint", ylabel="checkpoint")
    if not len(entries):
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "no checkpoints", transform=axis.transAxes, ha="center", color="#5b6672")
        return
    low, high = _scale(entries, fitted)
    image = axis.imshow(
        np.ma.masked_invalid(entries),
        cmap=ListedColormap(colormap()).with_extremes(bad=UNDEFINED),
        norm=Normalize(low, high),
        interpolation="nearest",
    )
    numbers = head["checkpoint"]
    names = FuncFormatter(lambda x, _: str(numbers[round(x)]) if -0.5 < x < len(numbers) - 0.5 else "")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(MaxNLocator(nbins=7, integer=True))
        direction.set_major_formatter(names)
    label = "cosine similarity" if head["kernel"] == "linear" else f"{head['kernel']} similarity"
    if head["relative_to"] is not None:
        label += f" about checkpoint {head['relative_to']}"
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03, label=label)
    bar.outline.set_linewidth(0.6)
    _explain(axis, head, entries)


def _explain(axis: Axes, head: Mapping[str, Any], entries: NDArray[np.float64]) -> None:
    """What cannot be read off the colours: undefined entries, switches, reduction."""
    keys = []
    if np.isnan(entries).any():
        keys.append(Patch(color=UNDEFINED, label="undefined"))
    mode = np.array(head["mode"], dtype=np.uint8)
    if mode.any():
        for position in np.flatnonzero(mode[1:] != mode[:-1]) + 0.5:
            for line in (axis.axvline, axis.axhline):
                line(position, color=SWITCH, linewidth=0.7)
        keys.append(Patch(color=SWITCH, label="norm-only training"))
    if head["reduced"] is not None:
        reduced = head["reduced"]
        words = f"{reduced['from']} checkpoints, means over blocks of {reduced['block']}"
        keys.append(Patch(color="none", label=words))
    if keys:
        axis.figure.legend(
            handles=keys, loc="outside lower center", ncols=1 if len(keys) > 2 else 2, handlelength=1.0
        )
