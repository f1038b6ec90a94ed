"""The naive policies: their numbers against the vectors, their words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from monitor.signals.paths import Points, drifting, observed  # noqa: TID251 # tests/monitor
from trajmon_server.signals import Advice, Ahead, Observation, make_policy
from trajmon_server.signals.base import LAGS
from trajmon_server.signals.effective_perturbation import UPDATES, effective_perturbation


def follow(name: str, seen: list[Observation], **settings: float) -> list[Advice]:
    policy = make_policy(name, settings)
    state, said = policy.init(), []
    for observation in seen:
        state, advice = policy.update(state, observation)
        said.append(advice)
    return said


def words(said: list[Advice]) -> list[str]:
    return [advice.state.value for advice in said]


@pytest.fixture
def points() -> Points:
    return drifting(16, 50, drift=0.2, noise=1.0, seed=2)


def test_mds() -> None:
    seen = [
        replace(one, mds=value) for one, value in zip(observed(drifting(7, 9, 1, 1, 0)), MDS, strict=True)
    ]
    said = follow("mds_threshold", seen)
    assert words(said) == ["unknown", "explore", "candidate", "switch", "switch", "resume", "unknown"]
    assert said[3].evidence == {"mds": 0.97}
    assert said[3].reason == (
        "The mean directional similarity is 0.9700; the threshold is 0.95. Train only the normalisation scalars."
    )
    assert said[5].reason.endswith("Train everything again.")
    assert said[6].reason == "mds is undefined. No advice."
    assert said[6].policy == "mds_threshold/1"


MDS = (1.0, 0.9, 0.96, 0.97, 0.93, 0.89, math.nan)


def test_look_back_cosine_keeps_its_digits(points: Points) -> None:
    said = follow("look_back_cosine", observed(points))
    for t in range(1, len(points)):
        a, b = (x / np.linalg.norm(x) for x in (points[t], points[t - 1]))
        assert said[t].evidence["look_back_one_minus_cosine"] == pytest.approx(
            np.sum((a - b) ** 2) / 2, rel=1e-9
        )
    # Updates of 1e-9 of the parameters: 1 - cos is 5e-19, far under the resolution of a cosine.
    rng = np.random.default_rng(3)
    start = rng.normal(size=50)
    across = rng.normal(size=50)
    across -= start * (across @ start) / (start @ start)
    step = 1e-9 * across / np.linalg.norm(across) * np.linalg.norm(start)
    seen = observed(np.array([start, start + step]))
    exact = replace(seen[1], update_squared=float(step @ step), norm_squared=seen[0].norm_squared)
    small = follow("look_back_cosine", [seen[0], exact])[1].evidence["look_back_one_minus_cosine"]
    assert small == pytest.approx(0.5e-18, rel=1e-3)


def test_look_back_cosine_without_norms_is_unknown(points: Points) -> None:
    seen = [replace(one, norm_squared=math.nan) for one in observed(points)]
    said = follow("look_back_cosine", seen)
    assert set(words(said)) == {"unknown"}
    assert said[-1].reason == "The norm of the last two checkpoints is not known. No advice."


def test_planned_fraction(points: Points) -> None:
    said = follow("planned_fraction", observed(points, total=15), threshold=0.6)
    assert words(said) == ["unknown"] + ["explore"] * 8 + ["switch"] * 7
    assert said[9].reason == (
        "60% of the planned steps are done; the threshold is 60%. Train only the normalisation scalars."
    )
    unplanned = follow("planned_fraction", observed(points))
    assert set(words(unplanned)) == {"unknown"}
    assert unplanned[-1].reason == "No plan of the run is known. No advice."
    impossible = [replace(one, ahead=Ahead(-1)) for one in observed(points)]
    assert (
        follow("planned_fraction", impossible)[-1].reason == "The plan of the run is impossible. No advice."
    )


def test_planned_fraction_counts_steps(points: Points) -> None:
    seen = [replace(one, step=100 + 10 * one.checkpoint, ahead=Ahead(200)) for one in observed(points)]
    assert follow("planned_fraction", seen)[5].evidence["planned_fraction"] == 50 / 250


def test_update_norm_change(points: Points) -> None:
    rates = np.linspace(0.2, 0.1, 15)
    seen = [
        replace(one, step=one.checkpoint**2) for one in observed(points, rates)
    ]  # spans of 1, 3, 5, ... steps
    said = follow("update_norm_change", seen)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1) / rates / (2 * np.arange(15) + 1)
    for t in range(2, 16):
        expected = abs(lengths[t - 1] - lengths[t - 2]) / lengths[t - 2]
        assert said[t].evidence["update_norm_change"] == pytest.approx(expected)
    assert said[1].reason == "Too few checkpoints. No advice."


def test_update_norm_change_needs_learning_rates_that_are_numbers(points: Points) -> None:
    seen = observed(points, np.full(15, 0.1))
    seen[9] = replace(seen[9], learning_rate=0.0)
    said = follow("update_norm_change", seen, threshold=0.9, resume_threshold=1.0)
    assert words(said)[8:13] == ["switch", "unknown", "unknown", "candidate", "switch"]
    assert said[9].reason == "The learning rate of the last two checkpoints is not known. No advice."


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_effective_perturbation(points: Points, decay: float) -> None:
    said = follow("effective_perturbation", observed(points), decay=decay)
    updates = np.diff(points, axis=0)
    weights = decay ** np.arange(UPDATES)[::-1]
    for t in range(UPDATES, 16):
        last = updates[t - UPDATES : t] * weights[:, None]
        expected = np.linalg.norm(last.sum(axis=0)) / np.linalg.norm(last, axis=1).sum()
        assert said[t].evidence["effective_perturbation"] == pytest.approx(expected)
    assert set(words(said)[:UPDATES]) == {"unknown"}


def test_effective_perturbation_of_a_group_and_of_extremes() -> None:
    points = drifting(12, 60, drift=0.5, noise=1.0, seed=4)
    seen = observed(points, layers={"layer:a": slice(0, 20)})
    part = [one.groups["layer:a"] for one in seen[-UPDATES:]]
    last = np.diff(points[:, :20], axis=0)[-UPDATES:]
    expected = np.linalg.norm(last.sum(axis=0)) / np.linalg.norm(last, axis=1).sum()
    assert effective_perturbation(part, 1.0) == pytest.approx(expected)
    line = observed(np.outer(np.arange(8.0), np.ones(3)))
    assert effective_perturbation(line[-UPDATES:], 1.0) == pytest.approx(1.0)
    there_and_back = observed(np.outer(np.arange(9.0) % 2, np.ones(3)))
    assert effective_perturbation(there_and_back[-UPDATES:], 1.0) == pytest.approx(1 / UPDATES)


def test_effective_perturbation_without_lagged_products_is_unknown(points: Points) -> None:
    seen = [replace(one, lagged_dots=()) for one in observed(points)]
    assert set(words(follow("effective_perturbation", seen))) == {"unknown"}
    seen = observed(points)
    seen[9] = replace(seen[9], lagged_dots=(math.nan,) * len(LAGS))
    said = words(follow("effective_perturbation", seen, threshold=0.98, resume_threshold=0.99))
    assert said[8] == "switch"
    # From 12 on the update to 9 is early enough in the window not to need them.
    assert said[9:14] == ["unknown", "unknown", "unknown", "candidate", "switch"]


def test_a_gap_starts_again(points: Points) -> None:
    seen = observed(points, total=20)
    for name in ("look_back_cosine", "update_norm_change", "effective_perturbation"):
        said = follow(name, [*seen[:8], *seen[9:]])
        assert said[8].reason == "The checkpoints before 9 are missing. No advice."
        assert said[9].state == "unknown"
