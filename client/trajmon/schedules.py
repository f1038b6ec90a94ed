"""When a checkpoint is due: functions of the step alone.

A schedule has no memory. Every rank asks it with the same step and gets the same answer, and so does a training
that was resumed: checkpoints of the new attempt fall on the steps on which those of the old one would have.

    >>> schedule = parse_schedule("every 100 steps")
    >>> [step for step in range(1, 301) if schedule.due(step)]
    [100, 200, 300]
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["EveryEpochs", "EverySteps", "LogSpaced", "Manual", "Schedule", "due_between", "parse_schedule"]

_FORMS = (
    'a number of steps, "step", "every 100 steps", "epoch", "every 2 epochs", "log", "log 20" (per decade), '
    '"manual", or a schedule'
)
_COUNTED = re.compile(r"(?:every\s+)?(?:(\d+)\s+)?(step|epoch)s?")
_LOG = re.compile(r"log(?:-?spaced)?(?:\s+(\d+))?")


@runtime_checkable
class Schedule(Protocol):
    """Says on which steps a checkpoint is due. Pure: the answer depends on the arguments alone."""

    def due(self, step: int, epoch_ended: int = 0) -> bool:
        """Whether a checkpoint is due after `step` optimizer steps.

        `epoch_ended` is the number of epochs that are complete if one ended at this very step, else 0; a plain
        True counts as 1. What is due without the end of an epoch is due with it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EverySteps:
    """Each n-th optimizer step. Raises ValueError if n is not at least 1.

    >>> [step for step in range(7) if EverySteps(3).due(step)]
    [3, 6]
    """

    n: int

    def __post_init__(self) -> None:
        _check_whole("EverySteps", "n", self.n)

    def due(self, step: int, epoch_ended: int = 0) -> bool:
        """See :meth:`Schedule.due`."""
        return step > 0 and step % self.n == 0


@dataclass(frozen=True, slots=True)
class EveryEpochs:
    """The end of each n-th epoch. Raises ValueError if n is not at least 1.

    >>> [EveryEpochs(2).due(step, epoch) for step, epoch in ((50, 0), (100, 1), (200, 2))]
    [False, False, True]
    """

    n: int = 1

    def __post_init__(self) -> None:
        _check_whole("EveryEpochs", "n", self.n)

    def due(self, step: int, epoch_ended: int = 0) -> bool:
        """See :meth:`Schedule.due`."""
        return step > 0 and epoch_ended > 0 and epoch_ended % self.n == 0


@dataclass(frozen=True, slots=True)
class LogSpaced:
    """Each of the first `dense` steps, then steps at equal ratios, so many to a factor of ten.

    The direction of training changes most in its first steps; this spends the checkpoints there. T checkpoints
    reach to about step 10^(T / per_decade). Raises ValueError for numbers that are not at least 1 (`dense`: 0).

    >>> [step for step in range(1, 101) if LogSpaced(per_decade=5).due(step)]
    [1, 2, 3, 4, 5, 6, 10, 16, 25, 40, 63, 100]
    """

    per_decade: int = 10
    """Checkpoints to a factor of ten."""
    dense: int = 5
    """Up to this step, inclusive, every step is due."""
    longest_gap: int | None = None
    """Where the gap would grow beyond so many steps, each multiple of this number is due as well."""

    def __post_init__(self) -> None:
        _check_whole("LogSpaced", "per_decade", self.per_decade)
        _check_whole("LogSpaced", "dense", self.dense, least=0)
        if self.longest_gap is not None:
            _check_whole("LogSpaced", "longest_gap", self.longest_gap)

    def due(self, step: int, epoch_ended: int = 0) -> bool:
        """See :meth:`Schedule.due`."""
        if step <= 0:
            return False
        if step <= self.dense or self._on_grid(step):
            return True
        return (
            self.longest_gap is not None
            and step % self.longest_gap == 0
            and self._gap(step) > self.longest_gap
        )

    def _on_grid(self, step: int) -> bool:
        """Whether some 10^(k / per_decade) rounds to the step."""
        # The neighbours too: the logarithm of a rounded step may land on the other side of a half.
        nearest = round(self.per_decade * math.log10(step))
        return any(round(10 ** (k / self.per_decade)) == step for k in (nearest - 1, nearest, nearest + 1))

    def _gap(self, step: int) -> float:
        """Distance between the grid's points around a step."""
        below = math.floor(self.per_decade * math.log10(step))
        return 10 ** ((below + 1) / self.per_decade) - 10 ** (below / self.per_decade)


@dataclass(frozen=True, slots=True)
class Manual:
    """Never by itself: checkpoints are recorded by call alone.

    >>> Manual().due(100, 1)
    False
    """

    def due(self, step: int, epoch_ended: int = 0) -> bool:
        """See :meth:`Schedule.due`."""
        return False


def due_between(schedule: Schedule, before: int, step: int) -> bool:
    """Whether a checkpoint came due after step `before` and up to `step`, inclusive.

    For callers that do not see every step: several optimizers may step between two calls.

    >>> due_between(EverySteps(10), 8, 11), due_between(EverySteps(10), 11, 13)
    (True, False)
    """
    return any(schedule.due(seen) for seen in range(before + 1, step + 1))


def parse_schedule(spec: str | int | Schedule) -> Schedule:
    """The schedule that is meant by a number of steps, or by a word.

    Raises ValueError, which lists the forms, for anything else.

    >>> parse_schedule(50), parse_schedule("epoch"), parse_schedule("every 2 epochs")
    (EverySteps(n=50), EveryEpochs(n=1), EveryEpochs(n=2))
    >>> parse_schedule("log 20"), parse_schedule("manual")
    (LogSpaced(per_decade=20, dense=5, longest_gap=None), Manual())
    """
    if isinstance(spec, int) and not isinstance(spec, bool):
        return EverySteps(spec)
    if isinstance(spec, str):
        return _parse_words(spec)
    # The class of a schedule has the method too.
    if isinstance(spec, type) or not isinstance(spec, Schedule):
        raise ValueError(f"{spec!r} is not a schedule; give {_FORMS}")
    return spec


def _parse_words(text: str) -> Schedule:
    words = " ".join(text.lower().split())
    if words == "manual":
        return Manual()
    logarithmic = _LOG.fullmatch(words)
    if logarithmic is not None:
        return LogSpaced() if logarithmic[1] is None else LogSpaced(per_decade=int(logarithmic[1]))
    counted = _COUNTED.fullmatch(words)
    if counted is None:
        raise ValueError(f"{text!r} is not a schedule; give {_FORMS}")
    n = 1 if counted[1] is None else int(counted[1])
    return EverySteps(n) if counted[2] == "step" else EveryEpochs(n)


def _check_whole(schedule: str, name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{schedule}: {name} is {value!r}, not a whole number of at least {least}")
