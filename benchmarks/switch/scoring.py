"""What policies were worth over many runs, with the settings they have and with a threshold fitted to other families.

A score of one run is :mod:`trajmon_server.signals.outcomes`. Over runs: regret in units of what a switch may cost
(delta), lateness as a part of the run, wrong switches, runs without a signal. *Leave one family out*: the threshold
of a policy is chosen on all other families and judged on this one, for every family in turn; so the score is not the
fit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trajmon_server.recording import ReplayError, load
from trajmon_server.replay import first_switch, observations
from trajmon_server.signals import Observation, Policy
from trajmon_server.signals.outcomes import Outcomes, Score, score
from trajmon_server.signals.policies import POLICIES, make_policy

__all__ = [
    "GRIDS",
    "Run",
    "Summary",
    "at_equal_lateness",
    "load_runs",
    "score_held_out",
    "score_policies",
    "summarize",
    "thresholded",
]

WRONG_LIMIT = 0.05
"""Part of the runs that a fitted threshold may switch wrongly, on the families that it is fitted to."""

_FACTORS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
DEMANDS = {"remaining_displacement/2": "margin"}
"""The setting that is fitted, where it is not the threshold."""
GRIDS: Mapping[str, tuple[float, ...]] = {
    "remaining_displacement/1": tuple(0.1 * factor for factor in _FACTORS),
    "remaining_displacement/2": (5.0, 3.0, 2.5, 2.0, 1.75, 1.5, 1.35, 1.2, 1.1, 1.0),
    "mds_threshold/1": (0.9999, 0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.8),
    "look_back_cosine/1": (1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "planned_fraction/1": (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2),
    "update_norm_change/1": (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3),
    "effective_perturbation/1": (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9),
}
"""Values to choose from, the most careful one first."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recording with outcomes, as policies see it."""

    name: str
    family: str
    outcomes: Outcomes
    seen: tuple[Observation, ...]

    def judge(self, policy: Policy[Any]) -> Score:
        """What this policy's first `switch` was worth here."""
        return score(self.outcomes, first_switch(policy, list(self.seen)))


def load_runs(paths: Iterable[Path], *, with_plan: bool = True, with_objective: bool = True) -> list[Run]:
    """Recordings, and those of every folder among `paths`, in the order of their names.

    A recording without a family is a family of its own. ValueError with the file's name if one cannot be read, holds
    no outcomes, or if there is none at all.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.npz")) if path.is_dir() else [path]
    runs = []
    for file in files:
        try:
            recording = load(file)
        except ReplayError as error:
            raise ValueError(str(error)) from error
        if recording.outcomes is None:
            raise ValueError(f"{file}: holds no outcomes of switches (switch_points, norm_only_final)")
        seen = tuple(observations(recording, with_plan=with_plan))
        if not with_objective:
            seen = tuple(replace(one, objective=math.nan, objective_tolerance=math.nan) for one in seen)
        runs.append(Run(file.stem, recording.family or file.stem, recording.outcomes, seen))
    if not runs:
        raise ValueError("there are no recordings to score")
    return runs


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy over several runs. NaN where no run has the number."""

    runs: int
    wrong: int
    """Switches that cost more than delta."""
    unknown: int
    """Switches of which it is not known what they cost: before the first tried point."""
    never: int
    """Runs without a signal."""
    regret: float
    """Mean, in deltas, over all runs where it is known; 0 for a run without a signal; inf if a try diverged."""
    worst: float
    """Largest regret, in deltas."""
    lateness: float
    """Median, as a part of the run; a run without a signal is late until its end."""

    @property
    def wrong_part(self) -> float:
        """Of all runs; switches of unknown cost count as wrong."""
        return (self.wrong + self.unknown) / self.runs


def summarize(scores: Sequence[Score]) -> Summary:
    """At least one score."""
    regrets = [one.regret_in_deltas for one in scores if not math.isnan(one.regret_in_deltas)]
    return Summary(
        runs=len(scores),
        wrong=sum(one.wrong is True for one in scores),
        unknown=sum(one.wrong is None for one in scores),
        never=sum(one.never_signalled for one in scores),
        regret=statistics.fmean(regrets) if regrets else math.nan,
        worst=max(regrets, default=math.nan),
        lateness=statistics.median(one.lateness for one in scores),
    )


def score_policies(runs: Sequence[Run]) -> dict[str, list[Score]]:
    """Every policy with the settings it has; scores in the order of the runs."""
    return {name: [run.judge(make_policy(name)) for run in runs] for name in POLICIES}


def thresholded(name: str, threshold: float) -> Policy[Any]:
    """The policy with another threshold; where it has one to take back, that keeps its distance from the first."""
    if name in DEMANDS:
        return make_policy(name, {DEMANDS[name]: threshold})
    policy = make_policy(name)
    settings = {"threshold": threshold}
    back = getattr(policy, "resume_threshold", None)
    if back is not None:
        usual: float = policy.threshold  # type: ignore[attr-defined]
        settings["resume_threshold"] = threshold + back - usual if back < usual else threshold * back / usual
        if name == "effective_perturbation/1":
            settings["resume_threshold"] = min(settings["resume_threshold"], 0.99)
    return make_policy(name, settings)


def score_held_out(runs: Sequence[Run], name: str) -> tuple[list[Score], dict[str, float]]:
    """Leave one family out: scores in the order of the runs, and the threshold chosen for each family.

    Chosen is the one with the least mean lateness among those that switch wrongly in at most WRONG_LIMIT of the other
    families' runs, or if there is none, in the fewest; of equal ones the most careful. With a single family there is
    nothing to choose on: ValueError.
    """
    families = sorted({run.family for run in runs})
    if len(families) < 2:
        raise ValueError(f"leaving a family out needs at least two, there is {families[0]!r} only")
    judged = [[run.judge(thresholded(name, threshold)) for run in runs] for threshold in GRIDS[name]]
    chosen = {}
    for family in families:
        others = [index for index, run in enumerate(runs) if run.family != family]
        costs = [_cost([scores[index] for index in others]) for scores in judged]
        chosen[family] = costs.index(min(costs))
    held_out = [judged[chosen[run.family]][index] for index, run in enumerate(runs)]
    return held_out, {family: GRIDS[name][index] for family, index in chosen.items()}


def at_equal_lateness(runs: Sequence[Run], name: str, lateness: float) -> tuple[float, Summary] | None:
    """A policy at its best: of the values of its grid with at most this median lateness, the one of least mean regret.

    It is chosen on the very runs that it is judged on, which favours the policy. None if no value is as early.
    """
    found = [
        (value, summarize([run.judge(thresholded(name, value)) for run in runs])) for value in GRIDS[name]
    ]
    early = [(value, summary) for value, summary in found if summary.lateness <= lateness]
    return min(early, key=lambda one: one[1].regret, default=None)


def _cost(scores: Sequence[Score]) -> tuple[float, float]:
    wrong = summarize(scores).wrong_part
    lateness = statistics.fmean(one.lateness for one in scores)
    return (0.0 if wrong <= WRONG_LIMIT else wrong, lateness)
