"""The plan beside a training: what each checkpoint says of what is still ahead. Never raises after it was made."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

from trajmon._plan import Plan, PlanAhead, default_tolerance
from trajmon._rates import RateSums, rates_ahead

__all__ = ["Outlook"]

log = logging.getLogger("trajmon")

_PATIENCE: Final = 10
"""Checkpoints without the objective before that is said."""


class Outlook:
    """Follows a plan; says once what it has to leave out."""

    def __init__(self, plan: Plan, run: str) -> None:
        """Goes through the schedule: at most some seconds, and some megabytes."""
        self._plan = plan
        self._run = run
        self._said: set[str] = set()
        self._seen: int = 0
        self._chosen: float | None = None
        self._sums = self._rate_sums()

    def _rate_sums(self) -> RateSums | None:
        source, stop = self._plan.learning_rate, self._plan.total_steps
        if source is None:
            return None
        if stop is None:
            self._say_once("rates", "learning rates are planned without total_steps, and are left out")
            return None
        try:
            return rates_ahead(source, self._plan.steps_per_rate, stop)
        except Exception as error:
            # Whatever a user's schedule may raise: training goes on, the forecast does without the rates.
            self._say_once(
                "rates", f"the learning rates ahead are left out: {str(error) or type(error).__name__}"
            )
            return None

    def ahead(self, step: int, metrics: Mapping[str, float]) -> PlanAhead | None:
        """What a checkpoint at this step with these metrics says of the plan; None if nothing."""
        steps, sums = self._steps(step), None
        if steps is not None and self._sums is not None:
            sums = self._sums.from_step(step)
            if sums is not None and not _can_be(steps, *sums):
                # Beyond what float64 can square: a server would refuse them, and the row with them.
                sums = None
        objective = self._plan.objective
        if steps is None and objective is None:
            return None
        return PlanAhead(
            steps=steps,
            rate_sum=None if sums is None else sums[0],
            rate_squared_sum=None if sums is None else sums[1],
            objective=objective or "",
            larger_is_better=self._plan.larger_is_better,
            tolerance=None if objective is None else self._tolerance(objective, metrics),
        )

    def _steps(self, step: int) -> int | None:
        stop = self._plan.total_steps
        if stop is None:
            return None
        if step > stop:
            self._say_once(
                "end", f"step {step} is past the planned end, {stop}: nothing is planned from here on"
            )
            return None
        return stop - step

    def _tolerance(self, objective: str, metrics: Mapping[str, float]) -> float | None:
        value = metrics.get(objective)
        if value is None:
            self._seen += self._seen >= 0
            if self._seen == _PATIENCE:
                self._say_once(
                    "objective",
                    f"the objective {objective!r} is not among the metrics of the first {_PATIENCE} checkpoints",
                )
            # What was chosen for the last value holds until there is another.
            return self._chosen if self._plan.tolerance is None else self._plan.tolerance
        self._seen = -1
        if self._plan.tolerance is not None:
            return self._plan.tolerance
        chosen = default_tolerance(value, self._plan.larger_is_better)
        if chosen is None and self._plan.larger_is_better and math.isfinite(value):
            self._say_once(
                "tolerance",
                f"the objective {objective!r} is {value:g}, not from 0 to 1: say what a switch may cost of it with "
                "tolerance=, else none is advised",
            )
        self._chosen = self._chosen if chosen is None else chosen
        return chosen

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            log.warning("run %r: %s", self._run, text)


def _can_be(steps: int, rate_sum: float, rate_squared_sum: float) -> bool:
    """Whether so many learning rates can have these sums."""
    return math.isfinite(rate_squared_sum) and rate_sum * rate_sum <= steps * rate_squared_sum * (1 + 1e-6)
