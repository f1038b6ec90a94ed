"""The gain that is still to be expected, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trajmon_server.signals.objective import expected_gain


def test_gain_is_that_of_numpy() -> None:
    rng = np.random.default_rng(1)
    back, objective = np.sort(rng.uniform(0, 2, 15)), rng.normal(size=15)
    objective += 3 * back
    (slope, _), covariance = np.polyfit(back, objective, 1, cov="unscaled")
    residual = np.polyfit(back, objective, 1, full=True)[1][0]
    found = expected_gain(list(zip(back.tolist(), objective.tolist(), strict=True)), ahead=0.7, doubt=2.0)
    assert found is not None
    assert found.expected == pytest.approx(0.7 * slope, rel=1e-12)
    error = math.sqrt(covariance[0, 0] * residual / 13)
    assert found.high == pytest.approx(0.7 * (slope + 2 * error), rel=1e-12)


def test_gain_needs_points_that_lie_apart() -> None:
    assert expected_gain([(0.1 * n, 1.0) for n in range(5)], 1.0, 2.0) is None
    assert expected_gain([(0.1, float(n)) for n in range(15)], 1.0, 2.0) is None
    assert expected_gain([(0.1 * n, 1e308 * (-1) ** n) for n in range(15)], 1.0, 2.0) is None


@pytest.mark.parametrize("newest", [0.1, 0.07, 0.0])
def test_nothing_is_gained_below_the_floor(newest: float) -> None:
    # Oldest first: the newest is the last one.
    falling = [(0.7 - 0.1 * n, 4.0 - 0.5 * n) for n in range(7)] + [(0.0, newest)]
    found = expected_gain(falling, 1.0, 2.0, floor=0.07)
    assert found is not None
    assert found.high == pytest.approx(max(newest - 0.07, 0.0))
