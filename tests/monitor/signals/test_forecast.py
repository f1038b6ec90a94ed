"""The forecast against the vectors themselves, and against what really came."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.signals.paths import Points, drifting, group_of  # noqa: TID251 # tests/monitor
from trajmon_server.signals.base import LAGS
from trajmon_server.signals.forecast import Forecast, Horizon, ScopeUpdate, forecast

WINDOW = 8


def last_updates(points: Points, t: int, rates: NDArray[np.float64] | None = None) -> list[ScopeUpdate]:
    seen = []
    for s in range(t - WINDOW + 1, t + 1):
        group = group_of(points, s)
        rate = 1.0 if rates is None else float(rates[s - 1])
        seen.append(ScopeUpdate(group.update_squared, group.update_dot, group.lagged_dots, rate, 1))
    return seen


def forecast_at(
    points: Points, t: int, horizon: Horizon, rates: NDArray[np.float64] | None = None, doubt: float = 1.0
) -> Forecast:
    distance = float(np.sum((points[t] - points[0]) ** 2))
    found = forecast(last_updates(points, t, rates), distance, horizon, doubt)
    assert found is not None
    return found


def test_it_equals_the_formula_written_with_vectors() -> None:
    rates = np.linspace(0.3, 0.1, 20)
    points = drifting(21, 40, drift=0.3, noise=0.5, seed=1, rates=rates)
    t, horizon = 15, Horizon(2.0, 0.7)
    found = forecast_at(points, t, horizon, rates)
    unit = np.diff(points, axis=0)[t - WINDOW : t] / rates[t - WINDOW : t, None]
    everything = np.diff(points, axis=0)[:t] / rates[:t, None]
    last = range(t - WINDOW + max(LAGS), t)
    drifts = [float(np.mean([everything[s] @ everything[s - lag] for lag in LAGS])) for s in last]
    drift = max(float(np.mean(drifts)), 0.0)
    neighbours = float(np.mean([unit[s] @ unit[s - 1] for s in range(1, WINDOW)]))
    noises = np.sum(unit**2, axis=1) - drift + 2 * max(neighbours - drift, 0.0)
    distance = float(np.linalg.norm(points[t] - points[0]))
    assert found.drift == pytest.approx(2.0 * math.sqrt(drift) / distance, rel=1e-9)
    assert found.noise == pytest.approx(math.sqrt(0.7 * noises.mean()) / distance, rel=1e-9)
    assert found.remaining == pytest.approx(math.hypot(found.drift, found.noise), rel=1e-12)
    errors = [
        4.0 * np.std(drifts, ddof=1) / math.sqrt(len(drifts)),
        0.7 * np.std(noises, ddof=1) / math.sqrt(WINDOW),
    ]
    error = math.sqrt(2) * math.hypot(*errors) / distance**2
    assert found.high == pytest.approx(math.sqrt(found.remaining**2 + error), rel=1e-9)
    assert found.low == pytest.approx(math.sqrt(max(found.remaining**2 - error, 0.0)), rel=1e-9)


@pytest.mark.parametrize(("drift", "noise"), [(0.2, 0.0), (0.05, 0.5), (0.0, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("steps", [5, 40])
def test_on_average_it_is_what_really_came(drift: float, noise: float, steps: int) -> None:
    """Simulated walks of the model: mean of the forecast's square against the mean square of the remaining way."""
    t, rates = 20, np.r_[np.full(20, 1.0), np.linspace(1.0, 0.0, steps)]
    horizon = Horizon(float(rates[t:].sum()), float((rates[t:] ** 2).sum()))
    predicted, real = [], []
    for seed in range(60):
        points = drifting(t + steps + 1, 400, drift, noise, seed, rates)
        predicted.append(forecast_at(points, t, horizon, rates).remaining ** 2)
        real.append(np.sum((points[-1] - points[t]) ** 2) / np.sum((points[t] - points[0]) ** 2))
    # A negative estimate of the squared drift counts as none, so walks without drift are over-, never underestimated.
    ratio = np.mean(predicted) / np.mean(real)
    assert 0.9 < ratio < (1.1 if drift > 0.1 else 1.8)


