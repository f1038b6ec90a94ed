"""The hallmarks of the newest checkpoint, one Gram row at a time: the incremental twin of the series.

A row costs O(t) time, a state O(t) memory besides the window's square. A mean over a map becomes a running
sum to which each row adds its entries twice and its diagonal once. ``update`` never writes to the state it is
given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks import stream_errors
from trajmon_server.hallmarks.directions import (
    angle_degrees,
    clamp_cosine,
    mean_of_defined,
    triangle_angle_degrees,
)
from trajmon_server.hallmarks.displacements import Estimated, dots_from_gram, squares_from_gram, with_start
from trajmon_server.hallmarks.integrity import ORIGIN_JUDGED_AT, Finding, exact_only, row_findings
from trajmon_server.hallmarks.resolution import above_resolution, cancellation
from trajmon_server.hallmarks.running_mean import RunningMean
from trajmon_server.hallmarks.series import HALLMARKS
from trajmon_server.hallmarks.stream_lags import (
    BEYOND_NEIGHBOURS,
    LAG_NAMES,
    lagged_cosines,
    lagged_dots,
    lagged_errors,
)
from trajmon_server.hallmarks.windowed_mds import WINDOW_CHECKPOINTS

__all__ = ["GramRow", "StreamState", "estimated_entries", "init", "latest", "latest_errors", "update"]

_SQUARE, _LENGTH, _DISPLACEMENT, _DISTANCE, _WITH_START, _CANCELLATION, _UPDATE = range(7)
_RECENT = max(max(BEYOND_NEIGHBOURS) + 1, ORIGIN_JUDGED_AT)


@dataclass(frozen=True, slots=True)
class GramRow:
    """What a new checkpoint t brings, for one scope, along the path."""

    gram: NDArray[np.float64]
    """[t + 1], ⟨θ_t, θ_s⟩ for s ≤ t; NaN where missing."""
    update_squared: float
    update_dot: float
    displacement_squared: float
    displacement_dot: float
    gram_error: NDArray[np.float64] | None = None
    """[t + 1], standard errors of the entries of `gram` that are estimates, 0 where exact. None: all are exact.

    In a row with estimates, a displacement product that is NaN is taken from the Gram by differences.
    """
    displacement_squared_error: float = 0.0
    """Standard error; 0: exact."""
    displacement_dot_error: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that later rows need of earlier ones."""

    points: NDArray[np.float64]
    """[7, t]: ‖θ_s‖², ‖θ_s‖, ‖θ_s−θ_0‖², ‖θ_s−θ_0‖, ⟨θ_s, θ_0⟩, cancellation about θ_0, ‖θ_s−θ_{s−1}‖.

    Lengths are NaN where there is no direction; the update norm, a weight, is 0 for a zero update.
    """
    previous_gram: NDArray[np.float64]
    """[t], the last row."""
    window: NDArray[np.float64]
    """[w, w], cosines among the latest checkpoints, w at most WINDOW_CHECKPOINTS."""
    mds: RunningMean
    relative_mds: RunningMean
    length_weighted_mds: RunningMean
    path_length: float
    first_displacement_squared: float
    """‖θ_1−θ_0‖²; NaN before checkpoint 1."""
    recent_update_squared: tuple[float, ...]
    """‖θ_s−θ_{s−1}‖² of the last checkpoints, the newest last."""
    values: Mapping[str, float]
    findings: tuple[Finding, ...]
    """All integrity findings so far."""
    lagged_dots: Mapping[int, float] = field(default_factory=dict)
    """Of the newest update with those some lags before it, see :mod:`stream_lags`; NaN where they rest on estimates."""
    errors: stream_errors.ErrorState | None = None
    """None while everything is exact."""

    @property
    def checkpoints(self) -> int:
        """How many rows went in."""
        return len(self.previous_gram)


def init() -> StreamState:
    """The state before checkpoint 0."""
    return StreamState(
        points=np.empty((7, 0)),
        previous_gram=np.empty(0),
        window=np.empty((0, 0)),
        mds=RunningMean(),
        relative_mds=RunningMean(),
        length_weighted_mds=RunningMean(),
        path_length=0.0,
        first_displacement_squared=math.nan,
        recent_update_squared=(),
        values=MappingProxyType(dict.fromkeys(HALLMARKS, math.nan)),
        findings=(),
    )


def latest(state: StreamState) -> dict[str, float]:
    """The hallmarks as of the newest checkpoint, NaN where undefined: the last entries of the series."""
    return dict(state.values)


def latest_errors(state: StreamState) -> dict[str, float]:
    """Standard errors of the latest hallmarks that rest on estimates: name -> above 0. What is not listed is exact."""
    return {} if state.errors is None else dict(state.errors.values)


def estimated_entries(state: StreamState) -> NDArray[np.int64]:
    """How many entries of each Gram row, up to its diagonal, are estimates: [t]."""
    return np.zeros(state.checkpoints, dtype=np.int64) if state.errors is None else state.errors.estimated


