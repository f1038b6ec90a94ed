"""Doubts about checkpoints: found where they belong, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import Trajectory, integrity_findings

Record = Callable[[NDArray[np.float64]], Trajectory]


@pytest.fixture
def training() -> NDArray[np.float64]:
    """Parameters [t, p] of a smooth path with noise."""
    rng = np.random.default_rng(17)
    steps = 0.05 * (rng.normal(size=400) + rng.normal(size=(12, 400)))
    return np.asarray(rng.normal(size=400) + np.cumsum(steps, axis=0), dtype=np.float64)


def test_a_training_without_faults_has_no_findings(
    record: Record, training: NDArray[np.float64], recorded_gram: NDArray[np.float64]
) -> None:
    assert integrity_findings(record(training)) == ()
    assert integrity_findings(Trajectory.from_gram(recorded_gram)) == ()


def test_identical_checkpoints(record: Record, training: NDArray[np.float64]) -> None:
    training[7], training[9] = training[2], training[8]
    found = integrity_findings(record(training))
    identical = [finding for finding in found if finding.kind == "identical_checkpoints"]
    assert [finding.checkpoint for finding in identical] == [7, 9]
    assert identical[0].text == "Checkpoint 7 holds the same parameters as checkpoint 2."
    assert identical[1].text == "Checkpoint 9 holds the same parameters as checkpoint 8."


def test_an_update_below_the_digits_of_the_gram_is_no_repetition(record: Record) -> None:
    start = np.zeros(50)
    start[0] = 1.0
    points = np.stack([start + 1e-9 * t * np.eye(50)[t] for t in range(5)])
    trajectory = record(points)
    assert np.unique(trajectory.gram).tolist() == [1.0]
    assert integrity_findings(trajectory) == ()
    # The update alone tells it as well, where the displacement is not known.
    trajectory.displacement_squared[1] = np.nan
    assert integrity_findings(trajectory) == ()


def test_a_non_finite_checkpoint(record: Record, training: NDArray[np.float64]) -> None:
    training[4, 3] = np.nan
    with np.errstate(invalid="ignore"):
        found = integrity_findings(record(training))
    assert [(finding.kind, finding.checkpoint) for finding in found] == [("non_finite", 4)]
    assert found[0].text == "Checkpoint 4 holds NaN or Inf, or its row is missing."


def test_a_checkpoint_of_another_run(record: Record, training: NDArray[np.float64]) -> None:
    training[6] = training[6] + np.random.default_rng(1).normal(size=400)
    found = integrity_findings(record(training))
    assert [(finding.kind, finding.checkpoint) for finding in found] == [("off_neighbours", 6)]
    assert found[0].text == (
        "Checkpoint 6 lies far off while checkpoints 5 and 7 are near to each other: it may belong to another run."
    )


def test_an_oscillating_training_is_not_taken_for_one(record: Record) -> None:
    rng = np.random.default_rng(2)
    swing = rng.normal(size=300)
    points = np.stack([5 * rng.normal(size=300)] * 12) + np.array([swing * (-1) ** t for t in range(12)])
    points += 0.05 * rng.normal(size=points.shape)
    assert integrity_findings(record(points)) == ()


def test_an_origin_that_is_not_the_initialization(record: Record, training: NDArray[np.float64]) -> None:
    training[0] = 5 * np.random.default_rng(9).normal(size=400)
    found = integrity_findings(record(training))
    assert [(finding.kind, finding.checkpoint) for finding in found] == [("origin_not_initialization", 0)]
    assert "checkpoint 0 may not be the initialization of this run" in found[0].text
