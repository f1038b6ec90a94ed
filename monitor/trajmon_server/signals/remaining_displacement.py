"""The default policy: forecast how far the parameters still have to go.

What makes a switch to norm-only training safe is not that the direction looks settled (the cosine to the
final parameters can be 0.999 while most of the way is still ahead) but that little *relative displacement*
remains: ‖θ_end−θ_t‖ / ‖θ_t−θ_0‖. The end is not known while training. The forecast rests on three stated
assumptions:

* training goes on **as long again as so far**, N steps: nothing here knows the plan of a run, and a run that
has
  lasted N steps is more likely than not to be cut short of that;
* at the **current learning rate η**: a later drop makes the true remainder smaller, never larger. While the
learning
  rate rises this does not hold, and the policy says so instead of forecasting;
* updates go on as the last WINDOW did: an update over h steps is ``η (h d + √h n)`` with a drift d that
persists and
  noise n that does not. Inner products of consecutive updates hold only d², squares hold both.

Hence  forecast² = (η² N² d² + η² N n²) / ‖θ_t−θ_0‖².  Persistence shorter than the window counts as lasting,
so the forecast errs towards "still moving"; a negative d² (oscillation) counts as no drift, all of it as
noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from trajmon_server.signals.base import Advice, AdviceState, Observation

__all__ = ["RemainingDisplacementPolicy", "RemainingDisplacementState"]


@dataclass(frozen=True, slots=True)
class Update:
    """One update with what is needed to compare it with others."""

    squared: float
    dot: float
    """With the update before it; NaN if that one is not known."""
    learning_rate: float
    """1 where none is known."""
    steps: int
    """How many optimizer steps it spans; 1 where steps are not known."""


@dataclass(frozen=True, slots=True)
class RemainingDisplacementState:
    """What the policy remembers of a run."""

    checkpoint: int | None = None
    """Last one seen."""
    step: int | None = None
    """Its position in steps, or in checkpoints where steps are not known; None if it cannot be told."""
    origin_step: int | None = None
    """Position of the initialization; None until it was seen."""
    updates: tuple[Update, ...] = ()
    """The last ones without a break, oldest first, at most WINDOW."""
    low_forecasts: int = 0
    """How many forecasts in a row were under the threshold."""
    advised: AdviceState = AdviceState.EXPLORE
    """`switch` or `resume` after one of them was advised, until another word replaces it."""
    interrupted: bool = False
    """The advice was `unknown` since: a switch is not repeated until it is confirmed anew."""


@dataclass(frozen=True, slots=True)
class RemainingDisplacementPolicy:
    """Advises norm-only training once the forecast remaining displacement stays small.

    `candidate` after one forecast under `threshold`, `switch` after `confirmations` in a row, `resume` when
    after a switch a forecast exceeds `resume_threshold`. Anything missing, stale, non-finite or standing
    still gives `unknown` and starts the count again.
    """

    threshold: float = 0.1
    """Relative displacement that full training may forgo."""
    resume_threshold: float = 0.2
    """Above this a switch is taken back; higher than `threshold`, so that noise does not flip the advice."""
    confirmations: int = 2
    window: int = 4
    """Number of updates that a forecast rests on."""
    stale_after_seconds: float = 3600.0
    """A row older than this says nothing about now."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < self.resume_threshold < math.inf:
            raise ValueError(
                f"thresholds must be positive and rising, not {self.threshold} and {self.resume_threshold}"
            )
        if self.confirmations < 1 or self.window < 2 or not self.stale_after_seconds > 0:
            raise ValueError("a policy needs at least one confirmation, two updates and a positive age limit")

    @property
    def name(self) -> str:
        """Name and version."""
        return "remaining_displacement/1"

    def init(self) -> RemainingDisplacementState:
        """The state before the first checkpoint."""
        return RemainingDisplacementState()

    def update(
        self, state: RemainingDisplacementState, observation: Observation
    ) -> tuple[RemainingDisplacementState, Advice]:
        """The state after, and the advice as of, one more checkpoint."""
        followed, problem = self._follow(state, observation)
        evidence = _finite(mds=observation.mds, relative_mds=observation.relative_mds)
        if problem is None:
            forecast = _forecast(followed, observation)
            if math.isfinite(forecast["forecast_remaining_displacement"]):
                evidence |= _finite(**forecast)
                return self._judge(followed, observation, evidence)
            problem = "The numbers of the last updates leave the range in which a forecast can be computed."
        unknown = replace(followed, low_forecasts=0, interrupted=True)
        return unknown, self._advice(AdviceState.UNKNOWN, observation, evidence, f"{problem} No advice.")

    def _follow(
        self, state: RemainingDisplacementState, seen: Observation
    ) -> tuple[RemainingDisplacementState, str | None]:
        """Take the observation into the state; the second value says why no forecast is possible."""
        start = state.checkpoint is None
        if seen.step is not None:
            position: int | None = seen.step
        elif start:
            position = 0
        else:
            position = None if state.step is None else state.step + 1
        broken = state if start else replace(state, updates=())
        moved = replace(broken, checkpoint=seen.checkpoint, step=position)
        if start:
            if seen.previous is not None:
                return moved, "The first checkpoints of this run are missing."
            if not (seen.complete and seen.finite):
                return moved, "The initialization is incomplete or holds NaN or Inf."
            return replace(moved, origin_step=position), "Too few checkpoints for a forecast."
        if not seen.complete:
            return moved, f"Checkpoint {seen.checkpoint} is incomplete."
        if not seen.finite:
            return moved, f"Checkpoint {seen.checkpoint} holds NaN or Inf."
        if not (math.isfinite(seen.update_squared) and math.isfinite(seen.displacement_squared)):
            return moved, f"The update to checkpoint {seen.checkpoint} is missing or too small to tell."
        if not (seen.update_squared > 0 and seen.displacement_squared > 0):
            return moved, f"The parameters did not change up to checkpoint {seen.checkpoint}."
        if seen.previous != state.checkpoint:
            return moved, f"The checkpoints before {seen.checkpoint} are missing."
        if state.origin_step is None or state.step is None or position is None:
            return moved, "The beginning of this run is missing."
        steps = position - state.step
        if steps <= 0 or position <= state.origin_step:
            return moved, f"The step count did not grow up to checkpoint {seen.checkpoint}."
        rate = 1.0 if seen.learning_rate is None else seen.learning_rate
        if not 0 < rate < math.inf:
            return moved, f"The learning rate at checkpoint {seen.checkpoint} is {rate:g}."
        dot = seen.update_dot if state.updates else math.nan
        updates = (*state.updates, Update(seen.update_squared, dot, rate, steps))[-self.window :]
        followed = replace(moved, updates=updates)
        return followed, self._not_yet(followed, seen)

    def _not_yet(self, state: RemainingDisplacementState, seen: Observation) -> str | None:
        updates = state.updates
        if len(updates) < self.window:
            return f"A forecast needs {self.window} updates without a break, {len(updates)} are there."
        if not all(math.isfinite(update.dot) for update in updates[1:]):
            return "The angle between two of the last updates is not known."
        if updates[-1].learning_rate > min(update.learning_rate for update in updates):
            return "The learning rate has risen: later updates will be larger than these."
        if seen.age_seconds is not None and not seen.age_seconds <= self.stale_after_seconds:
            return f"Checkpoint {seen.checkpoint} is {seen.age_seconds:.0f} seconds old."
        return None

    def _judge(
        self, state: RemainingDisplacementState, seen: Observation, evidence: dict[str, float]
    ) -> tuple[RemainingDisplacementState, Advice]:
        forecast = evidence["forecast_remaining_displacement"]
        low = state.low_forecasts + 1 if forecast < self.threshold else 0
        advised, interrupted = state.advised, state.interrupted
        if low >= self.confirmations:
            advised, interrupted = AdviceState.SWITCH, False
        elif forecast > self.resume_threshold and advised is AdviceState.SWITCH:
            advised = AdviceState.RESUME
        elif low and advised is AdviceState.RESUME:
            advised = AdviceState.EXPLORE
        word = AdviceState.EXPLORE if advised is AdviceState.SWITCH and interrupted else advised
        if low and word is AdviceState.EXPLORE:
            word = AdviceState.CANDIDATE
        evidence |= {"threshold": self.threshold, "low_forecasts_in_a_row": float(low)}
        reason = self._sentence(word, forecast)
        judged = replace(state, low_forecasts=low, advised=advised, interrupted=interrupted)
        return judged, self._advice(word, seen, evidence, reason)

    def _sentence(self, word: AdviceState, forecast: float) -> str:
        still = (
            "If training went on as long again at the current learning rate, the parameters would move by "
            f"about {forecast:.1%} of their distance from the initialization"
        )
        match word:
            case AdviceState.SWITCH:
                return f"{still}; training only the normalisation scalars should cost little."
            case AdviceState.CANDIDATE:
                return f"{still}, under the threshold of {self.threshold:.0%}; waiting for confirmation."
            case AdviceState.RESUME:
                return f"{still}, over {self.resume_threshold:.0%} after a switch: train everything again."
            case _:
                return f"{still}; the threshold is {self.threshold:.0%}. Train all parameters."

    def _advice(
        self, word: AdviceState, seen: Observation, evidence: dict[str, float], reason: str
    ) -> Advice:
        return Advice(word, seen.checkpoint, evidence, reason, self.name)