def update(state: StreamState, row: GramRow) -> StreamState:
    """The state after one more row. Raises ValueError if the row is not that of the next checkpoint."""
    t = state.checkpoints
    for part in (row.gram, row.gram_error):
        if part is not None and part.shape != (t + 1,):
            raise ValueError(f"checkpoint {t} needs a Gram row of shape ({t + 1},), got {part.shape}")
    errors = state.errors
    if errors is None and _rests_on_estimates(row):
        errors = stream_errors.none_yet(t, state.window)
    if errors is not None:
        row = _completed(row, state, errors)
    points = _with_point(state.points, row)
    cosines = _cosines(row.gram, points[_LENGTH])
    about_start = _relative_cosines(row.gram, points) if t else np.empty(0)
    recent = [*state.recent_update_squared, row.update_squared if t else math.nan][-_RECENT:]
    dots = lagged_dots(row.gram, state.previous_gram, points[_SQUARE], recent)
    lagged = lagged_cosines(row.update_dot if t > 1 else math.nan, dots, recent)
    row_errors = None
    if errors is not None:
        row_errors = _row_errors(row, points, errors, cosines, about_start, recent)
        about_start = np.where(np.isnan(row_errors.about_start), np.nan, about_start)
        lagged |= {name: math.nan for name in lagged if not row_errors.lagged[name] < 1.0}
        for lag, name in zip(BEYOND_NEIGHBOURS, LAG_NAMES[1:], strict=True):
            if row_errors.lagged[name] != 0:
                dots[lag] = math.nan
    window = _slide(state.window, cosines)
    update_lengths = points[_UPDATE]
    weights = update_lengths * update_lengths[t]
    mds = state.mds.add(cosines)
    weighted = state.length_weighted_mds.add(cosines, weights)
    relative = state.relative_mds.add(about_start) if t else state.relative_mds
    path_length = state.path_length + float(update_lengths[t])
    distance = _root(row.displacement_squared)
    first = row.displacement_squared if t == 1 else state.first_displacement_squared
    values = {
        "mds": mds.value,
        "relative_mds": relative.value,
        "length_weighted_mds": weighted.value,
        "windowed_mds": mean_of_defined(window),
        **_angles(row, recent, float(points[_SQUARE, 0]), first),
        "parameter_norm": _root(float(row.gram[t])),
        "distance_from_initialization": distance,
        "update_norm": float(update_lengths[t]) if t else math.nan,
        "path_length": path_length,
        "tortuosity": path_length / distance if distance > 0 else math.nan,
        **lagged,
    }
    if errors is not None and row_errors is not None:
        errors = stream_errors.advance(
            errors,
            row_errors,
            weights=weights,
            totals=(mds.weight, relative.weight, weighted.weight),
            window=_slide(errors.window, row_errors.cosines),
            squares=(float(points[_SQUARE, 0]), float(points[_SQUARE, t])),
            displacements=(first, row.displacement_squared),
            values=values,
        )
    found = row_findings(
        gram_row=row.gram if row_errors is None else exact_only(row.gram, row_errors.gram),
        squared_norms=points[_SQUARE],
        displacement_squared=points[_DISPLACEMENT]
        if errors is None
        else exact_only(points[_DISPLACEMENT], errors.displacement_squared),
        recent_update_squared=recent[-ORIGIN_JUDGED_AT:],
        update_dot=row.update_dot,
    )
    return StreamState(
        points=points,
        previous_gram=row.gram,
        window=window,
        mds=mds,
        relative_mds=relative,
        length_weighted_mds=weighted,
        path_length=path_length,
        first_displacement_squared=first,
        recent_update_squared=tuple(recent),
        values=MappingProxyType(values),
        findings=(*state.findings, *found),
        lagged_dots=MappingProxyType(dots),
        errors=errors,
    )


def _rests_on_estimates(row: GramRow) -> bool:
    in_gram = row.gram_error is not None and bool((row.gram_error > 0).any())
    return in_gram or row.displacement_squared_error > 0 or row.displacement_dot_error > 0


