"""The standard errors of the newest hallmarks, one Gram row at a time: the incremental twin of the error series.

A row costs O(t) time, a state O(t) memory besides the window's square; runs without estimates have no state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.apex_angles import apex_angle_initialization_error, apex_angle_origin_error
from trajmon_server.hallmarks.directions import mean_of_defined
from trajmon_server.hallmarks.running_mean import RunningError
from trajmon_server.hallmarks.standard_errors import length_error, telling

__all__ = ["ErrorState", "RowErrors", "advance", "none_yet", "relative_errors"]


@dataclass(frozen=True, slots=True)
class ErrorState:
    """All that later rows need of the standard errors of earlier ones."""

    with_start: NDArray[np.float64]
    """[t], of ⟨θ_s, θ_0⟩."""
    displacement_squared: NDArray[np.float64]
    """[t], of ‖θ_s−θ_0‖²."""
    previous: NDArray[np.float64]
    """[t], of the last Gram row."""
    window: NDArray[np.float64]
    """[w, w], of the cosines among the latest checkpoints."""
    estimated: NDArray[np.int64]
    """[t], how many entries of each Gram row are estimates."""
    mds: RunningError = field(default_factory=RunningError)
    relative_mds: RunningError = field(default_factory=RunningError)
    length_weighted_mds: RunningError = field(default_factory=RunningError)
    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Of the latest hallmarks, where they are above 0."""


def none_yet(checkpoints: int, window: NDArray[np.float64]) -> ErrorState:
    """The state of so many exact rows, the last of which have these cosines among them, [w, w]."""
    nothing = np.zeros(checkpoints)
    return ErrorState(
        with_start=nothing,
        displacement_squared=nothing,
        previous=nothing,
        window=np.where(np.isnan(window), np.nan, 0.0),
        estimated=np.zeros(checkpoints, dtype=np.int64),
    )


def relative_errors(
    cosines: NDArray[np.float64],
    gram_error: NDArray[np.float64],
    with_start: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Of a row of the map about checkpoint 0, without its entry for that; each array [t], the newest last.

    `with_start` are the standard errors of ⟨θ_s, θ_0⟩, `squares` ‖θ_s−θ_0‖². NaN where they say that nothing is known.
    As :func:`trajmon_server.hallmarks.relative_error.relative_map_with_error` by differences of estimates.
    """
    squares = np.where((squares > 0) & (squares < np.inf), squares, np.nan)
    lengths = np.sqrt(squares)
    bound = lengths * lengths[-1]
    sides, newest = (
        start_errors * np.abs(cosines / own - 1 / bound)
        for start_errors, own in ((with_start, squares), (with_start[-1], squares[-1]))
    )
    vague = with_start > squares / 4
    errors = np.where(vague | vague[-1], np.inf, gram_error / bound + sides + newest)
    errors[-1] = 0.0
    return telling(cosines, errors)[1]


@dataclass(frozen=True, slots=True)
class RowErrors:
    """The standard errors of what a new row t brings."""

    gram: NDArray[np.float64]
    """[t + 1], 0 where exact."""
    cosines: NDArray[np.float64]
    """[t + 1], NaN where undefined."""
    about_start: NDArray[np.float64]
    """[t], of the map about checkpoint 0; NaN where undefined, and where they say that the estimate says nothing."""
    lagged: Mapping[str, float]
    """Of the lagged cosines, by name."""
    displacement_squared: float
    displacement_dot: float


def advance(
    state: ErrorState,
    row: RowErrors,
    *,
    weights: NDArray[np.float64],
    totals: tuple[float, float, float],
    window: NDArray[np.float64],
    squares: tuple[float, float],
    displacements: tuple[float, float],
    values: Mapping[str, float],
) -> ErrorState:
    """The state after one more row.

    `weights` are those of the length-weighted mean, [t + 1]; `totals` the weights in all of the means about the
    origin, about checkpoint 0 and by length; `window` the errors in the window; `squares` ‖θ_0‖² and ‖θ_t‖²;
    `displacements` ‖θ_1−θ_0‖² and ‖θ_t−θ_0‖²; `values` the hallmarks.
    """
    mds = state.mds.add(row.cosines)
    relative = state.relative_mds.add(row.about_start) if len(row.about_start) else state.relative_mds
    weighted = state.length_weighted_mds.add(row.cosines, weights)
    squared_errors = np.append(state.displacement_squared, row.displacement_squared)
    found = {
        "mds": mds.mean(totals[0]),
        "relative_mds": relative.mean(totals[1]),
        "length_weighted_mds": weighted.mean(totals[2]),
        "windowed_mds": mean_of_defined(window),
        **_of_displacements(row, squares, displacements, squared_errors, values),
        **row.lagged,
    }
    return ErrorState(
        with_start=np.append(state.with_start, row.gram[0]),
        displacement_squared=squared_errors,
        previous=row.gram,
        window=window,
        estimated=np.append(state.estimated, np.count_nonzero(row.gram > 0)),
        mds=mds,
        relative_mds=relative,
        length_weighted_mds=weighted,
        # A comparison with NaN is False: what is undefined has no error.
        values=MappingProxyType(
            {
                name: found[name]
                for name, value in values.items()
                if not math.isnan(value) and found.get(name, 0.0) > 0
            }
        ),
    )


def _of_displacements(
    row: RowErrors,
    squares: tuple[float, float],
    displacements: tuple[float, float],
    squared_errors: NDArray[np.float64],
    values: Mapping[str, float],
) -> dict[str, float]:
    first, squared = displacements
    t = len(squared_errors) - 1
    distance = float(length_error(squared, row.displacement_squared))
    at_start = 0.0
    if t > 1:
        at_start = float(
            apex_angle_initialization_error(
                np.asarray(values["apex_angle_initialization_degrees"]),
                (np.asarray(squared), np.asarray(row.displacement_squared)),
                (first, float(squared_errors[1])),
                np.asarray(row.displacement_dot),
            )
        )
    at_origin = apex_angle_origin_error(
        np.asarray(values["apex_angle_origin_degrees"]),
        np.asarray(squares[1]),
        squares[0],
        np.asarray(row.displacement_squared),
    )
    return {
        "apex_angle_initialization_degrees": at_start,
        "apex_angle_origin_degrees": float(at_origin),
        "distance_from_initialization": distance,
        "tortuosity": values["tortuosity"] * distance / math.sqrt(squared) if squared > 0 else 0.0,
    }
