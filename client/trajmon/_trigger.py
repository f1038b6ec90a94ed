"""Checkpoints that come by themselves: a hook after each optimizer step asks the schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from trajmon.errors import RefusedError
from trajmon.schedules import Schedule
from trajmon.switch.optimizers import innermost

__all__ = ["StepTrigger"]

log = logging.getLogger("trajmon")


class StepTrigger:
    """Counts optimizer steps and calls `record` with the count whenever a checkpoint is due.

    Not a hook inside of forward or backward: it runs once the optimizer has finished a step. Steps that a
    gradient scaler leaves out are no steps.
    """

    def __init__(
        self, optimizer: object, schedule: Schedule, record: Callable[[int], object], first_step: int
    ) -> None:
        """`first_step`: optimizer steps taken before. Raises RefusedError for an optimizer without step hooks."""
        register = getattr(innermost(optimizer), "register_step_post_hook", None)
        if register is None:
            raise RefusedError(
                f"a schedule needs an optimizer that tells of its steps; {type(optimizer).__name__} has no "
                "register_step_post_hook: call recorder.checkpoint() instead"
            )
        self.steps = first_step
        self._schedule = schedule
        self._record = record
        self._handle: Any = register(self._stepped)

    def epoch_ended(self, epochs: int) -> bool:
        """Whether a checkpoint is due now that `epochs` epochs are complete, and was not due without that."""
        return self._schedule.due(self.steps, epochs) and not self._schedule.due(self.steps)

    def close(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def _stepped(self, optimizer: object, args: object, kwargs: object) -> None:
        self.steps += 1
        if self._schedule.due(self.steps):
            self._record(self.steps)
