"""How long a training step takes, from the times at which the optimizer steps."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any, Final
from weakref import WeakKeyDictionary

from trajmon.errors import SwitchError

__all__ = ["StepTimer"]

_STEPS: Final = 32
_FEWEST: Final = 3
# The first steps after a change warm up caches, and torch.compile compiles again.
_SETTLING_STEPS: Final = 3

_standing: WeakKeyDictionary[Any, StepTimer] = WeakKeyDictionary()


class StepTimer:
    """Watches an optimizer's steps through a hook that takes the time; under a microsecond a step.

    The step time is the median of the last 32 spans from one optimizer step to the next: data loading and
    everything else that recurs is in it, a pause for a checkpoint is not. On a GPU the spans are those of the
    process that launches the work, which runs no faster than the GPU for long.

    Started before a switch, it makes the switch's report say how long a step took before. Raises SwitchError for
    an optimizer that takes no step hooks.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> timer = StepTimer(optimizer)
    >>> for _ in range(8):
    ...     optimizer.step()
    >>> timer.seconds is not None
    True
    """

    def __init__(self, optimizer: Any, *, once: bool = False) -> None:
        """With `once`, it ends by itself as soon as it knows 32 spans."""
        if not hasattr(optimizer, "register_step_post_hook"):
            raise SwitchError(f"{type(optimizer).__name__} takes no step hooks (register_step_post_hook)")
        self._once = once
        self.restart()
        self._handle = optimizer.register_step_post_hook(self._stepped)
        if not once:
            _standing[optimizer] = self

    @staticmethod
    def of(optimizer: Any) -> StepTimer | None:
        """The one that watches this optimizer all the time."""
        timer = _standing.get(optimizer)
        return timer if timer is not None and timer.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether further steps are timed."""
        return self._handle is not None

    @property
    def seconds(self) -> float | None:
        """Step time; None while fewer than 3 spans are known."""
        return statistics.median(self._spans) if len(self._spans) >= _FEWEST else None

    def restart(self) -> None:
        """Forget the spans so far: from here on, steps cost something else."""
        self._spans: deque[float] = deque(maxlen=_STEPS)
        self._settling = _SETTLING_STEPS
        self._last = 0.0

    def close(self) -> None:
        """Take no further times; what is known stays."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _stepped(self, *_: object) -> None:
        now = time.perf_counter()
        if self._settling:
            self._settling -= 1
        else:
            self._spans.append(now - self._last)
            if self._once and len(self._spans) == _STEPS:
                self.close()
        self._last = now
