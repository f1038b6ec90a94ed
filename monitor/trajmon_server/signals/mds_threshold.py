"""Baseline: switch once the mean directional similarity is high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trajmon_server.signals._said import check_confirmations, check_order
from trajmon_server.signals.base import Observation
from trajmon_server.signals.baseline import Baseline
from trajmon_server.signals.track import Track

__all__ = ["MdsThresholdPolicy"]


@dataclass(frozen=True, slots=True)
class MdsThresholdPolicy(Baseline):
    """Settled while the network's MDS so far (Hallmarks, sec. 2(i)) is at least `threshold`.

    The paper reads MDS after training; as a rule during training it is naive: a small learning rate gives 0.99 at once.
    """

    name: ClassVar[str] = "mds_threshold/1"
    evidence_name: ClassVar[str] = "mds"
    look_back: ClassVar[int] = 0

    threshold: float = 0.95
    resume_threshold: float = 0.9
    """Under this a switch is taken back."""
    confirmations: int = 2

    def __post_init__(self) -> None:
        check_order(("resume_threshold", self.resume_threshold), ("threshold", self.threshold), -1, 1)
        check_confirmations(self.confirmations)

    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """MDS as of the newest checkpoint."""
        return recent[-1].mds

    def settled(self, value: float) -> bool:
        """High enough."""
        return value >= self.threshold

    def moving(self, value: float) -> bool:
        """Too low."""
        return value < self.resume_threshold

    def sentence(self, value: float) -> str:
        """The number in words."""
        return f"The mean directional similarity is {value:.4f}; the threshold is {self.threshold:g}."
