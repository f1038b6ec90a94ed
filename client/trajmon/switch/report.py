"""What a switch did and what it saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trajmon.switch.timing import StepTimer
from trajmon.switch.wrapping import Freeze

__all__ = ["SwitchReport", "TrainingMode"]

TrainingMode = Literal["full", "norm_only"]


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """One change of what is trained. `str()` gives a sentence for a log."""

    training_mode: TrainingMode
    """From here on."""
    mode: Freeze
    """How the other parameters are frozen, or were."""
    already: bool
    """The model was switched like this before; nothing was changed."""
    parameters: int
    """Elements of the whole model; under FSDP1 those of this rank."""
    trainable_before: int
    """Elements that were trained before."""
    trainable_after: int
    """Elements that are trained from here on."""
    frozen_names: tuple[str, ...]
    """Parameters that this froze, or woke."""
    optimizer_bytes_before: int
    """Of the optimizer's state on this rank."""
    optimizer_bytes_after: int
    """The same right after the change."""
    step_seconds_before: float | None
    """Median time of a step; None if nobody timed the steps (see :class:`trajmon.switch.StepTimer`)."""
    _after: StepTimer | None = field(default=None, repr=False, compare=False)

    @property
    def step_seconds_after(self) -> float | None:
        """Median time of the steps since; None until a few were taken."""
        return None if self._after is None else self._after.seconds

    @property
    def trainable_fraction(self) -> float:
        """Share of the elements that are trained from here on."""
        return self.trainable_after / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        if self.already:
            return f"norm-only training goes on: {_percent(self.trainable_fraction)} of the parameters are trained"
        to = "norm-only" if self.training_mode == "norm_only" else "full"
        how = f" ({self.mode} freeze)" if self.training_mode == "norm_only" else ""
        text = (
            f"switched to {to} training{how}: {self.trainable_after:,} of {self.parameters:,} parameters "
            f"({_percent(self.trainable_fraction)}) are trained, before {self.trainable_before:,}; optimizer state "
            f"{_bytes(self.optimizer_bytes_before)} -> {_bytes(self.optimizer_bytes_after)}"
        )
        before, after = self.step_seconds_before, self.step_seconds_after
        if before is not None:
            text += f"; step {1e3 * before:.3g} ms"
        if after is not None:
            text += f" -> {1e3 * after:.3g} ms" if before is not None else f"; step now {1e3 * after:.3g} ms"
        return text


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _bytes(count: int) -> str:
    """Decimal units.

    >>> _bytes(0), _bytes(1234), _bytes(2_500_000)
    ('0 B', '1.23 kB', '2.5 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
