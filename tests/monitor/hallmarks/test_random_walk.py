"""A Gaussian random walk against its closed form (Hallmarks, App. C)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trajmon_server.hallmarks import (
    Trajectory,
    mds,
    random_walk_mds,
    random_walk_null,
    relative_mds,
    relative_trajectory_map,
    trajectory_map,
)

PARAMETERS, STEPS = 10_000, 60
SCHEDULES = {
    "constant": np.full(STEPS, 0.1),
    "decayed by 10 twice": np.repeat([0.1, 0.01, 0.001], STEPS // 3),
}


@pytest.fixture(params=sorted(SCHEDULES))
def rates(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    return SCHEDULES[request.param]


@pytest.fixture(params=[1, 2, 3])
def walk(request: pytest.FixtureRequest, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """[STEPS + 1, p], starting at zero."""
    rng = np.random.default_rng(request.param)
    steps = rates[:, None] * rng.normal(size=(STEPS, PARAMETERS))
    return np.vstack([np.zeros(PARAMETERS), np.cumsum(steps, axis=0)])


def test_a_walk_from_zero(walk: NDArray[np.float64], rates: NDArray[np.float64]) -> None:
    trajectory = Trajectory.from_gram(walk @ walk.T)
    cosines = trajectory_map(trajectory.gram)
    assert np.isnan(cosines[0]).all()
    np.testing.assert_allclose(cosines[1:, 1:], random_walk_null(rates), rtol=0, atol=0.05)
    assert mds(trajectory) == pytest.approx(random_walk_mds(rates), abs=0.01)


def test_a_walk_seen_from_its_start(walk: NDArray[np.float64], rates: NDArray[np.float64]) -> None:
    walk = walk + np.random.default_rng(99).normal(size=PARAMETERS)
    trajectory = Trajectory.from_gram(walk @ walk.T)
    np.testing.assert_allclose(
        relative_trajectory_map(trajectory, 0), random_walk_null(rates), rtol=0, atol=0.05
    )
    assert relative_mds(trajectory) == pytest.approx(random_walk_mds(rates), abs=0.01)


def test_only_ratios_of_learning_rates_matter(rates: NDArray[np.float64]) -> None:
    for factor in (1e-200, 1e200):
        np.testing.assert_allclose(random_walk_null(factor * rates), random_walk_null(rates), rtol=1e-12)


def test_nothing_is_defined_before_the_first_step() -> None:
    assert np.isnan(random_walk_null([0.0, 0.0])).all()
    assert random_walk_null([]).shape == (0, 0)
    cosines = random_walk_null([0.0, 1.0, 1.0])
    assert np.isnan(cosines[0]).all()
    assert cosines[1, 2] == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("bad", [[-1.0], [np.nan], [[1.0]]])
def test_bad_learning_rates_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must be one row of finite numbers, none negative"):
        random_walk_null(bad)
