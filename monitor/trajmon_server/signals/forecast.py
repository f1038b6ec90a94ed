"""How far one scope still has to go: a drift and a random walk out of its last updates, over what lies ahead.

Model. An update over h steps at the learning rate η is η (h d + √h n): a drift d that persists and noise n that does
not. Per unit of rate and step,

    ⟨u_t, u_s⟩ / (η_t h_t η_s h_s)  estimates ‖d‖²           for updates at least two apart,
    ‖u_t‖² / (η_t² h_t) − h_t ‖d‖²  estimates ‖n‖².

Consecutive updates share what momentum carries over, so pairs at the LAGS 2, 3 and 4 are preferred; where they are not
all known, consecutive ones serve. What is left of correlation between consecutive updates is counted as noise of a
longer memory if positive; if negative (oscillation) it is not used to make the noise smaller. Over what lies ahead

    remaining² = ((Σ η)² ‖d‖² + Σ η² ‖n‖²) / ‖θ_t − θ_0‖².

The interval comes from the variation of those estimates over the window, `doubt` standard errors to both sides.
Neighbouring estimates share updates, so they count as half as many independent ones. It says nothing of what the
window does not show: a new phase of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trajmon_server.signals.base import LAGS

__all__ = ["Forecast", "Horizon", "ScopeUpdate", "forecast"]


@dataclass(frozen=True, slots=True)
class ScopeUpdate:
    """One update of a scope, with what relates it to those before it."""

    squared: float
    dot: float
    """With the update before it; NaN if not known."""
    lagged_dots: tuple[float, ...]
    """With those LAGS before it; empty if not given."""
    rate: float
    """Learning rate; 1 where none is known."""
    steps: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """Learning rates of what lies ahead, or behind, in the unit of :attr:`ScopeUpdate.rate`."""

    rate_sum: float
    rate_squared_sum: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Remaining displacement relative to ‖θ_t−θ_0‖, with its parts."""

    remaining: float
    low: float
    high: float
    """Ends of the interval."""
    drift: float
    noise: float
    """The random walk's part; remaining² = drift² + noise²."""
    drift_per_rate_squared: float
    """‖d‖² of the model, relative to ‖θ_t−θ_0‖²."""
    noise_per_rate_squared: float
    """‖n‖² of the model, relative to ‖θ_t−θ_0‖²."""

    def over(self, stretch: Horizon) -> float:
        """How far a stretch of these learning rates leads, in the same model; relative to ‖θ_t−θ_0‖.

        As well for one that lies behind.
        """
        return math.sqrt(
            stretch.rate_sum * stretch.rate_sum * self.drift_per_rate_squared
            + stretch.rate_squared_sum * self.noise_per_rate_squared
        )


def forecast(
    updates: Sequence[ScopeUpdate], displacement_squared: float, horizon: Horizon, doubt: float
) -> Forecast | None:
    """From consecutive updates, oldest first. None where a product is missing or a number leaves float64.

    At least max(LAGS) + 2 updates with lagged products; where one of these is not known, three with consecutive ones.

    >>> line = [ScopeUpdate(0.01, 0.01, (0.01,) * 3, rate=1.0, steps=1)] * 8
    >>> round(forecast(line, 1.0, Horizon(3.0, 3.0), doubt=1.0).remaining, 9)  # three more steps of 0.1
    0.3
    """
    ahead_is_possible = horizon.rate_sum >= 0 and horizon.rate_squared_sum >= 0
    if not (0 < displacement_squared < math.inf and ahead_is_possible):
        return None
    consecutive = _terms(updates, displacement_squared, (1,))
    drifts = _drift_terms(updates, displacement_squared, consecutive)
    if drifts is None:
        return None
    drift_squared, drift_error = _mean(drifts)
    persistent = max(drift_squared, 0.0)
    # Correlation of neighbours beyond the drift: noise that is carried over, as by momentum.
    carried = max(_mean(consecutive)[0] - persistent, 0.0)
    noises = [
        update.squared / displacement_squared / update.rate / update.rate / update.steps
        + update.steps * (2 * carried - persistent)
        for update in updates
    ]
    noise_squared, noise_error = _mean(noises)
    noise_squared = max(noise_squared, 0.0)
    far, wide = horizon.rate_sum * horizon.rate_sum, horizon.rate_squared_sum
    squared = far * persistent + wide * noise_squared
    error = doubt * math.hypot(far * drift_error, wide * noise_error)
    parts = Forecast(
        remaining=math.sqrt(squared),
        low=math.sqrt(max(squared - error, 0.0)),
        high=math.sqrt(squared + error),
        drift=math.sqrt(far * persistent),
        noise=math.sqrt(wide * noise_squared),
        drift_per_rate_squared=persistent,
        noise_per_rate_squared=noise_squared,
    )
    return parts if math.isfinite(parts.high) else None


def _drift_terms(
    updates: Sequence[ScopeUpdate], scale: float, consecutive: list[float]
) -> list[float] | None:
    """Estimates of ‖d‖² over `scale`, one an update that has enough others before it; None if one is missing."""
    if not all(map(math.isfinite, consecutive)):
        return None
    # Lagged products come out of the Gram, which does not resolve the smallest updates.
    lagged = _terms(updates, scale, LAGS)
    terms = lagged if all(map(math.isfinite, lagged)) and len(lagged) > 1 else consecutive
    return terms if len(terms) > 1 else None


def _terms(updates: Sequence[ScopeUpdate], scale: float, lags: tuple[int, ...]) -> list[float]:
    """Mean over the lags of ⟨u_t, u_{t−lag}⟩ per unit of rate and step, over `scale`, for each t that has them all."""
    terms = []
    for t in range(max(lags), len(updates)):
        after = updates[t]
        dots = (after.dot,) if lags == (1,) else after.lagged_dots
        if len(dots) != len(lags):
            return [math.nan]
        here = [
            dot / scale / (after.rate * after.steps) / (updates[t - lag].rate * updates[t - lag].steps)
            for lag, dot in zip(lags, dots, strict=True)
        ]
        terms.append(sum(here) / len(here))
    return terms


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error with neighbours taken to share half of what they know."""
    count = len(values)
    mean = sum(values) / count
    spread = sum((value - mean) * (value - mean) for value in values) / max(count - 1, 1)
    return mean, math.sqrt(2 * spread / count)
