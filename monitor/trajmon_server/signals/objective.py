"""What full training would still gain: as much as on the last stretch of the path, by distance.

Norm-only training keeps what is reached and can only add to it, so a switch costs at most what full training would
still have gained (in the recorded runs of benchmarks/switch between a tenth and all of it). That is forecast from how
the objective fell with the distance covered lately, distance being that of the same model as the forecast's
(:meth:`trajmon_server.signals.forecast.Forecast.over`). Objectives flatten, so a straight line errs towards more to
gain; noise that a falling learning rate still takes away errs to the other side. A line sees nothing of a fall that has
not begun: that is why a policy asks for a small remaining displacement too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEAST_POINTS", "Gain", "expected_gain"]

LEAST_POINTS = 6
"""Fewer points say nothing of a slope and its error."""


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much the objective would still fall, in its unit."""

    expected: float
    """At least 0."""
    high: float
    """Upper end of its interval."""


def expected_gain(
    points: Sequence[tuple[float, float]], ahead: float, doubt: float, floor: float = -math.inf
) -> Gain | None:
    """The fall over `ahead`, from the line through (distance back, objective), oldest first, by least squares.

    `doubt` is how many standard errors of the slope the upper end lies above. It cannot fall from the newest of them to
    under `floor`. None for fewer than LEAST_POINTS, where the distances are all the same, and where a number leaves
    float64.

    >>> falling = [(0.1 * back, 1.0 + 0.05 * back) for back in range(8)]  # it fell by 0.5 a unit of distance
    >>> round(expected_gain(falling, ahead=0.2, doubt=2.0).expected, 6)
    0.1
    """
    count = len(points)
    if count < LEAST_POINTS:
        return None
    # From the first one, so that equal distances give exactly no spread.
    places = [distance - points[0][0] for distance, _ in points]
    middle = sum(places) / count
    level = sum(objective for _, objective in points) / count
    from_middle = [(place - middle, points[n][1] - level) for n, place in enumerate(places)]
    spread = sum(x * x for x, _ in from_middle)
    if not 0 < spread < math.inf:
        return None
    slope = sum(x * y for x, y in from_middle) / spread
    misses = [y - slope * x for x, y in from_middle]
    error = math.sqrt(sum(miss * miss for miss in misses) / (count - 2) / spread)
    expected = max(slope, 0.0) * ahead
    high = expected + doubt * error * ahead
    if not math.isfinite(high):
        return None
    most = max(points[-1][1] - floor, 0.0)
    return Gain(min(expected, most), min(high, most))
