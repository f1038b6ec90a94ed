"""One training that follows the advice live: a real server, `trajmon.watch(..., on_advice="switch")`, nothing else.

These trainings take a quarter of a second from checkpoint to checkpoint, and the agent asks for advice once a second.
So training waits after each checkpoint until the advice on it has arrived. The next checkpoint then acts on it, as in
a training whose intervals are longer than a second: a switch comes one checkpoint after the one that its advice rests
on. No time that is measured holds any of this waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from benchmarks.switch.hybrid_cases import planned_intervals
from benchmarks.switch.hybrid_server import Server
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.recording import metric_name_of
from benchmarks.switch.tasks import Score, Task
from benchmarks.switch.training import State, Training

import trajmon
from trajmon.switch import is_switched

__all__ = ["Event", "HybridError", "Live", "follow_live", "plan_of"]

ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.002


class HybridError(Exception):
    """What was measured is not what it should be."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of what is trained."""

    checkpoint: int
    """From this one on."""
    norm_only: bool


@dataclass(frozen=True, slots=True)
class Live:
    """What came of a training that followed the advice."""

    events: tuple[Event, ...]
    """Without one at the last checkpoint, after which nothing is trained."""
    fork: State | None
    """Of the checkpoint of the first event, before it; None without an event."""
    final: Score
    words: tuple[tuple[int, str], ...]
    """Each change of the advice's state: checkpoint that it rests on, state."""
    policy: str
    seconds: tuple[float, ...]
    """Processor time of each interval: steps and their data."""
    waited_seconds: float
    """For advice, altogether; not part of `seconds`."""


@cache
def _steps_in_interval(task: Task) -> int:
    return sum(1 for _ in task.ready().batches(torch.Generator()))


def plan_of(recipe: Recipe) -> trajmon.Plan:
    """What the server is told of the time ahead: steps and rates until the planned end, and the metric aimed at."""
    steps = _steps_in_interval(recipe.task)
    by_loss = metric_name_of(recipe) == "minus_loss"
    return trajmon.Plan(
        total_steps=steps * planned_intervals(recipe),
        learning_rate=recipe.learning_rate,
        steps_per_rate=steps,
        objective="loss" if by_loss else "accuracy",
        larger_is_better=not by_loss,
    )


def metrics_of(recipe: Recipe, score: Score) -> dict[str, float]:
    """What is recorded with a checkpoint."""
    return {"loss": score.loss} | ({"accuracy": score.metric} if metric_name_of(recipe) == "accuracy" else {})


def follow_live(
    training: Training,
    run: str,
    server: Server,
    told: Callable[[], object] = lambda: None,
    *,
    answer_seconds: float = ANSWER_SECONDS,
) -> Live:
    """Train to the end, recorded as `run`, following the advice. `told` is called after each interval.

    Raises HybridError if advice on a checkpoint does not arrive within `answer_seconds` or is not followed, and what
    recording raises.
    """
    recorder = trajmon.watch(
        training.network,
        run=run,
        optimizer=training.optimizer,
        server=server.address,
        home=server.home,
        on_advice="switch",
        agent_threads=1,
        strict=True,
        plan=plan_of(training.recipe),
    )
    events: list[Event] = []
    words: list[tuple[int, str]] = []
    seconds: list[float] = []
    fork: State | None = None
    waited, policy = 0.0, ""
    with recorder:
        while not training.is_over:
            since = time.perf_counter()
            advice = _advice_on(recorder, training.checkpoint, answer_seconds)
            waited += time.perf_counter() - since
            policy = advice.policy
            if not words or words[-1][1] != advice.state:
                words.append((training.checkpoint, advice.state))
            since = time.process_time()
            training.advance()
            seconds.append(time.process_time() - since)
            if not events:
                fork = training.state()
            final = training.score()
            norm_only = is_switched(training.network)
            recorder.checkpoint(step=training.step, metrics=metrics_of(training.recipe, final))
            now_norm_only = is_switched(training.network)
            if now_norm_only != {"switch": True, "resume": False}.get(advice.state, norm_only):
                raise HybridError(f"{run}: the advice {advice.state!r} was not followed: {advice.reason}")
            if now_norm_only != norm_only and not training.is_over:
                events.append(Event(training.checkpoint, now_norm_only))
            told()
    return Live(tuple(events), fork if events else None, final, tuple(words), policy, tuple(seconds), waited)


def _advice_on(recorder: trajmon.Recorder, checkpoint: int, answer_seconds: float) -> trajmon.Advice:
    deadline = time.monotonic() + answer_seconds
    while (advice := recorder.advice).checkpoint is None or advice.checkpoint < checkpoint:
        if time.monotonic() > deadline:
            raise HybridError(
                f"no advice on checkpoint {checkpoint} within {answer_seconds:g} seconds; the last rests on "
                f"{advice.checkpoint}; the recorder: {recorder.status}"
            )
        time.sleep(_POLL_SECONDS)
    return advice