def _completed(row: GramRow, state: StreamState, errors: stream_errors.ErrorState) -> GramRow:
    """With `gram_error`, and with what a row that rests on estimates lacks: see :meth:`Trajectory.completed`."""
    t = state.checkpoints
    gram_error = np.zeros(t + 1) if row.gram_error is None else row.gram_error
    if not (gram_error > 0).any():
        return replace(row, gram_error=gram_error)
    square = float(row.gram[t])
    start_square = float(state.points[_SQUARE, 0]) if t else square
    start = with_start(
        Estimated(row.gram[:1], gram_error[:1]),
        row.gram[t:],
        start_square,
        Estimated(np.array([row.displacement_squared]), np.array([row.displacement_squared_error])),
    )
    row = replace(
        row,
        gram=np.concatenate([start.values, row.gram[1:]]),
        gram_error=np.concatenate([start.errors, gram_error[1:]]),
    )
    if math.isnan(row.displacement_squared):
        taken = squares_from_gram(start, row.gram[t:], start_square)
        row = replace(
            row,
            displacement_squared=float(taken.values[0]),
            displacement_squared_error=float(taken.errors[0]),
        )
    if t and math.isnan(row.displacement_dot):
        first = row.displacement_squared if t == 1 else state.first_displacement_squared
        first_square = square if t == 1 else float(state.points[_SQUARE, 1])
        dots = dots_from_gram(
            Estimated(row.gram[1:2], gram_error[1:2]),
            start,
            start if t == 1 else Estimated(state.points[_WITH_START, 1:2], errors.with_start[1:2]),
            start_square,
            (
                cancellation(square, start_square, row.displacement_squared),
                cancellation(first_square, start_square, first),
            ),
        )
        row = replace(
            row, displacement_dot=float(dots.values[0]), displacement_dot_error=float(dots.errors[0])
        )
    return row


def _row_errors(
    row: GramRow,
    points: NDArray[np.float64],
    errors: stream_errors.ErrorState,
    cosines: NDArray[np.float64],
    about_start: NDArray[np.float64],
    recent: list[float],
) -> stream_errors.RowErrors:
    gram = np.zeros(len(row.gram)) if row.gram_error is None else row.gram_error
    lengths = points[_LENGTH]
    relative = np.empty(0)
    if len(about_start):
        relative = stream_errors.relative_errors(
            about_start,
            gram[1:],
            np.append(errors.with_start, gram[0])[1:],
            points[_DISPLACEMENT, 1:],
        )
    return stream_errors.RowErrors(
        gram=gram,
        cosines=np.where(np.isnan(cosines), np.nan, np.minimum(gram / (lengths * lengths[-1]), 1.0)),
        about_start=relative,
        lagged=lagged_errors(gram, errors.previous, recent),
        displacement_squared=row.displacement_squared_error,
        displacement_dot=row.displacement_dot_error,
    )


def _with_point(points: NDArray[np.float64], row: GramRow) -> NDArray[np.float64]:
    t = points.shape[1]
    square = float(row.gram[t])
    start_square = float(points[_SQUARE, 0]) if t else square
    extended = np.empty((7, t + 1))
    extended[:, :t] = points
    distance = _length(row.displacement_squared)
    extended[:, t] = (
        square,
        _length(square),
        row.displacement_squared,
        distance,
        row.gram[0],
        _root(float(np.maximum(square, start_square))) / distance,
        _root(row.update_squared) if t else 0.0,
    )
    return extended


def _cosines(gram_row: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines = clamp_cosine(gram_row / (lengths * lengths[-1]))
    if not math.isnan(cosines[-1]):
        cosines[-1] = 1.0
    return cosines


def _relative_cosines(gram_row: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row of the map about checkpoint 0, without its entry for checkpoint 0."""
    with_start = points[_WITH_START, 1:]
    dots = gram_row[1:] - with_start - gram_row[0] + points[_SQUARE, 0]
    lengths = points[_DISTANCE, 1:]
    ratios = points[_CANCELLATION, 1:]
    resolved = above_resolution(ratios, ratios[-1], lengths_exact=True)
    cosines = np.where(resolved, clamp_cosine(dots / (lengths * lengths[-1])), np.nan)
    if not math.isnan(cosines[-1]):
        cosines[-1] = 1.0
    return cosines


def _slide(window: NDArray[np.float64], cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    size = min(len(cosines), WINDOW_CHECKPOINTS)
    slid = np.empty((size, size))
    slid[: size - 1, : size - 1] = window[len(window) - (size - 1) :, len(window) - (size - 1) :]
    slid[-1, :] = slid[:, -1] = cosines[-size:]
    return slid


def _angles(
    row: GramRow, recent: list[float], first_square: float, first_displacement: float
) -> dict[str, float]:
    t = len(row.gram) - 1
    between = angle_degrees(
        (row.update_dot if t >= 2 else math.nan, row.displacement_dot if t else math.nan),
        (row.update_squared, row.displacement_squared),
        (recent[-2] if t >= 2 else math.nan, first_displacement),
    )
    at_origin = triangle_angle_degrees(row.gram[t], first_square, row.displacement_squared)
    return {
        "update_angle_degrees": float(between[0]),
        "apex_angle_initialization_degrees": float(between[1]),
        "apex_angle_origin_degrees": float(at_origin),
    }


def _length(square: float) -> float:
    """Of a scalar, as :func:`trajmon_server.hallmarks.directions.defined_length` of an array."""
    return math.sqrt(square) if 0 < square < math.inf else math.nan


def _root(square: float) -> float:
    return math.sqrt(square) if 0 <= square < math.inf else math.nan
