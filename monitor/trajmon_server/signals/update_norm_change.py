"""Baseline after AutoFreeze: switch once the size of updates stops changing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order
from trajmon_server.signals.base import Observation
from trajmon_server.signals.baseline import Baseline
from trajmon_server.signals.track import Track

__all__ = ["UpdateNormChangePolicy"]


@dataclass(frozen=True, slots=True)
class UpdateNormChangePolicy(Baseline):
    """Settled while |g_prev − g| / g_prev is at most `threshold`.

    AutoFreeze (Liu, Agarwal, Venkataraman, 2021, "AutoFreeze: Automatically Freezing Model Blocks to Accelerate
    Fine-tuning", arXiv:2102.01386) takes for g the accumulated gradient of a block and freezes the blocks where it
    changes least. A server sees no gradients: here g is the length of the network's update over its steps and its
    learning rate. So this is an approximation: momentum, weight decay and Adam's scaling are in it, and it is the
    network that is judged, not a block against the others.
    """

    name: ClassVar[str] = "update_norm_change/1"
    evidence_name: ClassVar[str] = "update_norm_change"
    look_back: ClassVar[int] = 2

    threshold: float = 0.05
    resume_threshold: float = 0.2
    """Over this a switch is taken back."""
    confirmations: int = 2

    def __post_init__(self) -> None:
        check_order(("threshold", self.threshold), ("resume_threshold", self.resume_threshold), 0, math.inf)
        check_confirmations(self.confirmations)

    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """Relative change of the last two updates' lengths per step and learning rate."""
        spans = [_steps(before, after) for before, after in pairwise(recent)]
        rates = [1.0 if seen.learning_rate is None else seen.learning_rate for seen in recent[1:]]
        if not all(0 < rate < math.inf for rate in rates):
            return "The learning rate of the last two checkpoints is not known."
        earlier, later = (
            math.sqrt(seen.update_squared) / span / rate
            for seen, span, rate in zip(recent[1:], spans, rates, strict=True)
        )
        return abs(earlier - later) / earlier if earlier > 0 else math.nan

    def settled(self, value: float) -> bool:
        """Steady enough."""
        return value <= self.threshold

    def moving(self, value: float) -> bool:
        """Too unsteady."""
        return value > self.resume_threshold

    def sentence(self, value: float) -> str:
        """The number in words."""
        return f"The size of updates changed by {value:.1%} from the last one; the threshold is {self.threshold:.1%}."


def _steps(before: Observation, after: Observation) -> int:
    return 1 if before.step is None or after.step is None else after.step - before.step
