"""Spectra of maps and Grams, and the random walk with a run's learning rates."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon_server.auth import Principal
from trajmon_server.config import Limits
from trajmon_server.errors import InvalidRequest, Violation
from trajmon_server.hallmarks.random_walk_null import random_walk_null
from trajmon_server.hallmarks.spectrum import effective_rank, eigenvalues
from trajmon_server.query.core import MapAnswer, MapQuery, Query, find_scope
from trajmon_server.query.overview import thinned
from trajmon_server.runs.run import Run

__all__ = ["MOST_CHECKPOINTS", "SpectrumAnswer", "spectrum_of", "step_sizes", "walk_of"]

MOST_CHECKPOINTS = 1024
"""Of a spectrum, which takes the third power of their number in time; more are thinned out evenly."""

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class SpectrumAnswer:
    """Eigenvalues over some checkpoints, largest first."""

    total: int
    """Checkpoints that were asked for."""
    checkpoint: NDArray[np.int64]
    """Numbers of those that were taken: all, or 1024 evenly spread."""
    map_values: NDArray[np.float64]
    """Of the map of cosines."""
    map_rank: float
    """Its effective rank; NaN if nothing is defined, and where it would rest on estimates."""
    map_error: float
    """No eigenvalue is off by more than about this: the Frobenius norm of the entries' standard errors (Weyl)."""
    gram_values: NDArray[np.float64]
    """Of the Gram about the origin."""
    gram_rank: float
    gram_error: float


async def spectrum_of(
    query: Query, run: Run, caller: Principal, in_thread: InThread, wanted: MapQuery
) -> SpectrumAnswer:
    """The spectrum of a scope. Errors as those of its map."""
    answer = await query.map(run.description.run_id, wanted, caller)
    kept = thinned(len(answer.map), MOST_CHECKPOINTS)
    part = np.ix_(kept, kept)

    def compute() -> SpectrumAnswer:
        values, ranks, errors = [], [], []
        for entries, error in (
            (answer.map, answer.error),
            (answer.gram, answer.gram_error),
        ):
            off = 0.0 if error is None else float(np.sqrt(np.nansum(np.square(error[part]))))
            values.append(eigenvalues(entries[part]))
            ranks.append(effective_rank(entries[part]) if off == 0 else math.nan)
            errors.append(off)
        return SpectrumAnswer(
            len(answer.map),
            answer.checkpoint[kept],
            values[0],
            ranks[0],
            errors[0],
            values[1],
            ranks[1],
            errors[1],
        )

    found: SpectrumAnswer = await in_thread(compute)
    return found


def step_sizes(steps: list[int], rates: list[float | None]) -> tuple[NDArray[np.float64], str]:
    """Lengths of the walk's steps between T neighbouring checkpoints, [n], and why n is less than T - 1.

    Between two checkpoints lie as many steps of the optimizer as their numbers say, each with the learning rate of
    the later one: one step of the walk whose square is the sum of theirs.

    >>> step_sizes([0, 4, 8], [0.5, 0.5, 1.0])
    (array([1., 2.]), '')
    """
    sizes: list[float] = []
    for (before, after), rate in zip(pairwise(steps), rates[1:], strict=True):
        if rate is None or not (math.isfinite(rate) and rate >= 0):
            return np.array(sizes), "the learning rate was not recorded at every checkpoint"
        if before < 0 or after <= before:
            return np.array(
                sizes
            ), "the number of the training step does not rise from each checkpoint to the next"
        sizes.append(rate * math.sqrt(after - before))
    return np.array(sizes), ""


async def walk_of(run: Run, limits: Limits, in_thread: InThread, wanted: MapQuery) -> tuple[MapAnswer, str]:
    """The map of a random walk about the first of the checkpoints, and why part of it is undefined."""
    scope, _ = find_scope(run, wanted.scope)
    start, stop = wanted.start or 0, run.num_checkpoints if wanted.stop is None else wanted.stop
    numbers = [number for number in run.analysis.path if start <= number < stop]
    if len(numbers) > limits.max_map_checkpoints:
        text = (
            f"the range has {len(numbers)} checkpoints, one answer has at most {limits.max_map_checkpoints}"
        )
        raise InvalidRequest.from_violations([Violation("stop", text)])
    metas = [run.metas.get(number) for number in numbers]
    steps = [meta.step if meta else -1 for meta in metas]
    sizes, why = step_sizes(steps, [meta.learning_rate if meta else None for meta in metas])

    def compute() -> NDArray[np.float64]:
        entries = np.full((max(len(numbers) - 1, 0),) * 2, np.nan)
        entries[: len(sizes), : len(sizes)] = random_walk_null(sizes)
        return entries

    entries = await in_thread(compute)
    modes = np.array([meta is not None and meta.is_norm_only for meta in metas[1:]], dtype=np.uint8)
    answer = MapAnswer(
        scope=scope,
        map=entries,
        gram=np.empty((0, 0)),
        checkpoint=np.array(numbers[1:], dtype=np.int64),
        step=np.array(steps[1:], dtype=np.int64),
        mode=modes,
    )
    return answer, why