def test_the_interval_covers_and_shrinks_with_the_noise() -> None:
    t, ahead = 20, 20
    widths = []
    inside = 0
    for seed in range(100):
        points = drifting(t + ahead + 1, 400, drift=0.2, noise=0.4, seed=seed)
        found = forecast_at(points, t, Horizon(ahead, ahead), doubt=2.0)
        real = np.linalg.norm(points[-1] - points[t]) / np.linalg.norm(points[t] - points[0])
        inside += bool(found.low <= real <= found.high)
        widths.append(found.high - found.low)
    assert inside >= 80
    quiet = forecast_at(drifting(21, 400, drift=0.2, noise=0.04, seed=1), t, Horizon(ahead, ahead), doubt=2.0)
    assert quiet.high - quiet.low < np.median(widths) / 5


def test_what_momentum_carries_over_is_noise_not_drift() -> None:
    rng = np.random.default_rng(5)
    kicks = rng.normal(size=(60, 2000)) / math.sqrt(2000)
    # Each update holds half of the one kick before it: consecutive ones correlate, those two apart do not.
    updates = kicks[1:] + kicks[:-1]
    points = np.vstack([np.zeros(2000), np.cumsum(updates, axis=0)])
    found = forecast_at(points, 30, Horizon(25, 25))
    distance = np.linalg.norm(points[30])
    assert found.drift * distance < 0.3 * found.noise * distance
    # Long-run variance of such a walk: 2 + 2 * 1.
    assert (found.noise * distance) ** 2 == pytest.approx(25 * 4, rel=0.25)


def test_oscillation_does_not_make_the_noise_smaller_than_its_squares() -> None:
    line = [ScopeUpdate(1.0, -0.9, (0.8, -0.7, 0.6), 1.0, 1)] * WINDOW
    found = forecast(line, 100.0, Horizon(10.0, 10.0), 0.0)
    assert found is not None
    persistent = (0.8 - 0.7 + 0.6) / 3
    assert found.noise**2 == pytest.approx(10 * (1 - persistent) / 100)


def test_the_spacing_of_checkpoints_does_not_matter() -> None:
    dense = forecast([ScopeUpdate(0.01, 0.01, (0.01,) * 3, 1.0, 1)] * WINDOW, 4.0, Horizon(30.0, 30.0), 1.0)
    sparse = forecast([ScopeUpdate(0.25, 0.25, (0.25,) * 3, 1.0, 5)] * WINDOW, 4.0, Horizon(30.0, 30.0), 1.0)
    assert dense is not None
    assert sparse is not None
    assert sparse.remaining == pytest.approx(dense.remaining)
    assert dense.remaining == pytest.approx(30 * 0.1 / 2)


def test_without_lags_consecutive_updates_serve() -> None:
    found = forecast([ScopeUpdate(1.0, 0.25, (), 1.0, 1)] * 3, 100.0, Horizon(10.0, 10.0), 1.0)
    assert found is not None
    assert found.drift == pytest.approx(10 * 0.5 / 10)
    assert forecast([ScopeUpdate(1.0, 0.25, (), 1.0, 1)] * 2, 100.0, Horizon(10.0, 10.0), 1.0) is None


SOUND = [ScopeUpdate(0.01, 0.002, (0.002,) * 3, 0.1, 10)] * WINDOW
WILD = (math.nan, math.inf, -math.inf, 1e308, 1e-308, 0.0, 5e-324)


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("field", ["squared", "dot", "lagged_dots", "distance", "rate_sum", "rate"])
def test_any_number_gives_a_finite_forecast_or_none(field: str, wild: float) -> None:
    updates, distance, horizon = list(SOUND), 1.0, Horizon(3.0, 0.3)
    if field == "distance":
        distance = wild
    elif field == "rate_sum":
        horizon = Horizon(wild, wild)
    elif field == "rate":
        if not 0 < wild < math.inf:
            return
        updates = [replace(one, rate=wild) for one in updates]
    else:
        changed: Any = (wild,) * 3 if field == "lagged_dots" else wild
        updates[5] = replace(updates[5], **{field: changed})
    found = forecast(updates, distance, horizon, 1.0)
    if field == "lagged_dots" and not math.isfinite(wild):
        assert found == forecast([replace(one, lagged_dots=()) for one in SOUND], 1.0, horizon, 1.0)
    elif not math.isfinite(wild):
        assert found is None
    if found is not None:
        assert 0 <= found.low <= found.remaining <= found.high < math.inf
