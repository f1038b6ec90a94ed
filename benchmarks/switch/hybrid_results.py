"""Results of hybrid training as files, one for each case and seed: what is there is not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks._files import write_whole
from benchmarks.switch.hybrid_live import Event, plan_of
from benchmarks.switch.hybrid_ways import Held, Way
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.tasks import Score

from trajmon_server.signals.policies import DEFAULT, make_policy, settings_of

__all__ = ["Result", "Shelf"]

VERSION = 1
"""Of what is measured and how: raised, all is measured again."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one case with one seed."""

    recipe: str
    metric_name: str
    """``accuracy`` or ``minus_loss``."""
    intervals: int
    events: tuple[Event, ...]
    """Of the live training, in order."""
    words: tuple[tuple[int, str], ...]
    """Each change of the advice's state: checkpoint that it rests on, state."""
    policy: str
    before_seconds: float
    """Processor time of the training before the first event; all of it without one."""
    waited_seconds: float
    ways: Mapping[str, Way]
    """By name; only full training without an event."""

    def places(self, *, norm_only: bool) -> tuple[float, ...]:
        """Where it switched to norm-only training, or back, as parts of the run."""
        return tuple(
            event.checkpoint / self.intervals for event in self.events if event.norm_only is norm_only
        )


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where results of one policy are kept."""

    out: Path
    repeats: int
    """How often the ways are followed for their times."""
    policy: str = DEFAULT
    """Name with version."""

    def path(self, recipe: Recipe) -> Path:
        """Of the recipe's result."""
        return self.out / self.policy.replace("/", "-") / f"{recipe.name}.json"

    def save(self, recipe: Recipe, result: Result) -> None:
        """Replace the recipe's file whole."""
        path = self.path(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"made_by": self.made_by(recipe), **asdict(result)}, indent=1)
        write_whole(path, text.encode())

    def load(self, recipe: Recipe) -> Result | None:
        """The recipe's result, if it is there, whole, and made by just this."""
        try:
            read = json.loads(self.path(recipe).read_text(encoding="utf-8"))
            return _result(read) if read.pop("made_by") == self.made_by(recipe) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def made_by(self, recipe: Recipe) -> dict[str, Any]:
        """All that decides a result, as plain JSON."""
        policy, plan = make_policy(self.policy), plan_of(recipe)
        settings = {name: repr(getattr(policy, name)) for name in settings_of(self.policy)}
        return {
            "version": VERSION,
            "recipe": json.loads(json.dumps(recipe.to_json())),
            "torch": torch.__version__,
            "policy": {"name": self.policy, **settings},
            "planned_steps": plan.total_steps,
            "objective": plan.objective,
            "repeats": self.repeats,
        }


def _result(read: dict[str, Any]) -> Result:
    ways = {
        name: Way(
            Score(*way["final"]),
            tuple(way["seconds"]),
            *(None if way[kind] is None else Held(**way[kind]) for kind in ("full", "norm_only")),
        )
        for name, way in read["ways"].items()
    }
    changed = {
        "events": tuple(Event(**event) for event in read["events"]),
        "words": tuple((checkpoint, word) for checkpoint, word in read["words"]),
        "ways": ways,
    }
    return Result(**read | changed)
