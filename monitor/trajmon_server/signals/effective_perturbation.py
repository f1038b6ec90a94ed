"""Baseline after APF: switch once updates undo each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order
from trajmon_server.signals.base import LAGS, GroupObservation, Observation
from trajmon_server.signals.baseline import Baseline
from trajmon_server.signals.track import Track

__all__ = ["EffectivePerturbationPolicy", "effective_perturbation"]

UPDATES = max(LAGS) + 1
"""How many updates the inner products of an observation reach over."""


def effective_perturbation(seen: Sequence[Observation | GroupObservation], decay: float) -> float:
    """‖Σ w_i u_i‖ / Σ w_i ‖u_i‖ over the last UPDATES updates, w_i = decay^age; NaN where a product is missing.

    From inner products alone, so for any scope that has them: 1 where updates go on in one line, 0 where they cancel,
    and 1/√UPDATES (0.45) on average for a random walk of equal steps without decay. `seen`: one observation an
    update, oldest first.
    """
    if len(seen) != UPDATES:
        return math.nan
    weights = [decay**age for age in reversed(range(UPDATES))]
    # In units of the newest update, so that squares of small updates do not vanish.
    unit = seen[-1].update_squared
    if not 0 < unit < math.inf:
        return math.nan
    total, lengths = 0.0, 0.0
    for i, (weight, update) in enumerate(zip(weights, seen, strict=True)):
        total += weight * weight * update.update_squared / unit
        lengths += weight * math.sqrt(update.update_squared / unit)
        dots = (update.update_dot, *update.lagged_dots)
        if i and len(dots) < min(i, len(LAGS) + 1):
            return math.nan
        for lag in range(1, i + 1):
            total += 2 * weight * weights[i - lag] * dots[lag - 1] / unit
    if not (math.isfinite(total) and 0 < lengths < math.inf):
        return math.nan
    return min(math.sqrt(max(total, 0.0)) / lengths, 1.0)


@dataclass(frozen=True, slots=True)
class EffectivePerturbationPolicy(Baseline):
    """Settled while the effective perturbation of the network's last updates is at most `threshold`.

    APF (Chen, Xu, Wang, Li, Li, Chen, Zhang, 2021, "Communication-Efficient Federated Learning with Adaptive
    Parameter Freezing", ICDCS) takes it of every scalar, with exponential averages over many rounds, and freezes at
    0.05. A server sees inner products of whole tensors: here it is that of a vector, over five updates, and random
    updates alone give 0.45. So the threshold is another.
    """

    name: ClassVar[str] = "effective_perturbation/1"
    evidence_name: ClassVar[str] = "effective_perturbation"
    look_back: ClassVar[int] = UPDATES

    threshold: float = 0.5
    resume_threshold: float = 0.7
    """Over this a switch is taken back."""
    decay: float = 1.0
    """Weight of an update against the one after it; at most 1."""
    confirmations: int = 2

    def __post_init__(self) -> None:
        check_order(("threshold", self.threshold), ("resume_threshold", self.resume_threshold), 0, 1)
        check_confirmations(self.confirmations)
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be over 0 and at most 1, not {self.decay:g}")

    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """Of the network."""
        value = effective_perturbation(recent[1:], self.decay)
        return value if math.isfinite(value) else "Inner products of the last updates are not known."

    def settled(self, value: float) -> bool:
        """Updates cancel enough."""
        return value <= self.threshold

    def moving(self, value: float) -> bool:
        """Updates go on in one line."""
        return value > self.resume_threshold

    def sentence(self, value: float) -> str:
        """The number in words."""
        return (
            f"The last {UPDATES} updates together went {value:.0%} of the way that they went one by one; "
            f"the threshold is {self.threshold:.0%}."
        )
