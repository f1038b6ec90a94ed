"""From "settled here" and "moving here", checkpoint by checkpoint, to a word that does not flicker."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trajmon_server.signals.base import AdviceState

__all__ = ["Verdict", "interrupt", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said so far."""

    settled_in_a_row: int = 0
    advised: AdviceState = AdviceState.EXPLORE
    """`switch` or `resume` after one of them was advised, until another word replaces it."""
    interrupted: bool = False
    """The advice was `unknown` since: a switch is not repeated until it is confirmed anew."""


def judge(
    verdict: Verdict, *, settled: bool, moving: bool, confirmations: int
) -> tuple[Verdict, AdviceState]:
    """`candidate` when settled, `switch` after `confirmations` in a row, `resume` when moving after a switch.

    Neither settled nor moving keeps a switch that was advised, unless `unknown` came between.
    """
    row = verdict.settled_in_a_row + 1 if settled else 0
    advised, interrupted = verdict.advised, verdict.interrupted
    if row >= confirmations:
        advised, interrupted = AdviceState.SWITCH, False
    elif moving and advised is AdviceState.SWITCH:
        advised = AdviceState.RESUME
    elif settled and advised is AdviceState.RESUME:
        advised = AdviceState.EXPLORE
    word = AdviceState.EXPLORE if advised is AdviceState.SWITCH and interrupted else advised
    if settled and word is AdviceState.EXPLORE:
        word = AdviceState.CANDIDATE
    return Verdict(row, advised, interrupted), word


def interrupt(verdict: Verdict) -> Verdict:
    """After `unknown`: the count starts again."""
    return replace(verdict, settled_in_a_row=0, interrupted=True)