def _forecast(state: RemainingDisplacementState, seen: Observation) -> dict[str, float]:
    """Forecast and its parts, relative to ‖θ_t−θ_0‖; inf where float64 is left."""
    updates = state.updates
    assert state.step is not None
    assert state.origin_step is not None
    now, ahead = updates[-1].learning_rate, state.step - state.origin_step
    distance_squared = seen.displacement_squared
    crosses, noises = [], []
    for before, update in pairwise(updates):
        scale = (now / update.learning_rate / update.steps) * (now / before.learning_rate / before.steps)
        crosses.append(update.dot / distance_squared * scale)
    drift_squared = max(sum(crosses) / len(crosses), 0.0)
    for update in updates:
        scale = now / update.learning_rate
        square = update.squared / distance_squared * scale * scale
        noises.append(max(square / update.steps - drift_squared * update.steps, 0.0))
    noise_squared = sum(noises) / len(noises)
    drift, noise = math.sqrt(drift_squared) * ahead, math.sqrt(noise_squared * ahead)
    return {
        "forecast_remaining_displacement": math.hypot(drift, noise),
        "forecast_drift": drift,
        "forecast_noise": noise,
        "last_update_relative": math.sqrt(updates[-1].squared / distance_squared),
        "horizon_steps": float(ahead),
    }


def _finite(**numbers: float) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
