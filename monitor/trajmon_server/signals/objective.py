"""How much the objective would still fall, if it went on as it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Progress", "still_to_gain"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The objective after an update (smaller is better), and the learning rate times steps that led there."""

    objective: float
    travelled: float


def still_to_gain(progress: Sequence[Progress], ahead: float, doubt: float) -> float:
    """The fall over `ahead` more units of learning rate times steps; 0 if it does not fall; NaN where not known.

    A straight line through the window, by least squares, and `doubt` of its slope's standard errors to the side of more
    fall. Checkpoints without an objective are left out; fewer than three others, or an infinite one, give NaN.
    Objectives flatten as they fall, so a line errs towards more to gain; but it sees nothing of a fall that has not
    begun.

    >>> falling = [Progress(1.0 - 0.1 * t, 1.0) for t in range(5)]
    >>> round(still_to_gain(falling, ahead=3.0, doubt=1.0), 6)
    0.3
    """
    places, place = [], 0.0
    for one in progress:
        place += one.travelled
        places.append(place)
    known = [
        (place, one.objective)
        for place, one in zip(places, progress, strict=True)
        if not math.isnan(one.objective)
    ]
    count = len(known)
    if count < 3:
        return math.nan
    middle = sum(place for place, _ in known) / count
    level = sum(value for _, value in known) / count
    spread = sum((place - middle) * (place - middle) for place, _ in known)
    if not 0 < spread < math.inf:
        return math.nan
    slope = sum((place - middle) * (value - level) for place, value in known) / spread
    misses = [value - level - slope * (place - middle) for place, value in known]
    residual = sum(miss * miss for miss in misses)
    error = math.sqrt(residual / (count - 2) / spread)
    gain = (doubt * error - slope) * ahead
    return max(gain, 0.0) if math.isfinite(gain) else math.nan
