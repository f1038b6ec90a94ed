"""What a policy sees and what it says."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

__all__ = ["LAGS", "Advice", "AdviceState", "Ahead", "GroupObservation", "Observation", "Policy"]

LAGS = (2, 3, 4)
"""How many updates apart the pairs are whose inner products an observation holds besides consecutive ones."""


class AdviceState(enum.StrEnum):
    """The five words of an advice."""

    EXPLORE = "explore"
    """Direction is still being explored: train everything."""
    CANDIDATE = "candidate"
    """The forecast is under the threshold, not yet long enough."""
    SWITCH = "switch"
    """Norm-only training is advised from here."""
    RESUME = "resume"
    """Direction has started to move again: return to full training."""
    UNKNOWN = "unknown"
    """Nothing can be said: too few, missing, stale or non-finite data."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is planned after a checkpoint. Two sums say all that a forecast needs of a schedule."""

    steps: int
    """Positions left: optimizer steps, or checkpoints in a run without steps. 0 at the end."""
    rate_sum: float = math.nan
    """Σ η over these steps; NaN if the schedule is not known."""
    rate_squared_sum: float = math.nan
    """Σ η² over these steps; NaN if the schedule is not known."""

    @property
    def is_possible(self) -> bool:
        """Whether a schedule can have these numbers: no negative one, and (Σ η)² ≤ steps · Σ η²."""
        if self.steps < 0:
            return False
        if math.isnan(self.rate_sum) and math.isnan(self.rate_squared_sum):
            return True
        sums_are_sizes = 0 <= self.rate_sum < math.inf and 0 <= self.rate_squared_sum < math.inf
        # Rounding of sums over many steps must not make a constant schedule impossible.
        return sums_are_sizes and self.rate_sum * self.rate_sum <= self.steps * self.rate_squared_sum * (
            1 + 1e-6
        )


@dataclass(frozen=True, slots=True)
class GroupObservation:
    """The same products as of the network, of one group or layer. Undefined numbers are NaN."""

    update_squared: float
    update_dot: float
    displacement_squared: float
    lagged_dots: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """One checkpoint of the group `network`, in the order of the path. Undefined numbers are NaN."""

    checkpoint: int
    """Number of the checkpoint; may jump where checkpoints were superseded."""
    previous: int | None
    """Number of the checkpoint before it on the path; None for the initialization."""
    step: int | None
    """Optimizer step; None where the run has no steps, in all of its observations or in none."""
    finite: bool
    """No layer holds NaN or Inf here."""
    complete: bool
    """Every rank's part of the row is there and every entry that it should hold."""
    age_seconds: float | None
    """How old the row was when it was looked at; None for a recorded run."""
    learning_rate: float | None
    """In force at this checkpoint."""
    update_squared: float
    """‖θ_t−θ_{t−1}‖²; NaN at the initialization."""
    update_dot: float
    """⟨θ_t−θ_{t−1}, θ_{t−1}−θ_{t−2}⟩; NaN at the first two checkpoints."""
    displacement_squared: float
    """‖θ_t−θ_0‖²."""
    mds: float = math.nan
    relative_mds: float = math.nan
    norm_squared: float = math.nan
    """‖θ_t‖²."""
    lagged_dots: tuple[float, ...] = ()
    """⟨θ_t−θ_{t−1}, θ_{t−k}−θ_{t−k−1}⟩ for k in LAGS; empty where they are not given, NaN where undefined."""
    objective: float = math.nan
    """What training is for, smaller is better: a loss, or one minus a metric of which more is better, as an accuracy;
    NaN where not given, Inf where it was given as NaN."""
    objective_floor: float = -math.inf
    """Under which it cannot fall; -Inf where that is not known."""
    objective_tolerance: float = math.nan
    """How much of it a switch may cost, in its own unit; NaN where not given."""
    ahead: Ahead | None = None
    """The plan, as of this checkpoint; None where nothing is planned."""
    groups: Mapping[str, GroupObservation] = field(default_factory=dict)
    """Groups by name; `norm` holds the scalars of normalisation layers. Empty where they are not given."""


@dataclass(frozen=True, slots=True)
class Advice:
    """The current word on a run, with what it rests on."""

    state: AdviceState
    checkpoint: int
    """Number of the checkpoint that the advice rests on."""
    evidence: Mapping[str, float]
    """The numbers behind the state, by name; undefined ones are left out."""
    reason: str
    """The same in a sentence."""
    policy: str
    """Name and version of the policy."""

    @property
    def switch(self) -> bool:
        """Whether to train only the normalisation scalars from here."""
        return self.state is AdviceState.SWITCH


State = TypeVar("State")


class Policy(Protocol[State]):
    """Turns a run's observations into advice.

    Pure and deterministic: the same observations in the same order give the same advice, whenever they are
    replayed. A state is a frozen value; ``update`` never changes the one it is given. A policy raises nothing
    on bad data: it says ``unknown``.
    """

    @property
    def name(self) -> str:
        """Name and version, as it travels with the advice."""
        ...

    def init(self) -> State:
        """The state before the first checkpoint."""
        ...

    def update(self, state: State, observation: Observation) -> tuple[State, Advice]:
        """The state after, and the advice as of, one more checkpoint."""
        ...
