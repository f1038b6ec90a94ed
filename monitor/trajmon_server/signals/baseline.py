"""The frame of the naive policies: one number, one threshold.

A baseline says how its number comes out of a few observations; following the path, confirming and taking back are the
same for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from trajmon_server.signals._said import finite, unknown
from trajmon_server.signals.base import Advice, AdviceState, Observation
from trajmon_server.signals.track import Track, follow
from trajmon_server.signals.verdict import Verdict, interrupt, judge

__all__ = ["Baseline", "BaselineState"]


@dataclass(frozen=True, slots=True)
class BaselineState:
    """What a baseline remembers of a run."""

    track: Track = field(default_factory=Track)
    verdict: Verdict = field(default_factory=Verdict)
    recent: tuple[Observation, ...] = ()
    """The last ones without a break, oldest first, at most `look_back` and the newest."""


class Baseline(ABC):
    """A policy that compares one number with a threshold. Subclasses are frozen dataclasses."""

    __slots__ = ()

    name: ClassVar[str]
    """Name and version, as it travels with the advice."""
    evidence_name: ClassVar[str]
    """Name of the number in the evidence."""
    look_back: ClassVar[int]
    """How many observations before the newest one the number needs."""
    confirmations: int

    @abstractmethod
    def measure(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        """The number as of the newest observation, or a sentence that says why there is none."""

    @abstractmethod
    def settled(self, value: float) -> bool:
        """Whether the number speaks for a switch."""

    @abstractmethod
    def moving(self, value: float) -> bool:
        """Whether the number speaks for taking a switch back."""

    @abstractmethod
    def sentence(self, value: float) -> str:
        """The number in words."""

    def init(self) -> BaselineState:
        """The state before the first checkpoint."""
        return BaselineState()

    def update(self, state: BaselineState, observation: Observation) -> tuple[BaselineState, Advice]:
        """The state after, and the advice as of, one more checkpoint."""
        track, problem = follow(state.track, observation)
        kept = state.recent[-self.look_back :] if self.look_back else ()
        # A row that is only too old today is still a part of the path.
        recent = (*kept, observation) if track.unbroken or problem is None else ()
        value: float | str = problem if problem is not None else self._value(track, recent)
        after = replace(state, track=track, recent=recent)
        if isinstance(value, str):
            return replace(after, verdict=interrupt(state.verdict)), unknown(
                self.name, observation, value, {}
            )
        verdict, word = judge(
            state.verdict,
            settled=self.settled(value),
            moving=self.moving(value),
            confirmations=self.confirmations,
        )
        evidence = finite(**{self.evidence_name: value})
        advice = Advice(
            word, observation.checkpoint, evidence, f"{self.sentence(value)} {_word(word)}", self.name
        )
        return replace(after, verdict=verdict), advice

    def _value(self, track: Track, recent: tuple[Observation, ...]) -> float | str:
        if not track.unbroken or len(recent) <= self.look_back:
            return "Too few checkpoints."
        value = self.measure(track, recent)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.evidence_name} is undefined."
        return value


def _word(word: AdviceState) -> str:
    match word:
        case AdviceState.SWITCH:
            return "Train only the normalisation scalars."
        case AdviceState.CANDIDATE:
            return "Waiting for confirmation."
        case AdviceState.RESUME:
            return "Train everything again."
        case _:
            return "Train all parameters."
