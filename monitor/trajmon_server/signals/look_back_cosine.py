"""Baseline: switch once the parameters point where they pointed a checkpoint ago."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order
from trajmon_server.signals.base import Observation
from trajmon_server.signals.baseline import Baseline
from trajmon_server.signals.track import Track

__all__ = ["LookBackCosinePolicy"]


@dataclass(frozen=True, slots=True)
class LookBackCosinePolicy(Baseline):
    """Settled while 1 − cos(θ_t, θ_{t−1}), seen from the origin, is at most `threshold`.

    The part of the paper's cosine to the final weights that is known while training (an entry next to the diagonal of
    the trajectory map). Naive: it depends on how far apart checkpoints are, and the cosine about the origin is near 1
    in runs that are far from done.
    """

    name: ClassVar[str] = "look_back_cosine/1"
    evidence_name: ClassVar[str] = "look_back_one_minus_cosine"
    look_back: ClassVar[int] = 1

    threshold: float = 1e-3
    resume_threshold: float = 5e-3
    """Over this a switch is taken back."""
    confirmations: int = 2

    def __post_init__(self) -> None:
        check_order(("threshold", self.threshold), ("resume_threshold", self.resume_threshold), 0, 2)
        check_confirmations(self.confirmations)

    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """1 − cos, from the update's own square: no digits are lost to subtraction near cos = 1."""
        before, now = (math.sqrt(seen.norm_squared) if seen.norm_squared > 0 else math.nan for seen in recent)
        if not (0 < before < math.inf and 0 < now < math.inf):
            return "The norm of the last two checkpoints is not known."
        growth = now - before
        # ‖a−b‖² = (‖a‖−‖b‖)² + 2 ‖a‖‖b‖ (1 − cos); rounding may leave a trace below 0.
        along = recent[-1].update_squared / before / now / 2
        return max(along - growth / before * (growth / now) / 2, 0.0)

    def settled(self, value: float) -> bool:
        """Near enough."""
        return value <= self.threshold

    def moving(self, value: float) -> bool:
        """Too far."""
        return value > self.resume_threshold

    def sentence(self, value: float) -> str:
        """The number in words."""
        return f"One minus the cosine to the checkpoint before is {value:.2g}; the threshold is {self.threshold:g}."
