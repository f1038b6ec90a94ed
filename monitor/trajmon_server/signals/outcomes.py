"""What a signal was worth, in a run where switching was tried at several checkpoints.

The loss of a switch between two tried checkpoints is taken to be the worse of the two; the end of the run counts as
tried, with a loss of 0. Before the first tried checkpoint nothing is known.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["Outcomes", "Score", "score", "share_floor"]

_POINTS = 0.05
"""A switch that may cost more of a metric than this is of one that does not end at 1."""


def share_floor(tolerance: float) -> float:
    """Where one minus a metric ends of which more is better: at 0 if the metric is a share, as an accuracy.

    What a switch may cost tells shares from percentages and scores: -Inf for those, and where it is not known.

    >>> share_floor(0.01), share_floor(1.0)
    (0.0, -inf)
    """
    return 0.0 if 0 <= tolerance <= _POINTS else -math.inf


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How switches at some checkpoints ended, beside full training. Larger metrics are better.

    Raises ValueError if the numbers do not belong together.
    """

    positions: tuple[float, ...]
    """Of all checkpoints, rising: steps, or checkpoint numbers."""
    tried: tuple[int, ...]
    """Checkpoints from which norm-only training went on to the end, rising."""
    reached: tuple[float, ...]
    """Final metric of each try; NaN where it diverged."""
    full_final: float
    """Final metric of full training."""
    delta: float
    """Loss of metric that a switch may cost."""

    def __post_init__(self) -> None:
        end = len(self.positions) - 1
        rises = all(a < b for a, b in zip(self.tried, self.tried[1:], strict=False))
        if not self.tried or not rises or self.tried[0] < 0 or self.tried[-1] > end:
            raise ValueError(f"switch points must be rising checkpoints from 0 to {end}, and at least one")
        if len(self.reached) != len(self.tried):
            raise ValueError(
                f"{len(self.tried)} switch points need as many outcomes, not {len(self.reached)}"
            )
        if end < 1 or not all(a < b for a, b in zip(self.positions, self.positions[1:], strict=False)):
            raise ValueError("the steps of at least two checkpoints must rise")
        if not math.isfinite(self.full_final):
            raise ValueError("the final metric of full training is not finite")
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be a positive number, not {self.delta:g}")

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Tried checkpoints and the metric lost there; infinite where the try diverged. The end is the last one."""
        lost = [
            (point, math.inf if math.isnan(value) else self.full_final - value)
            for point, value in zip(self.tried, self.reached, strict=True)
        ]
        end = len(self.positions) - 1
        return tuple(lost if lost[-1][0] == end else [*lost, (end, 0.0)])

    @property
    def earliest_safe(self) -> int:
        """The first tried checkpoint from which on none loses more than delta; the end if there is no other."""
        safe = len(self.positions) - 1
        for point, lost in reversed(self.points):
            if self.is_too_much(lost):
                break
            safe = point
        return safe

    def is_too_much(self, lost: float) -> bool:
        """Whether so much metric is more than delta; differences of metrics that are delta apart round to above it."""
        return lost > self.delta * (1 + 1e-9)

    def lost_at(self, checkpoint: int) -> float:
        """Metric lost by a switch there: of the neighbouring tries the worse one; NaN before the first."""
        points = self.points
        after = bisect_left(points, (checkpoint, -math.inf))
        if after < len(points) and points[after][0] == checkpoint:
            return points[after][1]
        if after == 0:
            return math.nan
        return max(lost for _, lost in points[after - 1 : after + 1])


@dataclass(frozen=True, slots=True)
class Score:
    """One policy on one run."""

    signal: int | None
    """Checkpoint of its first `switch`; None if it never came."""
    earliest_safe: int
    regret: float
    """Metric lost at the signal, at least 0; 0 if it never came; NaN where not known, inf where the try diverged."""
    regret_in_deltas: float
    lateness: float
    """Part of the run between the earliest safe point and the signal, or the end if it never came; 0 if earlier."""
    wrong: bool | None
    """Whether more than delta is lost at the signal; None where that is not known."""

    @property
    def never_signalled(self) -> bool:
        """No `switch` in the whole run."""
        return self.signal is None


def score(outcomes: Outcomes, signal: int | None) -> Score:
    """What a first `switch` at checkpoint `signal` was worth. What is said after it does not count.

    >>> run = Outcomes((0, 1, 2, 3, 4), (0, 1, 2), (0.2, 0.7, 0.9), full_final=0.9, delta=0.01)
    >>> score(run, 3).lateness, score(run, 1).wrong, run.earliest_safe
    (0.25, True, 2)
    """
    end, safe = len(outcomes.positions) - 1, outcomes.earliest_safe
    if signal is not None and not 0 <= signal <= end:
        raise ValueError(f"the signal is at checkpoint {signal}, the run has 0 to {end}")
    lost = 0.0 if signal is None else outcomes.lost_at(signal)
    regret = lost if math.isnan(lost) else max(lost, 0.0)
    at = outcomes.positions[end if signal is None else signal]
    length = outcomes.positions[end] - outcomes.positions[0]
    return Score(
        signal=signal,
        earliest_safe=safe,
        regret=regret,
        regret_in_deltas=regret / outcomes.delta,
        lateness=max(at - outcomes.positions[safe], 0.0) / length,
        wrong=None if math.isnan(lost) else outcomes.is_too_much(lost),
    )
