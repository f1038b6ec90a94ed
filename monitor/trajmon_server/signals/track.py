"""Following a run along its path: is this checkpoint the next one, whole, fresh and different from the last?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from trajmon_server.signals.base import Observation

__all__ = ["STALE_AFTER_SECONDS", "Track", "follow"]

STALE_AFTER_SECONDS = 3600.0
"""A row older than this says nothing about now."""


@dataclass(frozen=True, slots=True)
class Track:
    """Where a run is."""

    checkpoint: int | None = None
    """Last one seen."""
    position: int | None = None
    """In optimizer steps, or in checkpoints where steps are not known; None if it cannot be told."""
    origin: int | None = None
    """Position of the initialization; None until it was seen."""
    steps: int = 0
    """How many positions the last update spans; 0 if that cannot be told."""
    unbroken: int = 0
    """How many sound updates in a row end here."""

    @property
    def elapsed(self) -> int:
        """Positions since the initialization; 0 if that cannot be told."""
        return 0 if self.position is None or self.origin is None else self.position - self.origin


def follow(track: Track, seen: Observation) -> tuple[Track, str | None]:
    """Take one more checkpoint; the second value says in a sentence why nothing can rest on it.

    Nothing is judged that only some policies need: angles, learning rates, plans, groups.
    """
    start = track.checkpoint is None
    if seen.step is not None:
        position: int | None = seen.step
    elif start:
        position = 0
    else:
        position = None if track.position is None else track.position + 1
    moved = replace(track, checkpoint=seen.checkpoint, position=position, steps=0, unbroken=0)
    problem = _problem(track, moved, seen)
    if problem is not None:
        return moved, problem
    if start:
        return replace(moved, origin=position), None
    assert position is not None
    assert track.position is not None
    return replace(moved, steps=position - track.position, unbroken=track.unbroken + 1), _stale(seen)


def _problem(track: Track, moved: Track, seen: Observation) -> str | None:
    if track.checkpoint is None:
        if seen.previous is not None:
            return "The first checkpoints of this run are missing."
        if not (seen.complete and seen.finite):
            return "The initialization is incomplete or holds NaN or Inf."
        return None
    if not seen.complete:
        return f"Checkpoint {seen.checkpoint} is incomplete."
    if not seen.finite:
        return f"Checkpoint {seen.checkpoint} holds NaN or Inf."
    if not (math.isfinite(seen.update_squared) and math.isfinite(seen.displacement_squared)):
        return f"The update to checkpoint {seen.checkpoint} is missing or too small to tell."
    if not (seen.update_squared > 0 and seen.displacement_squared > 0):
        return f"The parameters did not change up to checkpoint {seen.checkpoint}."
    if seen.previous != track.checkpoint:
        return f"The checkpoints before {seen.checkpoint} are missing."
    if track.origin is None or track.position is None or moved.position is None:
        return "The beginning of this run is missing."
    if moved.position <= track.position or moved.position <= track.origin:
        return f"The step count did not grow up to checkpoint {seen.checkpoint}."
    return None


def _stale(seen: Observation) -> str | None:
    if seen.age_seconds is not None and not seen.age_seconds <= STALE_AFTER_SECONDS:
        return f"Checkpoint {seen.checkpoint} is {seen.age_seconds:.0f} seconds old."
    return None
