"""Forecast how far the parameters still have to go, with an interval, and with the plan where there is one.

As :mod:`remaining_displacement`, and besides:

* **The plan.** With the steps and learning rates ahead (:class:`Ahead`) the forecast is of this run. Without, training
  is taken to go on as long again as so far at the current rate; while the rate rises there is then no forecast.
* **The interval.** A switch needs the *upper* end of the forecast under the threshold; taking it back needs the
  *lower* end over the other. Doubt means no switch.
* **Power of the norm scalars.** The same displacement costs more where norm scalars can do less. What a server sees
  of it is the share of the group `norm` in the squared updates of the last window: where that is under
  `full_power_share`, the threshold shrinks in proportion, down to `least_power` of it; where it is not known, it is
  the smallest.
* **The objective**, where it is given: what it would still fall by, if it went on falling per unit of learning rate
  as in the window, must stay under the tolerance, in so far as norm scalars lack the power to make up for it.

None of the parameters was fitted on runs with outcomes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order, finite, unknown
from trajmon_server.signals.base import LAGS, Advice, AdviceState, Observation
from trajmon_server.signals.forecast import Forecast, Horizon, ScopeUpdate, forecast
from trajmon_server.signals.objective import Progress, still_to_gain
from trajmon_server.signals.track import Track, follow
from trajmon_server.signals.verdict import Verdict, interrupt, judge

__all__ = ["RemainingDisplacement2Policy", "RemainingDisplacement2State", "look_ahead"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one update leaves in memory."""

    update: ScopeUpdate
    norm_squared_update: float
    """‖update‖² of the group `norm`; NaN where it is not given."""
    objective: float


@dataclass(frozen=True, slots=True)
class RemainingDisplacement2State:
    """What the policy remembers of a run."""

    track: Track = field(default_factory=Track)
    verdict: Verdict = field(default_factory=Verdict)
    recent: tuple[Seen, ...] = ()
    """The last updates without a break, oldest first, at most `window`."""


