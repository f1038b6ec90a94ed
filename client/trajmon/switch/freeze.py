"""Freezing: what is done to parameters and optimizers, and how it is undone.

Both kinds clear the frozen gradients before each optimizer step, also those that a closure leaves. Torch's
optimizers pass over a parameter without a gradient altogether: no momentum, no weight decay.

* hard: the frozen parameters require no gradient, so that none is computed.
* soft: they still do, because somebody waits for the gradients; only the step does not see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from trajmon.switch.optimizers import Optimizers
from trajmon.switch.wrapping import Freeze

__all__ = ["Frozen"]


class Frozen:
    """Parameters under a freeze; :meth:`undo` gives back exactly the requires_grad that they had."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizers: Optimizers, kind: Freeze) -> None:
        self.kind: Freeze = kind
        self.parameters = tuple(parameters)
        self.optimizers = optimizers
        # Nothing up to here has changed anything; and nothing from here on fails.
        self._handles: list[Any] = optimizers.before_step(self._before_step)
        for parameter in self.parameters:
            parameter.grad = None
            if kind == "hard":
                parameter.requires_grad_(False)
        optimizers.drop_state(self.parameters)

    def move_to(self, optimizers: Optimizers) -> None:
        """From now on other optimizers train the model."""
        handles = optimizers.before_step(self._before_step)
        self._remove_hooks()
        self._handles = handles
        self.optimizers = optimizers
        self._clear()
        optimizers.drop_state(self.parameters)

    def undo(self) -> None:
        """States come back with the next step, empty."""
        self._remove_hooks()
        self._clear()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizers.recreate_state()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _clear(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = None

    def _before_step(
        self, optimizer: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._clear()
        # A closure computes the gradients inside the step: Lightning's automatic optimization does.
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._clearing(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._clearing(kwargs["closure"])}
        return None

    def _clearing(self, closure: Any) -> Any:
        def cleared() -> Any:
            loss = closure()
            self._clear()
            return loss

        return cleared
