"""What policies that compare one number with a threshold have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trajmon_server.signals.base import Advice, AdviceState, Observation

__all__ = ["check_confirmations", "check_order", "finite", "unknown"]


def finite(**numbers: float) -> dict[str, float]:
    """Without the undefined ones."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def unknown(policy: str, seen: Observation, problem: str, evidence: Mapping[str, float]) -> Advice:
    """Advice that nothing can be said, and why."""
    return Advice(AdviceState.UNKNOWN, seen.checkpoint, evidence, f"{problem} No advice.", policy)


def check_order(smaller: tuple[str, float], larger: tuple[str, float], low: float, high: float) -> None:
    """ValueError unless low < smaller ≤ larger < high; each comes with its name."""
    if not low < smaller[1] <= larger[1] < high:
        raise ValueError(
            f"{smaller[0]} and {larger[0]} must be in this order between {low:g} and {high:g}, "
            f"not {smaller[1]:g} and {larger[1]:g}"
        )


def check_confirmations(confirmations: int) -> None:
    """ValueError unless at least one."""
    if confirmations < 1:
        raise ValueError(f"confirmations must be at least 1, not {confirmations}")
