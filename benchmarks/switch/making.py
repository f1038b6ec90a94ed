"""How one recording is made, step by step; whatever is on the disk already is not made again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.switch.outcomes import allowed_loss, earliest_safe, next_switch_point, norm_only_outcome
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.recording import metric_name_of, recording_of, write_recording
from benchmarks.switch.training import Training
from benchmarks.switch.workshop import Workshop

__all__ = ["Made", "StoppedError", "make"]


class StoppedError(Exception):
    """The time is up; what is done is kept."""


@dataclass(frozen=True, slots=True)
class Made:
    """One finished run in a line."""

    full_final: float
    delta: float
    earliest_safe: int | None
    """Of the switch points that were tried."""
    finals: dict[int, float]
    num_bytes: int


def make(
    recipe: Recipe,
    path: Path,
    work: Path,
    *,
    told: Callable[[str, float], None] = lambda text, share: None,
    go_on: Callable[[], bool] = lambda: True,
) -> Made:
    """Make the recording at `path`, or go on making it.

    `told` hears what is being done and about which share of the run is done. `go_on` is asked between two intervals
    of the full run and between two outcomes; :class:`StoppedError` if it says no. Raises ``Busy``.
    """
    workshop = Workshop(work, recipe)
    with workshop.open():
        checkpoints = workshop.checkpoints()[: recipe.intervals + 1]
        for record in _rest_of_full_run(recipe, checkpoints):
            workshop.save_checkpoint(record)
            checkpoints.append(record)
            told("full run", 0.2 * len(checkpoints) / (recipe.intervals + 1))
            _check(go_on)
        full_final = float(checkpoints[-1]["metric"])
        allowed = allowed_loss(metric_name_of(recipe), full_final)
        outcomes = workshop.outcomes()
        while True:
            finals = {point: outcome.final.metric for point, outcome in outcomes.items()}
            point = next_switch_point(finals, full_final, allowed, recipe.intervals)
            if point is None:
                break
            _check(go_on)
            told(f"switch at {point}", min(0.95, 0.2 + 0.08 * len(outcomes)))
            outcomes[point] = norm_only_outcome(recipe, checkpoints[point]["state"])
            workshop.save_outcome(point, outcomes[point])
        path.parent.mkdir(parents=True, exist_ok=True)
        num_bytes = write_recording(path, recording_of(recipe, checkpoints, outcomes))
        workshop.remove()
    return Made(full_final, allowed, earliest_safe(finals, full_final, allowed), finals, num_bytes)


def _rest_of_full_run(recipe: Recipe, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The checkpoints that are not known yet."""
    training = Training(recipe)
    count = len(known)
    if count > recipe.intervals:
        return
    if count:
        training.restore(known[-1]["state"])
    else:
        yield _record(training, math.nan)
    while not training.is_over:
        train_loss = training.advance()
        yield _record(training, train_loss)


def _record(training: Training, train_loss: float) -> dict[str, Any]:
    score = training.score()
    return {
        "state": training.state(),
        "step": training.step,
        "metric": score.metric,
        "loss": score.loss,
        "train_loss": train_loss,
    }


def _check(go_on: Callable[[], bool]) -> None:
    if not go_on():
        raise StoppedError
