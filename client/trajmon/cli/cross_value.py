"""A map across two runs as plain values for JSON: what follows from it, not the map itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trajmon.cli.plain import array_value, number_value
from trajmon.cross.result import CrossResult

__all__ = ["cross_value"]


def cross_value(
    result: CrossResult, is_exact: bool, totals: tuple[int, int], notes: Sequence[str]
) -> dict[str, Any]:
    """`totals`: checkpoints along the paths of the two; `is_exact`: from snapshots. None where undefined."""
    rows, columns = result.same_number()
    nearest = result.nearest()
    return {
        "run": result.run,
        "other": result.other,
        "scope": result.scope,
        "from_initialization": result.from_initialization,
        "exact": is_exact,
        "on_path": totals[0],
        "other_on_path": totals[1],
        "notes": list(notes),
        "checkpoint": array_value(result.checkpoint),
        "step": array_value(result.step),
        "other_checkpoint": array_value(result.other_checkpoint),
        "other_step": array_value(result.other_step),
        "first": _pair(result, 0),
        "last": _pair(result, -1),
        "same_number": {
            "checkpoint": array_value(result.checkpoint[rows]),
            "cosine": array_value(result.map[rows, columns]),
            "cosine_error": array_value(result.error[rows, columns]),
            "distance": array_value(result.distance[rows, columns]),
            "distance_error": array_value(result.distance_error[rows, columns]),
        },
        "nearest": {
            "other_checkpoint": _numbers(nearest.checkpoint),
            "distance": array_value(nearest.distance),
            "distance_error": array_value(nearest.error),
            "first_within_error": _numbers(nearest.first),
            "last_within_error": _numbers(nearest.last),
        },
    }


def _pair(result: CrossResult, place: int) -> dict[str, float | int | None]:
    """Both runs' first checkpoints, or both their last."""
    return {
        "checkpoint": int(result.checkpoint[place]),
        "other_checkpoint": int(result.other_checkpoint[place]),
        "cosine": number_value(result.map[place, place]),
        "cosine_error": number_value(result.error[place, place]),
        "distance": number_value(result.distance[place, place]),
        "distance_error": number_value(result.distance_error[place, place]),
    }


def _numbers(values: np.ndarray[Any, np.dtype[np.int64]]) -> list[int | None]:
    return [None if value < 0 else int(value) for value in values]
