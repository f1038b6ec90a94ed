"""The hallmarks of the newest checkpoint, one Gram row at a time: the incremental twin of the series.

A row costs O(t) time, a state O(t) memory besides the window's square. A mean over a map becomes a running
sum to which each row adds its entries twice and its diagonal once. ``update`` never writes to the state it is
given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import (
    angle_degrees,
    clamp_cosine,
    mean_of_defined,
    triangle_angle_degrees,
)
from trajmon_server.hallmarks.integrity import ORIGIN_JUDGED_AT, Finding, row_findings
from trajmon_server.hallmarks.lagged_cosines import LAGS
from trajmon_server.hallmarks.resolution import above_resolution
from trajmon_server.hallmarks.series import HALLMARKS
from trajmon_server.hallmarks.windowed_mds import WINDOW_CHECKPOINTS

__all__ = ["GramRow", "StreamState", "init", "latest", "update"]

_SQUARE, _LENGTH, _DISPLACEMENT, _DISTANCE, _WITH_START, _CANCELLATION, _UPDATE = range(7)
_LAG_NAMES = tuple(f"update_cosine_lag{lag}" for lag in LAGS)
_RECENT = max(max(LAGS) + 1, ORIGIN_JUDGED_AT)


@dataclass(frozen=True, slots=True)
class GramRow:
    """What a new checkpoint t brings, for one scope, along the path."""

    gram: NDArray[np.float64]
    """[t + 1], ⟨θ_t, θ_s⟩ for s ≤ t; NaN where missing."""
    update_squared: float
    update_dot: float
    displacement_squared: float
    displacement_dot: float


@dataclass(frozen=True, slots=True)
class RunningMean:
    """A mean over the defined entries of a growing map."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, cosines: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> RunningMean:
        """Add a row up to its diagonal, [n]; each entry but the last also stands for its mirror."""
        total = float(cosines.sum() if weights is None else cosines @ weights)
        if math.isnan(total):
            return self._add_defined(cosines, np.ones(len(cosines)) if weights is None else weights)
        if weights is None:
            return RunningMean(
                self.total + 2 * total - float(cosines[-1]), self.weight + 2 * len(cosines) - 1
            )
        last = float(weights[-1])
        return RunningMean(
            self.total + 2 * total - last * float(cosines[-1]), self.weight + 2 * float(weights.sum()) - last
        )

    def _add_defined(self, cosines: NDArray[np.float64], weights: NDArray[np.float64]) -> RunningMean:
        products = cosines * weights
        defined = ~np.isnan(products)
        products, weights = np.where(defined, products, 0.0), np.where(defined, weights, 0.0)
        return RunningMean(
            self.total + float(2 * products.sum() - products[-1]),
            self.weight + float(2 * weights.sum() - weights[-1]),
        )

    @property
    def value(self) -> float:
        """NaN before the first defined entry."""
        return self.total / self.weight if self.weight > 0 else math.nan


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


def update(state: StreamState, row: GramRow) -> StreamState:
    """The state after one more row. Raises ValueError if the row is not that of the next checkpoint."""
    t = state.checkpoints
    if row.gram.shape != (t + 1,):
        raise ValueError(f"checkpoint {t} needs a Gram row of shape ({t + 1},), got {row.gram.shape}")
    points = _with_point(state.points, row)
    cosines = _cosines(row.gram, points[_LENGTH])
    window = _slide(state.window, cosines)
    update_lengths = points[_UPDATE]
    mds = state.mds.add(cosines)
    weighted = state.length_weighted_mds.add(cosines, update_lengths * update_lengths[t])
    relative = state.relative_mds.add(_relative_cosines(row.gram, points)) if t else state.relative_mds
    path_length = state.path_length + float(update_lengths[t])
    distance = _root(row.displacement_squared)
    first = row.displacement_squared if t == 1 else state.first_displacement_squared
    recent = [*state.recent_update_squared, row.update_squared if t else math.nan][-_RECENT:]
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
        **_lagged_cosines(row, state.previous_gram, points[_SQUARE], recent),
    }
    found = row_findings(
        gram_row=row.gram,
        squared_norms=points[_SQUARE],
        displacement_squared=points[_DISPLACEMENT],
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


def _lagged_cosines(
    row: GramRow, previous_gram: NDArray[np.float64], squares: NDArray[np.float64], recent: list[float]
) -> dict[str, float]:
    """Few numbers, so plain floats: arrays of four cost more than they save."""
    t = len(previous_gram)
    values = dict.fromkeys(_LAG_NAMES, math.nan)
    newest = _length(recent[-1])
    if t < 2 or math.isnan(newest):
        return values
    newest_ratio = _reach(squares, t) / newest
    for lag, name in zip(LAGS, _LAG_NAMES, strict=True):
        end = t - lag
        if end < 1:
            break
        length = _length(recent[-1 - lag])
        if lag == 1:
            dot = row.update_dot
        else:
            dot = float(row.gram[end] - row.gram[end - 1] - previous_gram[end] + previous_gram[end - 1])
            if not above_resolution(_reach(squares, end) / length, newest_ratio, lengths_exact=True):
                continue
        values[name] = float(clamp_cosine(dot / (length * newest)))
    return values


def _reach(squares: NDArray[np.float64], t: int) -> float:
    return _root(float(np.maximum(squares[t], squares[t - 1])))


def _length(square: float) -> float:
    """Of a scalar, as :func:`trajmon_server.hallmarks.directions.defined_length` of an array."""
    return math.sqrt(square) if 0 < square < math.inf else math.nan


def _root(square: float) -> float:
    return math.sqrt(square) if 0 <= square < math.inf else math.nan
