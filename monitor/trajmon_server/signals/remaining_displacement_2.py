"""Forecast how far the parameters still have to go, and what full training would still gain on the way.

As :mod:`remaining_displacement`, and besides:

* **The plan.** With the steps and learning rates ahead (:class:`Ahead`) the forecast is of this run. Without, training
  is taken to go on as long again as so far at the current rate; while the rate rises there is then no forecast.
* **The objective**, where it is given, decides: a switch needs the upper end of what full training would still gain
  (:mod:`objective`), times `margin`, under what a switch may cost. The remaining displacement must be under
  `threshold` besides, since a fall of the objective that has not begun cannot be seen in it (grokking). Without an
  objective, the displacement alone decides: it has to be under `blind_threshold`, or, where no plan is known either
  and the forecast is of a run twice as long, under `unplanned_threshold`.
* **Noise.** At a high learning rate the parameters carry noise that a switch would freeze. While the rates ahead are
  on average under `rate_fall` of the current one, the fall is waited for (one that lies far ahead is not seen in that
  average); after one, a forecast needs `settling` updates at about the new rate.
* **The interval.** A switch needs the *upper* ends; taking it back needs the *lower* end of the displacement over
  `resume_threshold`. Doubt means no switch.
* **Taking back.** A switch is also taken back, with or without a forecast, when the objective has become worse since by
  more than twice what a switch may cost and twice its scatter: other data, a broken schedule.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order, finite, unknown
from trajmon_server.signals.base import LAGS, Advice, AdviceState, Ahead, Observation
from trajmon_server.signals.forecast import Forecast, Horizon, ScopeUpdate, forecast
from trajmon_server.signals.objective import LEAST_POINTS, Gain, expected_gain
from trajmon_server.signals.schedule import ROUNDING, has_schedule, look_ahead, rate_behind, rates_ahead
from trajmon_server.signals.track import Track, follow
from trajmon_server.signals.verdict import Verdict, interrupt, judge

__all__ = ["RemainingDisplacement2Policy", "RemainingDisplacement2State"]

_SAME_RATE = 3.0
"""Rates within this factor of each other count as about the same."""
_LEVEL = 3
"""Objectives whose mean is the level at a switch."""
_WORSE_FOR = 2
"""Objectives in a row that are worse than that before a switch is taken back."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """An objective, and the learning rates behind it, summed from the first update that is remembered."""

    rate_sum: float
    rate_squared_sum: float
    objective: float


@dataclass(frozen=True, slots=True)
class Reached:
    """The objective over some checkpoints."""

    level: float
    scatter: float
    """Standard deviation."""

    @classmethod
    def of(cls, objectives: Sequence[float]) -> Reached | None:
        """The level of the last three, the scatter of all; None for fewer, or if one is not finite."""
        if len(objectives) < _LEVEL or not all(map(math.isfinite, objectives)):
            return None
        try:
            return cls(statistics.fmean(objectives[-_LEVEL:]), statistics.pstdev(objectives))
        except OverflowError:
            return None


@dataclass(frozen=True, slots=True)
class RemainingDisplacement2State:
    """What the policy remembers of a run."""

    track: Track = field(default_factory=Track)
    verdict: Verdict = field(default_factory=Verdict)
    recent: tuple[ScopeUpdate, ...] = ()
    """The last updates without a break, oldest first, at most `window`."""
    rate_sum: float = 0.0
    rate_squared_sum: float = 0.0
    """Σ η and Σ η² over the updates without a break."""
    milestones: tuple[Milestone, ...] = ()
    """The last objectives that were given on that path, oldest first, at most `objectives`."""
    told: bool = False
    """Whether an objective was ever given."""
    reached: Reached | None = None
    """The objective when the switch that is in force was advised; None without one."""
    ahead: Ahead | None = None
    """The plan as of the checkpoint before."""
    has_rate: bool = False
    """Whether the learning rate of the last update was known."""
    silent: int = 0
    """Checkpoints since the objective was measured."""


@dataclass(frozen=True, slots=True)
class RemainingDisplacement2Policy:
    """`candidate` while both forecasts are under what they may be, `switch` after `confirmations`."""

    name: ClassVar[str] = "remaining_displacement/2"

    threshold: float = 0.25
    """Relative displacement that full training may forgo, where the objective is given."""
    blind_threshold: float = 0.03
    """The same where it is not."""
    unplanned_threshold: float = 0.15
    """The same where neither an objective nor a plan is given."""
    resume_threshold: float = 0.5
    """When the lower end exceeds this a switch is taken back."""
    margin: float = 1.2
    """How often the upper end of the forecast gain must fit into what a switch may cost."""
    gain_doubt: float = 2.0
    """Standard errors between the forecast gain and its upper end."""
    doubt: float = 1.0
    """Half the width of the displacement's interval, in standard errors."""
    confirmations: int = 2
    window: int = 8
    """Number of updates that a forecast rests on."""
    settling: int = 4
    """Updates at about the current learning rate without which nothing counts as settled."""
    objectives: int = 15
    """Number of the last objectives from which the gain is forecast."""
    rate_fall: float = 0.2
    """Mean of the rates ahead over the current one, under which the fall is waited for."""

    def __post_init__(self) -> None:
        blind, unplanned = self.blind_threshold, self.unplanned_threshold
        check_order(("blind_threshold", blind), ("unplanned_threshold", unplanned), 0, math.inf)
        check_order(("unplanned_threshold", unplanned), ("threshold", self.threshold), 0, math.inf)
        check_order(("threshold", self.threshold), ("resume_threshold", self.resume_threshold), 0, math.inf)
        check_confirmations(self.confirmations)
        if self.window < max(LAGS) + 2:
            raise ValueError(f"window must be at least {max(LAGS) + 2} updates, not {self.window}")
        if not 3 <= self.settling <= self.window:
            raise ValueError(f"settling must be from 3 to window ({self.window}), not {self.settling}")
        if self.objectives < LEAST_POINTS:
            raise ValueError(f"objectives must be at least {LEAST_POINTS}, not {self.objectives}")
        for name in ("doubt", "gain_doubt"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name):g}")
        if not 1 <= self.margin < math.inf:
            raise ValueError(f"margin must be 1 or more, not {self.margin:g}")
        if not 0 <= self.rate_fall <= 1:
            raise ValueError(f"rate_fall must be from 0 to 1, not {self.rate_fall:g}")

    def init(self) -> RemainingDisplacement2State:
        """The state before the first checkpoint."""
        return RemainingDisplacement2State()

    def update(
        self, state: RemainingDisplacement2State, observation: Observation
    ) -> tuple[RemainingDisplacement2State, Advice]:
        """The state after, and the advice as of, one more checkpoint."""
        track, problem = follow(state.track, observation)
        followed = self._remember(replace(state, track=track), observation)
        evidence = finite(mds=observation.mds, relative_mds=observation.relative_mds)
        problem = problem or self._not_yet(followed.recent, observation)
        if problem is None:
            horizon = look_ahead(track, observation, followed.recent[-1].rate)
            steady = _steady(followed.recent)
            used = steady if len(steady) >= self.settling else followed.recent
            outlook = forecast(used, observation.displacement_squared, horizon, self.doubt)
            if outlook is not None:
                return self._judge(followed, observation, outlook, horizon, len(steady), evidence)
            problem = "Products of the last updates are missing or leave the range in which a forecast can be computed."
        rise = _rise(followed)
        if track.unbroken and self._is_worse(followed, observation, rise):
            verdict, word = judge(state.verdict, settled=False, moving=True, confirmations=self.confirmations)
            reason = f"{_worse_sentence(rise)} {problem}"
            advice = Advice(
                word, observation.checkpoint, evidence | finite(objective_rise=rise), reason, self.name
            )
            return replace(_forgetful(followed), verdict=verdict, reached=None), advice
        interrupted = replace(followed, verdict=interrupt(state.verdict))
        return interrupted, unknown(self.name, observation, problem, evidence)

    def _is_worse(self, state: RemainingDisplacement2State, seen: Observation, rise: float) -> bool:
        """Whether the objective has risen by too much since the switch that is in force."""
        if state.reached is None or state.verdict.advised is not AdviceState.SWITCH:
            return False
        return rise > 2 * seen.objective_tolerance + 2 * state.reached.scatter

    def _remember(self, state: RemainingDisplacement2State, seen: Observation) -> RemainingDisplacement2State:
        told = state.told or not math.isnan(seen.objective)
        nothing = replace(
            state,
            recent=(),
            rate_sum=0.0,
            rate_squared_sum=0.0,
            milestones=(),
            told=told,
            ahead=seen.ahead,
            has_rate=seen.learning_rate is not None,
        )
        if not state.track.unbroken:
            return self._with_milestone(nothing, seen)
        update = _update_of(state.track, seen, state.ahead)
        # Distances in another unit, or in none, cannot be added to those before.
        if not 0 < update.rate < math.inf or (state.recent and nothing.has_rate != state.has_rate):
            return self._with_milestone(replace(nothing, recent=(update,)), seen)
        further = replace(
            state,
            ahead=seen.ahead,
            has_rate=nothing.has_rate,
            recent=(*state.recent, update)[-self.window :],
            rate_sum=state.rate_sum + update.rate * update.steps,
            rate_squared_sum=state.rate_squared_sum + update.rate * update.rate * update.steps,
            told=told,
        )
        return self._with_milestone(further, seen)

    def _with_milestone(
        self, state: RemainingDisplacement2State, seen: Observation
    ) -> RemainingDisplacement2State:
        last = state.milestones[-1].objective if state.milestones else math.nan
        # The last value handed over again is no measurement, unless it is the best there can be.
        is_repeated = seen.objective == last and seen.objective_floor < last < math.inf
        if math.isnan(seen.objective) or is_repeated:
            return replace(state, silent=state.silent + 1)
        milestone = Milestone(state.rate_sum, state.rate_squared_sum, seen.objective)
        return replace(state, milestones=(*state.milestones, milestone)[-self.objectives :], silent=0)

    def _not_yet(self, recent: tuple[ScopeUpdate, ...], seen: Observation) -> str | None:
        if len(recent) < self.window:
            return f"A forecast needs {self.window} updates without a break, {len(recent)} are there."
        rates = [update.rate for update in recent]
        if not all(0 < rate < math.inf for rate in rates):
            return f"A learning rate of the last {self.window} updates is not a positive number."
        if seen.ahead is not None and not seen.ahead.is_possible:
            return f"The plan as of checkpoint {seen.checkpoint} is impossible."
        if not has_schedule(seen) and rates[-1] > min(rates) * (1 + ROUNDING):
            return "The learning rate has risen and its schedule is not known: later updates may be larger than these."
        return None

    def _judge(
        self,
        state: RemainingDisplacement2State,
        seen: Observation,
        outlook: Forecast,
        horizon: Horizon,
        steady: int,
        evidence: dict[str, float],
    ) -> tuple[RemainingDisplacement2State, Advice]:
        gain = self._gain(state, outlook, seen.objective_floor)
        threshold = self._threshold(state, seen)
        fall = rates_ahead(seen, state.recent[-1].rate, horizon)
        missing = self._missing(state, seen, outlook, gain, steady, fall)
        rise = _rise(state)
        worse = self._is_worse(state, seen, rise)
        verdict, word = judge(
            state.verdict,
            settled=missing is None and not worse,
            moving=worse or outlook.low > self.resume_threshold,
            confirmations=self.confirmations,
        )
        reached = None
        if verdict.advised is AdviceState.SWITCH:
            lately = [one.objective for one in state.milestones[-self.window :]]
            reached = state.reached or Reached.of(lately)
        evidence |= finite(
            forecast_remaining_displacement=outlook.remaining,
            forecast_low=outlook.low,
            forecast_high=outlook.high,
            forecast_drift=outlook.drift,
            forecast_noise=outlook.noise,
            threshold=threshold,
            resume_threshold=self.resume_threshold,
            expected_gain=math.nan if gain is None else gain.expected,
            expected_gain_high=math.nan if gain is None else gain.high,
            objective_tolerance=seen.objective_tolerance,
            rate_ahead_ratio=fall,
            objective_rise=rise,
            settled_in_a_row=float(verdict.settled_in_a_row),
        )
        reason = f"{_forecast_sentence(seen, outlook)} {self._word_sentence(word, missing)}"
        if worse:
            reason = f"{_worse_sentence(rise)} {_forecast_sentence(seen, outlook)}"
        advice = Advice(word, seen.checkpoint, evidence, reason, self.name)
        after = _forgetful(state) if worse else state
        return replace(after, verdict=verdict, reached=reached), advice

    def _threshold(self, state: RemainingDisplacement2State, seen: Observation) -> float:
        if state.told:
            return self.threshold
        return self.unplanned_threshold if seen.ahead is None else self.blind_threshold

    def _gain(self, state: RemainingDisplacement2State, outlook: Forecast, floor: float) -> Gain | None:
        points = [
            (
                outlook.over(
                    Horizon(state.rate_sum - one.rate_sum, state.rate_squared_sum - one.rate_squared_sum)
                ),
                one.objective,
            )
            for one in state.milestones
        ]
        return expected_gain(points, outlook.remaining, self.gain_doubt, floor)

    def _missing(
        self,
        state: RemainingDisplacement2State,
        seen: Observation,
        outlook: Forecast,
        gain: Gain | None,
        steady: int,
        fall: float,
    ) -> str | None:
        """What a switch still lacks, as a sentence; None if nothing."""
        threshold = self._threshold(state, seen)
        if not outlook.high < threshold:
            times = outlook.high / threshold
            return f"A switch needs the upper end under {threshold:.1%}, {times:.1f} times less than now."
        if fall < self.rate_fall:
            return (
                f"The learning rate is about to fall, to {fall:.0%} of what it is now on average: "
                "a switch before that would freeze the noise of the present rate."
            )
        if steady < self.settling:
            return f"The learning rate has just changed: a switch needs {self.settling} updates at about the new one."
        if not state.told:
            return None
        if state.silent > self.window:
            return f"The objective has not been measured for {state.silent} checkpoints."
        if gain is None or not seen.objective_tolerance > 0:
            return (
                f"How far the objective still falls is not known: that takes {LEAST_POINTS} of its last values, "
                "and how much of it a switch may cost."
            )
        if not gain.high * self.margin < seen.objective_tolerance:
            return (
                f"Full training would still gain {gain.expected:.3g} (at most {gain.high:.3g}) of the objective; "
                f"a switch may cost {seen.objective_tolerance:.3g} and needs a forecast {self.margin:g} times under it."
            )
        return None

    def _word_sentence(self, word: AdviceState, missing: str | None) -> str:
        match word:
            case AdviceState.SWITCH:
                return (
                    "Training only the normalisation scalars should cost little. "
                    f"A lower end over {self.resume_threshold:.1%} would take this back."
                )
            case AdviceState.RESUME:
                return f"Train everything again. {missing or ''}".rstrip()
            case AdviceState.CANDIDATE:
                return "That is little enough for a switch; waiting for confirmation."
        return f"Train all parameters. {missing or ''}".rstrip()


