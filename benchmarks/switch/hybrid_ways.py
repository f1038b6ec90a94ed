"""Several ways on from one checkpoint, side by side: the same state, the same data, interval by interval by turns.

By turns, so that whatever else the machine does slows all of them alike; several times over, so that what is left of it
shows. Times are processor time of the process, which holds nothing of what others do while it waits for a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.switch.hybrid_live import Event, HybridError
from benchmarks.switch.tasks import Score
from benchmarks.switch.training import State, Training

from trajmon import switch_back, switch_to_norm_only
from trajmon.switch import is_switched
from trajmon.switch.optimizers import state_bytes

__all__ = ["Held", "Way", "follow_ways", "held_by"]


@dataclass(frozen=True, slots=True)
class Held:
    """Memory beside parameters and activations, after a step."""

    optimizer_bytes: int
    gradient_bytes: int


@dataclass(frozen=True, slots=True)
class Way:
    """What came of one way."""

    final: Score
    seconds: tuple[float, ...]
    """Processor time of all its intervals, steps and their data, once for each repeat."""
    full: Held | None
    """While everything is trained; None if it never was."""
    norm_only: Held | None
    """In norm-only training; None if it never was."""


def held_by(training: Training) -> Held:
    """After a step, before gradients are cleared."""
    gradients = [parameter.grad for parameter in training.network.parameters()]
    return Held(
        optimizer_bytes=state_bytes(training.optimizer.state),
        gradient_bytes=sum(gradient.nbytes for gradient in gradients if gradient is not None),
    )


def follow_ways(
    start: Callable[[], Training],
    fork: State,
    ways: Mapping[str, Sequence[Event]],
    repeats: int,
    told: Callable[[], object] = lambda: None,
) -> dict[str, Way]:
    """From the state `fork` to the end, switching at each way's events.

    `start` makes a training of the recipe. `told` is called after each interval of each way. HybridError if a repeat
    ends otherwise than the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    held: dict[str, dict[bool, Held]] = {name: {} for name in ways}
    finals: dict[str, Score] = {}
    for repeat in range(repeats):
        trainings = {name: start() for name in ways}
        for training in trainings.values():
            training.restore(fork)
        spent = dict.fromkeys(ways, 0.0)
        order = list(ways)
        while not trainings[order[0]].is_over:
            for name in order:
                training = trainings[name]
                _act(training, ways[name])
                since = time.process_time()
                training.advance()
                spent[name] += time.process_time() - since
                held[name][is_switched(training.network)] = held_by(training)
                told()
            order = [*order[1:], order[0]]
        for name, training in trainings.items():
            seconds[name].append(spent[name])
            final = training.score()
            if finals.setdefault(name, final) != final:
                raise HybridError(f"{name}: repeat {repeat} ends with {final}, the first with {finals[name]}")
    return {
        name: Way(finals[name], tuple(seconds[name]), held[name].get(False), held[name].get(True))
        for name in ways
    }


def _act(training: Training, events: Sequence[Event]) -> None:
    for event in events:
        if event.checkpoint == training.checkpoint:
            (switch_to_norm_only if event.norm_only else switch_back)(training.network, training.optimizer)
