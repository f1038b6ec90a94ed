"""Learning rates ahead: one for each interval between two checkpoints, constant inside of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the peak learning rate is multiplied by.

    >>> [Schedule("step").factor(t, 8) for t in (0, 3, 4, 6)]
    [1.0, 1.0, 0.1, 0.01]
    >>> [round(Schedule("cosine", warm_up=2).factor(t, 6), 3) for t in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """

    shape: Literal["constant", "step", "cosine"]
    """Of what follows the warm-up; ``step`` drops by 10 after a half and after three quarters of the run."""
    warm_up: int = 0
    """Intervals over which it rises to 1 in equal steps."""

    def factor(self, interval: int, intervals: int) -> float:
        """Factor of an interval, counted from 0, in a run of so many."""
        if interval < self.warm_up:
            return (interval + 1) / self.warm_up
        if self.shape == "constant":
            return 1.0
        if self.shape == "step":
            drops = (interval >= intervals // 2) + (interval >= intervals * 3 // 4)
            return (1.0, 0.1, 0.01)[drops]
        done = (interval - self.warm_up) / (intervals - self.warm_up)
        return 0.5 * (1.0 + math.cos(math.pi * done))
