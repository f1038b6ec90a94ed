"""What happens when everything but the norm scalars is frozen at a checkpoint, and at which ones that is tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.switch.recipes import Recipe
from benchmarks.switch.tasks import Score
from benchmarks.switch.training import State, Training

from trajmon import SwitchReport, switch_to_norm_only

__all__ = [
    "TAIL",
    "Outcome",
    "allowed_loss",
    "earliest_safe",
    "next_switch_point",
    "norm_only_outcome",
    "switched",
]

TAIL = 3
"""Checkpoints at the end of which an outcome keeps the metric, so that its scatter can be told."""

_COARSE = (0.025, 0.075, 0.15, 0.25, 0.375, 0.525, 0.7, 0.875)
"""Where every run is tried, as fractions of it."""
_REFINEMENTS = 3
"""Tries more, to halve the gap before the earliest safe one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one switch."""

    final: Score
    """At the last checkpoint."""
    tail: tuple[float, ...]
    """Metric at the last :data:`TAIL` checkpoints; NaN at those that are not after the switch."""
    trained: int
    """Parameters that were trained after it."""


def switched(
    recipe: Recipe, state: State, *, keep: str | tuple[str, ...] = ()
) -> tuple[Training, SwitchReport]:
    """The full run's state restored, and switched to norm-only training there.

    Data, random numbers and learning rates ahead are those that the full run had. `keep` as in
    :func:`trajmon.switch_to_norm_only`: what stays trainable beside the norm scalars; nothing in the benchmark.
    """
    training = Training(recipe)
    training.restore(state)
    return training, switch_to_norm_only(training.network, training.optimizer, keep=keep)


def norm_only_outcome(recipe: Recipe, state: State, *, keep: str | tuple[str, ...] = ()) -> Outcome:
    """Train on to the end from a :func:`switched` state of a checkpoint before the last."""
    training, report = switched(recipe, state, keep=keep)
    tail = [math.nan] * TAIL
    score = Score(math.nan, math.nan)
    while not training.is_over:
        training.advance()
        remaining = recipe.intervals - training.checkpoint
        if remaining < TAIL:
            score = training.score()
            tail[TAIL - 1 - remaining] = score.metric
    return Outcome(score, tuple(tail), report.trainable_after)


def allowed_loss(metric_name: str, full_final: float) -> float:
    """How much of the metric a safe switch may cost: one point of an accuracy, one per cent of a loss.

    >>> allowed_loss("accuracy", 0.9), allowed_loss("minus_loss", -2.0)
    (0.01, 0.02)
    """
    return 0.01 if metric_name == "accuracy" else 0.01 * abs(full_final)


def earliest_safe(finals: Mapping[int, float], full_final: float, allowed: float) -> int | None:
    """The first tried switch point from which on every tried one ends within `allowed` of full training.

    `finals`: final metric by switch point. None if even the last one does not; NaN is never safe.

    >>> earliest_safe({1: 0.5, 4: 0.9, 8: 0.7, 12: 0.895, 20: 0.9}, 0.9, 0.01)
    12
    """
    safe = None
    for point in sorted(finals, reverse=True):
        # Differences of accuracies that are one point apart come out a rounding error above it.
        if not full_final - finals[point] <= allowed * (1 + 1e-9):
            break
        safe = point
    return safe


def next_switch_point(
    finals: Mapping[int, float], full_final: float, allowed: float, last: int
) -> int | None:
    """Which checkpoint to try next; None when all is known that is asked for.

    First the same fractions of every run, from its end; then halfway between the earliest safe one and the unsafe one
    before it, a few times. `finals` as in :func:`earliest_safe`; `last` is the number of the last checkpoint.

    >>> tried = {}
    >>> while (point := next_switch_point(tried, 1.0, 0.01, 40)) is not None:
    ...     tried[point] = 1.0 if point >= 12 else 0.5
    >>> sorted(tried)
    [1, 3, 6, 10, 11, 12, 15, 21, 28, 35]
    """
    latest = max(last - 1, 1)
    coarse = sorted({min(max(1, round(last * fraction)), latest) for fraction in _COARSE}, reverse=True)
    for point in coarse:
        if point not in finals:
            return point
    if len(finals) >= len(coarse) + _REFINEMENTS:
        return None
    safe = earliest_safe(finals, full_final, allowed)
    upper = last if safe is None else safe
    lower = max((point for point in finals if point < upper), default=0)
    # Before the first try lies the initialization, which is not tried: nothing is learnt there.
    middle = (lower + upper) // 2
    return middle if middle > lower and middle not in finals and middle > 0 else None
