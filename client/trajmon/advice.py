"""The server's latest answer, as it lies on disk: written by the agent, read by the recorder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from trajmon._files import read_json

__all__ = ["Advice", "AdviceState", "Answer", "AnswerReader"]

AdviceState = Literal["explore", "candidate", "switch", "resume", "unknown"]

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Advice:
    """The server's current word on a run.

    >>> Advice().state, Advice().switch
    ('unknown', False)
    """

    state: AdviceState = "unknown"
    """`unknown` also while no answer has arrived."""
    evidence: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    """The numbers behind the state, by name; undefined ones are left out."""
    reason: str = "no answer from the server yet"
    """The same in a sentence."""
    checkpoint: int | None = None
    """Checkpoint that the advice rests on."""
    policy: str = ""
    """Name and version of the policy that spoke."""
    received_unix_seconds: float | None = None
    """When the answer arrived on this machine."""

    @property
    def switch(self) -> bool:
        """Norm-only training is advised from here."""
        return self.state == "switch"

    @property
    def stale_seconds(self) -> float:
        """Age of the answer; infinite while there is none."""
        if self.received_unix_seconds is None:
            return float("inf")
        return max(0.0, time.time() - self.received_unix_seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that the server last said."""

    advice: Advice = field(default_factory=Advice)
    hallmarks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Group -> name -> value; undefined ones are left out. ``error:NAME`` is the standard error of one that rests on
    estimates."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answer:
        """Raises ValueError, TypeError or KeyError for anything that an agent does not write."""
        word = data["advice"]
        states: tuple[AdviceState, ...] = get_args(AdviceState)
        state: AdviceState = "unknown"
        for known in states:
            state = known if known == word["state"] else state
        advice = Advice(
            state=state,
            evidence={str(name): float(value) for name, value in word["evidence"].items()},
            reason=str(word["reason"]),
            checkpoint=None if word["checkpoint"] is None else int(word["checkpoint"]),
            policy=str(word["policy"]),
            received_unix_seconds=float(data["received_unix_seconds"]),
        )
        hallmarks = {
            str(group): {str(name): float(value) for name, value in values.items()}
            for group, values in data["hallmarks"].items()
        }
        for group, errors in data.get("errors", {}).items():
            hallmarks[str(group)].update({f"error:{name}": float(error) for name, error in errors.items()})
        return cls(advice, hallmarks)


class AnswerReader:
    """Reads the answer file, and only when it has changed. Never waits, never raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._answer = Answer()

    def read(self) -> Answer:
        """The latest answer; without a readable one, the empty answer with advice `unknown`."""
        try:
            facts = self._path.stat()
        except OSError:
            self._seen, self._answer = None, Answer()
            return self._answer
        # The file is replaced, never changed: a new answer has another inode or time.
        seen = (facts.st_ino, facts.st_mtime_ns)
        if seen != self._seen:
            self._seen, self._answer = seen, self._parse()
        return self._answer

    def _parse(self) -> Answer:
        data = read_json(self._path)
        try:
            return Answer.from_json(data or {})
        except (ValueError, TypeError, KeyError, AttributeError):
            return Answer(Advice(reason=f"the answer in {self._path.name} cannot be read"))
