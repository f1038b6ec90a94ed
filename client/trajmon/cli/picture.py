"""What the pictures of a map say of it: its mean, its symbol, its scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trajmon.plot.colors import choose_scale
from trajmon.query import MapResult

if TYPE_CHECKING:
    from trajmon.plot.figure import Picture

__all__ = ["entry_name", "estimates_words", "make_picture", "mean_error_of", "mean_of", "mean_words"]

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def mean_of(result: MapResult) -> float:
    """Mean of all defined entries, diagonal included: the MDS of a cosine map. NaN if there are none."""
    defined = result.map[np.isfinite(result.map)]
    return float(defined.mean()) if defined.size else float("nan")


def mean_error_of(result: MapResult) -> float:
    """Standard error of :func:`mean_of`, at most; 0 where it is exact.

    The mean of the entries' standard errors: estimates of one run share the signs of their sketches, so their errors
    need not average out.
    """
    if result.error is None:
        return 0.0
    defined = result.error[np.isfinite(result.map) & np.isfinite(result.error)]
    return float(defined.mean()) if defined.size else 0.0


def estimates_words(result: MapResult) -> str:
    """How much of the map is estimated; empty if nothing is."""
    count, all_of_them = result.estimated_checkpoints, len(result.checkpoint)
    if not count:
        return ""
    verb = "rests" if count == 1 else "rest"
    return f"{count} of {all_of_them} checkpoints {verb} on estimates"


def mean_words(result: MapResult) -> str:
    """What :func:`mean_of` is called in a sentence."""
    if result.kernel != "linear":
        return f"mean ({result.kernel} kernel)"
    return "MDS" if result.relative_to is None else f"relative MDS (about checkpoint {result.relative_to})"


def entry_name(result: MapResult) -> str:
    """What an entry of the map is."""
    if result.kernel != "linear":
        return f"{result.kernel} similarity"
    about = "" if result.relative_to is None else f" about checkpoint {result.relative_to}"
    return f"cosine similarity{about}"


def make_picture(run: str, result: MapResult, fitted: bool, low: float | None) -> Picture:
    """The map as the figures want it."""
    from trajmon.plot.figure import Picture

    symbol = "ω" if result.kernel == "linear" else "mean"
    if result.relative_to is not None:
        symbol += str(result.relative_to).translate(_SUBSCRIPTS)
    return Picture(
        title=run if result.scope == "network" else f"{run} · {result.scope}",
        entries=result.map,
        checkpoint=result.checkpoint,
        scale=choose_scale(result.map, "fitted" if fitted else "fixed", low),
        mean=mean_of(result),
        symbol=symbol,
        entry_name=entry_name(result),
        mode=result.mode,
        mean_error=mean_error_of(result),
        note=estimates_words(result),
    )
