"""`python -m benchmarks.switch hybrid`: what hybrid training costs and saves, as a table.

Each training follows the advice of a real server live, switches to norm-only training on `switch` and back on `resume`
(`hybrid_live`). From the checkpoint of its first switch it is then trained again in each way, side by side
(`hybrid_ways`): everything to the end; as the advice had it, which has to end with the same score as the live training,
to the last bit; and, where everything was trained again later, as if it had not been, and as if the advice had known at
once. One thread, at low priority. Stopped, it goes on with the case and seed that it was at.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.switch.hybrid_cases import CASES, Case, Continued, training_of
from benchmarks.switch.hybrid_live import Event, HybridError, Live, follow_live
from benchmarks.switch.hybrid_results import Result, Shelf
from benchmarks.switch.hybrid_server import Server, running_server
from benchmarks.switch.hybrid_table import (
    AT_ONCE,
    FULL,
    HYBRID,
    NEVER_BACK,
    markdown,
    measured_how,
    replaced,
    rich_table,
    rows,
)
from benchmarks.switch.hybrid_ways import Way, follow_ways, held_by
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.recording import metric_name_of
from benchmarks.switch.training import Training
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trajmon.errors import TrajmonError
from trajmon_server.signals.policies import DEFAULT, make_policy

__all__ = ["Counter", "chosen", "load_all", "main", "measure", "measure_all", "ways_after"]

OUT = Path(__file__).parents[2] / "out" / "switch" / "hybrid"


def chosen(patterns: Sequence[str], cases: Sequence[Case] = CASES) -> list[Case]:
    """The cases with one of these texts in their name; all without any. Raises ValueError if one is in none."""
    for pattern in patterns:
        if not any(pattern in case.name for case in cases):
            raise ValueError(
                f"no case has {pattern!r} in its name; there are {', '.join(case.name for case in cases)}"
            )
    return [case for case in cases if not patterns or any(pattern in case.name for pattern in patterns)]


def measure(
    recipe: Recipe,
    server: Server,
    repeats: int,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Result:
    """One live training, then the ways side by side. `told` hears how many intervals are done, of how many.

    Raises HybridError if the live training and its repetition end with different scores, or as :func:`follow_live`.
    """
    training = training_of(recipe)
    # One server sees one recipe more than once when a run was stopped: each time it is another run.
    counter = Counter(recipe.intervals, told)
    live = follow_live(training, f"{recipe.name}-{time.time_ns()}", server, counter.advance)
    ways = ways_after(recipe, training, live, repeats, counter)
    before = recipe.intervals if not live.events else live.events[0].checkpoint
    return Result(
        recipe=recipe.name,
        metric_name=metric_name_of(recipe),
        intervals=recipe.intervals,
        events=live.events,
        words=live.words,
        policy=live.policy,
        before_seconds=sum(live.seconds[:before]),
        waited_seconds=live.waited_seconds,
        ways=ways,
    )


def ways_after(
    recipe: Recipe, training: Training, live: Live, repeats: int, counter: Counter
) -> dict[str, Way]:
    """All ways on from where the live training, which is over, first switched."""
    if live.fork is None:
        # It was full training all along.
        return {FULL: Way(live.final, (), held_by(training), None)}
    ways: dict[str, Sequence[Event]] = {FULL: (), HYBRID: live.events}
    if len(live.events) > 1:
        ways[NEVER_BACK] = live.events[:1]
        there, back, *later = live.events
        if isinstance(recipe, Continued) and there.checkpoint < recipe.planned < back.checkpoint:
            ways[AT_ONCE] = (there, Event(recipe.planned, norm_only=False), *later)
    left = recipe.intervals - live.events[0].checkpoint
    counter.total += left * len(ways) * repeats
    found = follow_ways(lambda: training_of(recipe), live.fork, ways, repeats, counter.advance)
    if found[HYBRID].final != live.final:
        raise HybridError(
            f"{recipe.name}: live it ends with {live.final}, repeated with {found[HYBRID].final}"
        )
    return found


@dataclass
class Counter:
    """Of intervals trained."""

    total: int
    told: Callable[[int, int], object]
    done: int = 0

    def advance(self) -> None:
        """One more."""
        self.done += 1
        self.told(self.done, self.total)


def measure_all(cases: Sequence[Case], seeds: int, shelf: Shelf, console: Console) -> dict[str, list[Result]]:
    """Measure what is missing; all results by the case's name, seed by seed."""
    todo = [
        recipe for case in cases for recipe in map(case.seeded, range(seeds)) if shelf.load(recipe) is None
    ]
    if todo:
        columns = (
            TextColumn("{task.description:44}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # Redrawn seldom: drawing takes time from the process that is measured.
        progress = Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=1)
        with running_server(shelf.out, shelf.policy) as server, progress:
            bar = progress.add_task("trainings", total=len(todo))
            for recipe in todo:
                _measure_and_save(recipe, server, shelf, progress)
                progress.advance(bar)
    return load_all(cases, seeds, shelf)


def load_all(cases: Sequence[Case], seeds: int, shelf: Shelf) -> dict[str, list[Result]]:
    """What is there, by the case's name, seed by seed."""
    return {
        case.name: [result for seed in range(seeds) if (result := shelf.load(case.seeded(seed))) is not None]
        for case in cases
    }


def _measure_and_save(recipe: Recipe, server: Server, shelf: Shelf, progress: Progress) -> None:
    bar = progress.add_task(recipe.name, total=recipe.intervals)
    started = time.process_time()
    try:
        result = measure(
            recipe,
            server,
            shelf.repeats,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    finally:
        progress.remove_task(bar)
    if result.policy != shelf.policy:
        raise HybridError(f"the server advised by {result.policy}, not by {shelf.policy}")
    shelf.save(recipe, result)
    words = ", ".join(f"{word} at {checkpoint}" for checkpoint, word in result.words)
    progress.console.print(
        f"{recipe.name}: {words}; {time.process_time() - started:.0f} s", soft_wrap=True, highlight=False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every result that was asked for is there; 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.switch hybrid", description="Measure hybrid training."
    )
    parser.add_argument("case", nargs="*", help="part of a case's name; default: all of them")
    parser.add_argument("--seeds", type=_count, default=3, help="how many, from 0 on; default: 3")
    parser.add_argument("--repeats", type=_count, default=2, help="of the part that is timed; default: 2")
    parser.add_argument("--policy", default=DEFAULT, metavar="NAME", help=f"that advises; default: {DEFAULT}")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="of the results")
    parser.add_argument("--list", action="store_true", help="measure nothing; show what is there")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="put the table into this page as well")
    given = parser.parse_args(arguments)
    try:
        cases = chosen(given.case)
        shelf = Shelf(given.out, given.repeats, make_policy(given.policy).name)
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else 200)
    if given.list:
        results = load_all(cases, given.seeds, shelf)
    else:
        os.nice(19)
        torch.set_num_threads(1)
        # For the server and the agents.
        os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
        try:
            results = measure_all(cases, given.seeds, shelf, console)
        except (HybridError, TrajmonError, RuntimeError) as error:
            console.print(f"stopped: {error}", style="red", highlight=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print("stopped; the next call goes on")
            return 130
    return _show(cases, results, given.seeds, given.docs, console)


def _show(
    cases: Sequence[Case], results: dict[str, list[Result]], seeds: int, docs: Path | None, console: Console
) -> int:
    lines = [line for case in cases if results[case.name] for line in rows(case.what, results[case.name])]
    every = [result for case in cases for result in results[case.name]]
    if every:
        console.print(rich_table(lines))
        console.print(measured_how(every, seeds), soft_wrap=True, highlight=False)
    missing = len(cases) * seeds - len(every)
    if missing:
        console.print(f"{missing} of {len(cases) * seeds} trainings are not measured yet")
        return 1
    if docs is not None:
        text = f"{markdown(lines)}\n\n{measured_how(every, seeds)}"
        try:
            docs.write_text(replaced(docs.read_text(encoding="utf-8"), text), encoding="utf-8")
        except (OSError, ValueError) as error:
            console.print(f"{docs} is left as it is: {error}", style="red", highlight=False)
            return 1
    return 0


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
