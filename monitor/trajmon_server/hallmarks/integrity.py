"""Findings about the checkpoints themselves: what no training would have produced.

Published series of checkpoints have held the same bytes twice, an initialization from another run, and single
checkpoints that belong elsewhere; a trajectory map shows all three, and these rules name them. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = ["Finding", "FindingKind", "exact_only", "integrity_findings", "row_findings"]

FindingKind = Literal["identical_checkpoints", "non_finite", "off_neighbours", "origin_not_initialization"]

JUMP_RATIO = 4.0
"""A point is off when both updates around it are this much longer than the way between its neighbours
and than the update before."""
ORIGIN_RATIO = 10.0
"""Checkpoint 0 is doubted when the first update is this much longer than each of the next three."""
ORIGIN_JUDGED_AT = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One doubt about one checkpoint."""

    kind: FindingKind
    checkpoint: int
    """Position along the path."""
    text: str
    """A sentence for people."""


def integrity_findings(trajectory: Trajectory) -> tuple[Finding, ...]:
    """All findings of a trajectory, in the order in which they can be known. O(t²). Estimates count for nothing."""
    trajectory = trajectory.completed()
    squares = trajectory.squared_norms
    gram = exact_only(trajectory.gram, trajectory.gram_error)
    displacements = exact_only(trajectory.displacement_squared, trajectory.displacement_squared_error)
    found: list[Finding] = []
    for t in range(len(trajectory)):
        found += row_findings(
            gram_row=gram[t, : t + 1],
            squared_norms=squares[: t + 1],
            displacement_squared=displacements[: t + 1],
            recent_update_squared=trajectory.update_squared[
                max(0, t - ORIGIN_JUDGED_AT + 1) : t + 1
            ].tolist(),
            update_dot=float(trajectory.update_dot[t]),
        )
    return tuple(found)


def exact_only(values: NDArray[np.float64], errors: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The values that have no standard error, the others NaN: no estimate says that two checkpoints are the same."""
    return values if errors is None else np.where(errors > 0, np.nan, values)


def row_findings(
    *,
    gram_row: NDArray[np.float64],
    squared_norms: NDArray[np.float64],
    displacement_squared: NDArray[np.float64],
    recent_update_squared: Sequence[float],
    update_dot: float,
) -> list[Finding]:
    """What the row of the newest checkpoint t adds; O(t).

    The three arrays are [t + 1]; `recent_update_squared` holds ‖θ_s−θ_{s−1}‖² of the last (at most four)
    checkpoints, the newest last.
    """
    t = len(gram_row) - 1
    if not math.isfinite(squared_norms[t]):
        return [Finding("non_finite", t, f"Checkpoint {t} holds NaN or Inf, or its row is missing.")]
    found = _identical(t, gram_row, squared_norms, displacement_squared, recent_update_squared[-1])
    if t == ORIGIN_JUDGED_AT:
        found += _origin(recent_update_squared)
    if t >= 3:
        found += _off_neighbours(t - 1, recent_update_squared, update_dot)
    return found


def _identical(
    t: int,
    row: NDArray[np.float64],
    squares: NDArray[np.float64],
    displacements: NDArray[np.float64],
    update_squared: float,
) -> list[Finding]:
    # Equal bytes give equal sums, bit for bit; the exact displacement tells an update too small for the Gram
    # apart.
    same = (row[:-1] == row[t]) & (squares[:-1] == row[t])
    if not same.any():
        return []
    same &= (displacements[:-1] == displacements[t]) | np.isnan(displacements[t])
    if t and update_squared > 0:
        same[-1] = False
    twins = np.flatnonzero(same)
    if len(twins) == 0:
        return []
    return [
        Finding(
            "identical_checkpoints", t, f"Checkpoint {t} holds the same parameters as checkpoint {twins[0]}."
        )
    ]


def _origin(update_squared: Sequence[float]) -> list[Finding]:
    first, *following = update_squared
    # A comparison with NaN is False: no finding on missing data.
    if not all(0 < later * ORIGIN_RATIO**2 < first for later in following):
        return []
    ratio = math.sqrt(first / max(following))
    return [
        Finding(
            "origin_not_initialization",
            0,
            f"The first update is {ratio:.0f} times as long as the next three: "
            "checkpoint 0 may not be the initialization of this run.",
        )
    ]


def _off_neighbours(checkpoint: int, update_squared: Sequence[float], dot: float) -> list[Finding]:
    before, there, back = update_squared[-3:]
    past = there + back + 2 * dot
    longest = max(before, past)
    if not (math.isfinite(longest) and min(there, back) > JUMP_RATIO**2 * longest):
        return []
    return [
        Finding(
            "off_neighbours",
            checkpoint,
            f"Checkpoint {checkpoint} lies far off while checkpoints {checkpoint - 1} and {checkpoint + 1} "
            "are near to each other: it may belong to another run.",
        )
    ]
