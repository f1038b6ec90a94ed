"""Baseline: switch after a fixed fraction of the planned run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations
from trajmon_server.signals.base import Observation
from trajmon_server.signals.baseline import Baseline
from trajmon_server.signals.track import Track

__all__ = ["PlannedFractionPolicy"]


@dataclass(frozen=True, slots=True)
class PlannedFractionPolicy(Baseline):
    """Settled once `threshold` of the planned steps are done; nothing of the run is in it. No plan, no advice.

    What schedules such as FreezeOut (Brock et al., 2017, arXiv:1706.04983) do, with one time for all layers.
    """

    name: ClassVar[str] = "planned_fraction/1"
    evidence_name: ClassVar[str] = "planned_fraction"
    look_back: ClassVar[int] = 0

    threshold: float = 0.5
    confirmations: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold:g}")
        check_confirmations(self.confirmations)

    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """Steps done over steps planned."""
        ahead = recent[-1].ahead
        if ahead is None:
            return "No plan of the run is known."
        if not ahead.is_possible:
            return "The plan of the run is impossible."
        return track.elapsed / (track.elapsed + ahead.steps)

    def settled(self, value: float) -> bool:
        """Late enough."""
        return value >= self.threshold

    def moving(self, value: float) -> bool:
        """Never: a plan that grows longer is not a sign of movement."""
        return False

    def sentence(self, value: float) -> str:
        """The number in words."""
        return f"{value:.0%} of the planned steps are done; the threshold is {self.threshold:.0%}."
