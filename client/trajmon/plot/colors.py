"""From a map's entries to colours: one colormap, one scale, one colour for undefined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SWITCH_RGB", "UNDEFINED_RGB", "Scale", "ScaleKind", "choose_scale", "colormap", "to_rgb"]

ScaleKind = Literal["fixed", "fitted"]

UNDEFINED_RGB = (226, 177, 96)
"""Sand: no entry of the colormap is near it, with full colour vision or without."""

SWITCH_RGB = (214, 51, 108)
"""Crimson: where training switched to norm-only or back. Seen on all of the colormap, and unlike undefined."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Which values the two ends of the colormap stand for."""

    low: float
    """Palest colour; everything under it as well."""
    high: float
    """Darkest colour; everything over it as well."""

    def fraction(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Position of each value between the ends, 0 to 1; NaN stays NaN."""
        width = self.high - self.low
        if width <= 0:
            # All entries are equal: there is nothing to tell apart, and nothing to divide by.
            return np.where(np.isnan(values), np.nan, 1.0)
        return np.clip((values - self.low) / width, 0.0, 1.0)

    def label(self, value: float) -> str:
        """A value of the scale with as many digits as it takes to tell its ends apart.

        >>> Scale(0.99987, 1.0).label(0.99987)
        '0.99987'
        """
        width = self.high - self.low
        digits = 2 if width <= 0 else int(np.clip(1 - np.floor(np.log10(width)), 2, 12))
        return f"{value:.{digits}f}"


def choose_scale(entries: NDArray[np.float64], kind: ScaleKind = "fixed", low: float | None = None) -> Scale:
    """The scale for a map, [T, T].

    `fixed` ends at 1, so that equal colours mean equal cosines wherever `low` is equal too; `fitted` spans
    the entries off the diagonal, which is always 1. `low` replaces the lower end. A map without a defined
    entry gets the scale from 0 to 1.
    """
    off_diagonal = entries[~np.eye(len(entries), dtype=bool)] if len(entries) > 1 else entries.ravel()
    defined = off_diagonal[np.isfinite(off_diagonal)]
    if not defined.size:
        return Scale(0.0 if low is None else low, 1.0)
    bottom = float(defined.min()) if low is None else low
    top = 1.0 if kind == "fixed" else float(defined.max())
    return Scale(min(bottom, top), top)


def colormap(steps: int = 256) -> NDArray[np.uint8]:
    """[steps, 3] colours, pale to dark blue; neighbours differ equally in perceived lightness.

    Lightness falls linearly in the Oklab space (Ottosson 2020), while hue turns from sky to navy.
    """
    x = np.linspace(0.0, 1.0, steps)
    lightness = 0.975 - 0.705 * x
    chroma = 0.008 + 0.105 * np.sin(np.pi * x**0.9) ** 0.9 + 0.06 * x
    hue = np.deg2rad(228.0 + 34.0 * x)
    return _oklab_to_srgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def to_rgb(values: NDArray[np.float64], scale: Scale) -> NDArray[np.uint8]:
    """[..., 3] colours of an array of any shape; NaN becomes :data:`UNDEFINED_RGB`."""
    table = colormap()
    fraction = scale.fraction(values)
    undefined = np.isnan(fraction)
    index = np.rint(np.where(undefined, 0.0, fraction) * (len(table) - 1)).astype(np.intp)
    return np.where(undefined[..., None], np.array(UNDEFINED_RGB, dtype=np.uint8), table[index])


def _oklab_to_srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Oklab [..., 3] to 8-bit sRGB, clipped to it. Constants: Ottosson, "A perceptual color space", 2020."""
    to_cones = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cones.T) ** 3 @ to_linear.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colors: NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
    return colors
