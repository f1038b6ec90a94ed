"""What a training intends: how long it goes on, at which learning rates, and what it is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Plan", "PlanAhead", "completed", "default_tolerance"]

_NAME_CHARACTERS = 64
_ACCURACY_TOLERANCE = 0.01
_LOSS_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a training intends, for :func:`trajmon.watch`; everything is optional. Raises ValueError.

    With the steps and rates ahead the server forecasts to the planned end, without them as long again as so far. With
    the objective it sees what training still gains.

    >>> plan = Plan(total_steps=1000, learning_rate=lambda step: 0.1 * (1 - step / 1000), objective="loss")
    >>> plan.larger_is_better
    False
    """

    total_steps: int | None = None
    """Optimizer steps at the end of training, as counted by ``checkpoint(step=...)``."""
    learning_rate: Callable[[int], float] | LRScheduler | None = None
    """Of the first parameter group, at each step: a function of the number of steps taken before, or a scheduler of
    PyTorch. A scheduler is not touched: a copy of it is stepped once, when `watch` is called. Needs `total_steps`."""
    steps_per_rate: int = 1
    """How many optimizer steps each rate holds for: those of an epoch where the schedule goes by epochs. The function
    is then asked for 0, 1, … epochs."""
    objective: str | None = None
    """Name of the metric that training is for, one of ``checkpoint(metrics=...)``."""
    larger_is_better: bool = False
    """True for an accuracy, False for a loss."""
    tolerance: float | None = None
    """How much of the objective a switch may cost, in its own unit. Without, 0.01 where larger is better and the metric
    lies from 0 to 1, and one per cent of the metric's size where smaller is better."""

    def __post_init__(self) -> None:
        if self.total_steps is not None:
            _check_whole("total_steps", self.total_steps)
        _check_whole("steps_per_rate", self.steps_per_rate)
        rates = self.learning_rate
        if rates is not None and not callable(rates) and not hasattr(rates, "get_last_lr"):
            raise ValueError(
                f"learning_rate is a {type(rates).__name__}; a function of the step, or a scheduler of torch.optim, is "
                "expected"
            )
        if self.objective is not None:
            _check_name(self.objective)
        if self.tolerance is not None and not _is_size(self.tolerance):
            raise ValueError(f"tolerance={self.tolerance!r:.80} is not a number of at least 0")
        if self.tolerance is not None and self.objective is None:
            raise ValueError("tolerance= is of an objective; name it with objective=")


@dataclass(frozen=True, slots=True)
class PlanAhead:
    """The plan as of one checkpoint, as it travels with it. None: not known."""

    steps: int | None = None
    """Optimizer steps left, at least 0."""
    rate_sum: float | None = None
    """Σ η over these steps; given if and only if `rate_squared_sum` is."""
    rate_squared_sum: float | None = None
    """Σ η² over these steps."""
    objective: str = ""
    """Name of the metric that training is for; empty: not told."""
    larger_is_better: bool = False
    tolerance: float | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanAhead:
        """From what `asdict` gave, after a way through JSON. ValueError, TypeError, KeyError if it is not that."""

        def number(name: str) -> float | None:
            return None if data[name] is None else float(data[name])

        return cls(
            steps=None if data["steps"] is None else int(data["steps"]),
            rate_sum=number("rate_sum"),
            rate_squared_sum=number("rate_squared_sum"),
            objective=str(data["objective"]),
            larger_is_better=bool(data["larger_is_better"]),
            tolerance=number("tolerance"),
        )


def completed(plan: Plan | None, known: Plan | None) -> Plan | None:
    """A user's plan with the steps and rates that a framework knows, where the user told none.

    >>> completed(Plan(objective="loss"), Plan(total_steps=9)).total_steps
    9
    """
    if plan is None or known is None:
        return plan or known
    if plan.total_steps is None:
        plan = replace(plan, total_steps=known.total_steps)
    if plan.learning_rate is None:
        plan = replace(plan, learning_rate=known.learning_rate, steps_per_rate=known.steps_per_rate)
    return plan


def default_tolerance(value: float, larger_is_better: bool) -> float | None:
    """What a switch may cost at this value of the objective where nobody said it; None where that cannot be told.

    >>> default_tolerance(0.7, True), default_tolerance(2.0, False), default_tolerance(70.0, True)
    (0.01, 0.02, None)
    """
    if not math.isfinite(value):
        return None
    if larger_is_better:
        # Points of what, if it is not a share?
        return _ACCURACY_TOLERANCE if 0 <= value <= 1 else None
    return _LOSS_TOLERANCE * abs(value)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise ValueError(f"{name}={value!r:.80} is not a whole number of at least 1")


def _check_name(name: object) -> None:
    if not (isinstance(name, str) and 1 <= len(name) <= _NAME_CHARACTERS and name.isprintable()):
        raise ValueError(
            f"objective={name!r:.80} is not the name of a metric, 1 to {_NAME_CHARACTERS} printable characters"
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