def _update_of(track: Track, seen: Observation, before: Ahead | None) -> ScopeUpdate:
    rate = rate_behind(track, seen, before)
    return ScopeUpdate(seen.update_squared, seen.update_dot, seen.lagged_dots, rate, track.steps)


def _rise(state: RemainingDisplacement2State) -> float:
    """By how much the objective is worse now than when the switch was advised; NaN if that cannot be told."""
    newest = [one.objective for one in state.milestones[-_WORSE_FOR:]]
    if state.reached is None or len(newest) < _WORSE_FOR:
        return math.nan
    # All of the newest are worse: one that stands out is no rise.
    return min(newest) - state.reached.level


def _forgetful(state: RemainingDisplacement2State) -> RemainingDisplacement2State:
    """Without the objectives before they became worse: the line through both would say that nothing is to be gained."""
    return replace(state, milestones=state.milestones[-_WORSE_FOR:])


def _worse_sentence(rise: float) -> str:
    return f"Since the switch was advised the objective has become worse by {rise:.3g} or more: train everything again."


def _steady(recent: tuple[ScopeUpdate, ...]) -> tuple[ScopeUpdate, ...]:
    """The last updates, as far back as the rate was about the current one."""
    now = recent[-1].rate
    count = 0
    for update in reversed(recent):
        if not now / _SAME_RATE <= update.rate <= now * _SAME_RATE:
            break
        count += 1
    return recent[len(recent) - count :]


def _forecast_sentence(seen: Observation, outlook: Forecast) -> str:
    until = "By the planned end" if seen.ahead is not None else "If training went on as long again"
    return (
        f"{until} the parameters would move by about {outlook.remaining:.1%} ({outlook.low:.1%} to "
        f"{outlook.high:.1%}) of their distance from the initialization, {outlook.noise:.1%} of it a random walk."
    )