@dataclass(frozen=True, slots=True)
class RemainingDisplacement2Policy:
    """`candidate` while the upper end of the forecast is under the threshold, `switch` after `confirmations`."""

    name: ClassVar[str] = "remaining_displacement/2"

    threshold: float = 0.1
    """Relative displacement that full training may forgo, where norm scalars have power."""
    resume_threshold: float = 0.2
    """When the lower end exceeds this a switch is taken back; it does not shrink with the power."""
    confirmations: int = 2
    window: int = 8
    """Number of updates that a forecast rests on."""
    doubt: float = 1.0
    """Half the width of the interval, in standard errors."""
    full_power_share: float = 0.01
    """Share of the norm scalars in squared updates from which on they count as powerful."""
    least_power: float = 0.25
    """The threshold never shrinks under this part of itself."""

    def __post_init__(self) -> None:
        check_order(("threshold", self.threshold), ("resume_threshold", self.resume_threshold), 0, math.inf)
        check_confirmations(self.confirmations)
        if self.window < max(LAGS) + 2:
            raise ValueError(f"window must be at least {max(LAGS) + 2} updates, not {self.window}")
        if not 0 <= self.doubt < math.inf:
            raise ValueError(f"doubt must be 0 or more, not {self.doubt:g}")
        if not (0 < self.full_power_share <= 1 and 0 < self.least_power <= 1):
            raise ValueError("full_power_share and least_power must be over 0 and at most 1")

    def init(self) -> RemainingDisplacement2State:
        """The state before the first checkpoint."""
        return RemainingDisplacement2State()

    def update(
        self, state: RemainingDisplacement2State, observation: Observation
    ) -> tuple[RemainingDisplacement2State, Advice]:
        """The state after, and the advice as of, one more checkpoint."""
        track, problem = follow(state.track, observation)
        recent = (*state.recent, _seen(track, observation))[-self.window :] if track.unbroken else ()
        followed = replace(state, track=track, recent=recent)
        evidence = finite(mds=observation.mds, relative_mds=observation.relative_mds)
        problem = problem or self._not_yet(recent, observation)
        if problem is None:
            horizon = look_ahead(track, observation, recent[-1].update.rate)
            updates = [seen.update for seen in recent]
            outlook = forecast(updates, observation.displacement_squared, horizon, self.doubt)
            if outlook is not None:
                return self._judge(followed, observation, outlook, horizon, evidence)
            problem = "Products of the last updates are missing or leave the range in which a forecast can be computed."
        interrupted = replace(followed, verdict=interrupt(state.verdict))
        return interrupted, unknown(self.name, observation, problem, evidence)

    def _not_yet(self, recent: tuple[Seen, ...], seen: Observation) -> str | None:
        if len(recent) < self.window:
            return f"A forecast needs {self.window} updates without a break, {len(recent)} are there."
        rates = [one.update.rate for one in recent]
        if not all(0 < rate < math.inf for rate in rates):
            return f"A learning rate of the last {self.window} updates is not a positive number."
        if seen.ahead is not None and not seen.ahead.is_possible:
            return f"The plan as of checkpoint {seen.checkpoint} is impossible."
        if not _has_schedule(seen) and rates[-1] > min(rates):
            return "The learning rate has risen and its schedule is not known: later updates may be larger than these."
        return None

    def _judge(
        self,
        state: RemainingDisplacement2State,
        seen: Observation,
        outlook: Forecast,
        horizon: Horizon,
        evidence: dict[str, float],
    ) -> tuple[RemainingDisplacement2State, Advice]:
        share = _norm_share(state.recent)
        power = (
            min(max(share / self.full_power_share, self.least_power), 1.0) if share >= 0 else self.least_power
        )
        threshold = self.threshold * power
        gain = self._gain(state.recent, horizon)
        # Where norm scalars have full power they make up for what other parameters would still have gained.
        told = any(not math.isnan(one.objective) for one in state.recent)
        # An objective of which the window says too little is a doubt, not a permission.
        costs_too_much = told and not gain * (1 - power) <= seen.objective_tolerance
        verdict, word = judge(
            state.verdict,
            settled=outlook.high < threshold and not costs_too_much,
            moving=outlook.low > self.resume_threshold,
            confirmations=self.confirmations,
        )
        evidence |= finite(
            forecast_remaining_displacement=outlook.remaining,
            forecast_low=outlook.low,
            forecast_high=outlook.high,
            forecast_drift=outlook.drift,
            forecast_noise=outlook.noise,
            horizon_rate_sum=horizon.rate_sum,
            norm_update_share=share,
            threshold=threshold,
            resume_threshold=self.resume_threshold,
            objective_still_to_gain=gain,
            settled_in_a_row=float(verdict.settled_in_a_row),
        )
        reason = self._sentence(word, seen, outlook, threshold, costs_too_much)
        return replace(state, verdict=verdict), Advice(word, seen.checkpoint, evidence, reason, self.name)

    def _gain(self, recent: tuple[Seen, ...], horizon: Horizon) -> float:
        progress = [Progress(one.objective, one.update.rate * one.update.steps) for one in recent]
        return still_to_gain(progress, horizon.rate_sum, self.doubt)

    def _sentence(
        self, word: AdviceState, seen: Observation, outlook: Forecast, threshold: float, costs_too_much: bool
    ) -> str:
        until = "By the planned end" if seen.ahead is not None else "If training went on as long again"
        still = (
            f"{until} the parameters would move by about {outlook.remaining:.1%} ({outlook.low:.1%} to "
            f"{outlook.high:.1%}) of their distance from the initialization, {outlook.noise:.1%} of it a random walk"
        )
        match word:
            case AdviceState.SWITCH:
                return (
                    f"{still}; training only the normalisation scalars should cost little. "
                    f"A lower end over {self.resume_threshold:.1%} would take this back."
                )
            case AdviceState.RESUME:
                return f"{still}: train everything again, until the upper end is under {threshold:.1%}."
        if outlook.high < threshold:
            then = (
                "; the objective still falls by more than a switch may cost."
                if costs_too_much
                else f", under the threshold of {threshold:.1%}; waiting for confirmation."
            )
            return still + then
        return (
            f"{still}. Train all parameters: a switch needs the upper end under {threshold:.1%}, "
            f"{outlook.high / threshold:.1f} times less than now."
        )


def look_ahead(track: Track, seen: Observation, rate: float) -> Horizon:
    """The plan, as far as it is known; else as long again as so far, at `rate`."""
    if seen.ahead is None:
        return Horizon(track.elapsed * rate, track.elapsed * rate * rate)
    if _has_schedule(seen):
        return Horizon(seen.ahead.rate_sum, seen.ahead.rate_squared_sum)
    return Horizon(seen.ahead.steps * rate, seen.ahead.steps * rate * rate)


def _has_schedule(seen: Observation) -> bool:
    """Whether rates ahead are known, in the unit of the rates so far."""
    return seen.ahead is not None and seen.learning_rate is not None and math.isfinite(seen.ahead.rate_sum)


def _seen(track: Track, seen: Observation) -> Seen:
    rate = 1.0 if seen.learning_rate is None else seen.learning_rate
    norm = seen.groups.get("norm")
    update = ScopeUpdate(seen.update_squared, seen.update_dot, seen.lagged_dots, rate, track.steps)
    return Seen(update, math.nan if norm is None else norm.update_squared, seen.objective)


def _norm_share(recent: tuple[Seen, ...]) -> float:
    """Of the group `norm` in the squared updates; NaN where it is not given."""
    total = sum(one.update.squared for one in recent)
    share = sum(one.norm_squared_update for one in recent) / total
    return share if 0 <= share <= 1 else math.nan
