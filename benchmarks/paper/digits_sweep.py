"""One thing about a training is changed, in steps, over several seeds: what becomes of the map's mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr
from benchmarks.paper.experiment import Row, verdict_of
from benchmarks.paper.training_digits import DigitsTraining
from benchmarks.paper.workshop import Recorded, Workshop

__all__ = ["SEEDS", "Outcome", "Setting", "by_seed", "mds_row", "mean_and_range", "sweep"]

SEEDS = (0, 1, 2)
Direction = Literal["falls", "rises"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of what is changed."""

    name: str
    """Of its recordings."""
    label: str
    """Over its map."""
    training: DigitsTraining
    """With any seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a setting: one entry for each seed."""

    setting: Setting
    recorded: tuple[Recorded, ...]
    maps: tuple[xr.DataArray, ...]

    @property
    def mds(self) -> tuple[float, ...]:
        """Mean of the whole map, as the server gives it."""
        return tuple(float(entries.attrs["mds"]) for entries in self.maps)

    @property
    def accuracy(self) -> tuple[float, ...]:
        """At the end, in percent."""
        return tuple(100 * one.results["accuracy"] for one in self.recorded)


def sweep(workshop: Workshop, settings: Sequence[Setting], seeds: Sequence[int] = SEEDS) -> list[Outcome]:
    """Record each setting with each seed; settings of one seed begin with the same parameters and order of data."""
    outcomes = []
    with workshop.progress("trainings", len(settings) * len(seeds)) as progress:
        for setting in settings:
            recorded = []
            for seed in seeds:
                training = replace(setting.training, seed=seed)
                recorded.append(
                    workshop.record(f"{setting.name}-{seed}", training.train, recipe=training.recipe())
                )
                progress.advance()
            maps = tuple(one.run.map() for one in recorded)
            outcomes.append(Outcome(setting, tuple(recorded), maps))
    return outcomes


def mean_and_range(values: Sequence[float], digits: int = 3) -> str:
    """Mean, with the smallest and the largest in brackets.

    >>> mean_and_range([0.5, 0.7])
    '0.600 (0.500 to 0.700)'
    """
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def by_seed(values: Sequence[Sequence[float]], direction: Direction) -> tuple[int, int]:
    """How many of the steps from a setting to the next, seed by seed, go in a direction; and how many there are.

    >>> by_seed([[0.9, 0.8], [0.7, 0.85]], "falls")
    (1, 2)
    """
    sign = 1.0 if direction == "rises" else -1.0
    steps = sign * np.diff(np.asarray(values, dtype=np.float64), axis=0)
    return int((steps > 0).sum()), steps.size


def mds_row(
    outcomes: Sequence[Outcome], direction: Direction, *, claim: str, source: str, paper: str, differs: str
) -> Row:
    """Whether MDS falls or rises with each step from a setting to the next: that of the means over the seeds "
    "decides."""
    means = np.array([np.mean(outcome.mds) for outcome in outcomes])
    sign = 1.0 if direction == "rises" else -1.0
    right, all_steps = by_seed([outcome.mds for outcome in outcomes], direction)
    numbers = "; ".join(f"{outcome.setting.label}: {mean_and_range(outcome.mds)}" for outcome in outcomes)
    return Row(
        claim=claim,
        source=source,
        paper=paper,
        ours=f"{numbers}. Seed by seed it {direction} in {right} of {all_steps} steps",
        verdict=verdict_of([bool(step > 0) for step in sign * np.diff(means)]),
        differs=differs,
    )
