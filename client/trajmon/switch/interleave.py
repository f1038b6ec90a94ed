"""Full and norm-only training by turns (Hallmarks, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from trajmon.advice import Advice
from trajmon.errors import SwitchError
from trajmon.switch.core import is_switched, switch_back, switch_to_norm_only, training_mode
from trajmon.switch.report import SwitchReport, TrainingMode
from trajmon.switch.wrapping import Mode

__all__ = ["Interleave"]


class Interleave:
    """Alternates `full_steps` of full and `norm_only_steps` of norm-only training, full ones first.

    Call :meth:`step` after each optimizer step. With `advice`, such as ``lambda: recorder.advice``, a norm-only
    phase also ends when the server says `resume` about a checkpoint recorded within it; with several ranks, leave it
    out unless all ranks are given the same advice at the same step. The other arguments are those of
    :func:`trajmon.switch_to_norm_only`, whose SwitchError comes out of the step that begins a norm-only phase.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> turns = Interleave(model, optimizer, full_steps=2, norm_only_steps=1)
    >>> phases = []
    >>> for _ in range(5):
    ...     phases.append(turns.phase)
    ...     optimizer.step()
    ...     _ = turns.step()
    >>> phases
    ['full', 'full', 'norm_only', 'full', 'full']
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: object,
        *,
        full_steps: int,
        norm_only_steps: int,
        advice: Callable[[], Advice] | None = None,
        include: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        keep: str | Sequence[str] = (),
        mode: Mode = "auto",
        recorder: object = None,
    ) -> None:
        for name, steps in (("full_steps", full_steps), ("norm_only_steps", norm_only_steps)):
            if steps < 1:
                raise SwitchError(f"{name}={steps} is not at least 1")
        self._model = model
        self._optimizer = optimizer
        self._steps: dict[TrainingMode, int] = {"full": full_steps, "norm_only": norm_only_steps}
        self._advice = advice
        self._options: dict[str, Any] = {"include": include, "exclude": exclude, "keep": keep, "mode": mode}
        self._recorder = recorder
        self._done = 0
        self._advised: int | None = None

    @property
    def phase(self) -> TrainingMode:
        """What the next step trains."""
        return training_mode(self._model)

    def step(self) -> SwitchReport | None:
        """Count an optimizer step; the report if it was the last of its phase."""
        self._done += 1
        phase = self.phase
        if self._done < self._steps[phase] and not (phase == "norm_only" and self._resume_is_advised()):
            return None
        self._done = 0
        if is_switched(self._model):
            return switch_back(self._model, self._optimizer, recorder=self._recorder)
        self._advised = self._newest()
        return switch_to_norm_only(self._model, self._optimizer, recorder=self._recorder, **self._options)

    def state_dict(self) -> dict[str, Any]:
        """Where the phase stands; the switch itself is saved with :func:`trajmon.switch.switch_state`."""
        return {"done": self._done, "phase": self.phase, "advised": self._advised}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on within the phase that was saved, switching into it if need be."""
        if state["phase"] == "norm_only" and not is_switched(self._model):
            switch_to_norm_only(self._model, self._optimizer, recorder=self._recorder, **self._options)
        elif state["phase"] == "full" and is_switched(self._model):
            switch_back(self._model, self._optimizer, recorder=self._recorder)
        self._done = int(state["done"])
        self._advised = state["advised"]

    def _newest(self) -> int | None:
        return None if self._advice is None else self._advice().checkpoint

    def _resume_is_advised(self) -> bool:
        if self._advice is None:
            return False
        advice = self._advice()
        # An answer from before the phase began says nothing about it.
        is_new = advice.checkpoint is not None and (
            self._advised is None or advice.checkpoint > self._advised
        )
        return advice.state == "resume" and is_new
