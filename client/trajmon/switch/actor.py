"""What is done with the server's advice after each checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol, get_args

from torch import nn

from trajmon.advice import Advice
from trajmon.errors import RefusedError, SwitchError
from trajmon.switch.core import is_switched, switch_back, switch_to_norm_only, training_mode
from trajmon.switch.report import SwitchReport, TrainingMode

__all__ = ["Action", "AdviceActor", "Agreement", "LocalAgreement", "OnAdvice"]

log = logging.getLogger("trajmon")

OnAdvice = Literal["log", "callback", "switch"]
Action = Literal["switch", "resume"]


class Agreement(Protocol):
    """Makes every rank take the same action at the same checkpoint. For the thread that trains; never waits."""

    def decide(self, number: int, action: str) -> None:
        """Have `action` due at the checkpoint after `number`. Counts on rank 0; elsewhere it does nothing."""

    def due(self, number: int) -> str | None:
        """The action due at this checkpoint, on every rank; asked once a checkpoint, after any `decide`."""


class LocalAgreement:
    """One process agrees with itself at once.

    >>> alone = LocalAgreement()
    >>> alone.decide(7, "switch")
    >>> alone.due(7), alone.due(8)
    ('switch', None)
    """

    def __init__(self) -> None:
        self._action: str | None = None

    def decide(self, number: int, action: str) -> None:
        """Due at the next question."""
        self._action = action

    def due(self, number: int) -> str | None:
        """What was decided, once."""
        action, self._action = self._action, None
        return action


class AdviceActor:
    """Does with the advice what was asked for: log it, hand it to a callback, or follow it.

    Each change of the advice's state is logged once, whatever was asked for. Starts no thread; only the call after a
    checkpoint does anything, and it never raises.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: object | None,
        on_advice: OnAdvice = "log",
        callback: Callable[[Advice], object] | None = None,
        agreement: Agreement | None = None,
        *,
        recorder: object = None,
    ) -> None:
        """Raises RefusedError for an `on_advice` that is none, or lacks its callback or optimizer."""
        if on_advice not in get_args(OnAdvice):
            raise RefusedError(f'on_advice={on_advice!r} is not one of "log", "callback", "switch"')
        if on_advice == "callback" and callback is None:
            raise RefusedError('on_advice="callback" needs a callback')
        if on_advice == "switch" and optimizer is None:
            raise RefusedError('on_advice="switch" needs optimizer=')
        self._model = model
        self._optimizer = optimizer
        self._on_advice: OnAdvice = on_advice
        self._callback = callback
        self._agreement: Agreement = LocalAgreement() if agreement is None else agreement
        self._recorder = recorder
        self._state: str = "unknown"
        self._pending: str | None = None
        self.refused = ""
        """Why no further switch is tried; empty while none was refused."""
        self.last_report: SwitchReport | None = None
        """Of the last switch, or way back, that the advice led to."""

    @property
    def training_mode(self) -> TrainingMode:
        """What is being trained now, by whomever it was switched."""
        return training_mode(self._model)

    def after_checkpoint(self, number: int, advice: Advice) -> None:
        """Act on the advice known when checkpoint `number` was recorded."""
        changed = advice.state != self._state
        self._state = advice.state
        if changed:
            log.info("advice is now %s: %s", advice.state, advice.reason)
        if self._on_advice == "callback" and changed:
            self._call(advice)
        elif self._on_advice == "switch":
            self._follow(number, advice)

    def _call(self, advice: Advice) -> None:
        assert self._callback is not None
        try:
            self._callback(advice)
        except Exception:
            log.exception("the advice callback failed; training goes on")

    def _follow(self, number: int, advice: Advice) -> None:
        wanted = self._wanted(advice)
        try:
            if wanted is not None and self._pending is None and not self.refused:
                self._pending = wanted
                self._agreement.decide(number, wanted)
            action = self._agreement.due(number)
            if action is not None:
                self._pending = None
                self._take(action)
        except SwitchError as error:
            self._refuse(f"not switched: {error}")
        except Exception as error:
            # Of an optimizer or wrapper nobody foresaw: training must go on.
            self._refuse(f"the switch failed unexpectedly: {error!r}")

    def _wanted(self, advice: Advice) -> Action | None:
        if advice.state == "switch" and not is_switched(self._model):
            return "switch"
        return "resume" if advice.state == "resume" and is_switched(self._model) else None

    def _take(self, action: str) -> None:
        if self.refused or is_switched(self._model) == (action == "switch"):
            return
        if action == "switch":
            report = switch_to_norm_only(self._model, self._optimizer, recorder=self._recorder)
        else:
            report = switch_back(self._model, self._optimizer, recorder=self._recorder)
        self.last_report = report
        log.info("%s", report)

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        log.warning("%s; training goes on as before", reason)
