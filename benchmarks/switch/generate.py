"""Make the runs of the switch benchmark, each with the outcome of its switches.

    python -m benchmarks.switch.generate                 all that are not there yet
    python -m benchmarks.switch.generate modular lazy    those with one of these in their name
    python -m benchmarks.switch.generate --list          what there is, and what came out

One thread, at low priority. Stopped in any way, it goes on where it was: a finished run is left as it is unless
its recipe has changed, a half-finished one goes on at the checkpoint or the outcome that it was at. Several may
work at once: each takes the runs that no other one makes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.switch.making import StoppedError, make
from benchmarks.switch.outcomes import earliest_safe
from benchmarks.switch.recipes import RECIPES, Recipe
from benchmarks.switch.recording import is_made_by
from benchmarks.switch.workshop import Busy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["chosen", "generate", "main", "table"]

DATA = Path(__file__).parent / "data"
WORK = Path(__file__).parents[2] / "out" / "switch"


def chosen(patterns: Sequence[str]) -> list[Recipe]:
    """The recipes with one of these texts in their name; all without any. Raises ValueError if one is in none."""
    for pattern in patterns:
        if not any(pattern in recipe.name for recipe in RECIPES):
            raise ValueError(f"no run has {pattern!r} in its name; see --list")
    return [
        recipe for recipe in RECIPES if not patterns or any(pattern in recipe.name for pattern in patterns)
    ]


def generate(
    recipes: Sequence[Recipe], data: Path, work: Path, *, minutes: float = math.inf, console: Console
) -> bool:
    """Make what is missing; whether all of them are there now. Ends at a boundary after so many minutes."""
    until = time.monotonic() + 60 * minutes
    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        runs = progress.add_task("runs", total=len(recipes))
        for recipe in recipes:
            path = data / f"{recipe.name}.npz"
            if not is_made_by(path, recipe):
                try:
                    _make(recipe, path, work, until, progress)
                except Busy as busy:
                    progress.console.print(f"{busy}; left out")
                except StoppedError:
                    progress.console.print(f"{recipe.name}: stopped for now; the next call goes on with it")
                    break
            progress.advance(runs)
    return all(is_made_by(data / f"{recipe.name}.npz", recipe) for recipe in recipes)


def _make(recipe: Recipe, path: Path, work: Path, until: float, progress: Progress) -> None:
    task: TaskID = progress.add_task(recipe.name, total=100)
    started = time.process_time()
    try:
        made = make(
            recipe,
            path,
            work,
            told=lambda text, share: progress.update(
                task, description=f"{recipe.name}: {text}", completed=round(100 * share)
            ),
            go_on=lambda: time.monotonic() < until,
        )
    finally:
        progress.remove_task(task)
    seconds = time.process_time() - started
    tried = "  ".join(f"{point}:{final:.3f}" for point, final in sorted(made.finals.items()))
    safe = "none" if made.earliest_safe is None else f"{made.earliest_safe}/{recipe.intervals}"
    progress.console.print(
        f"{recipe.name}: full {made.full_final:.3f}, safe from {safe}; {tried}; "
        f"{seconds:.0f} s, {made.num_bytes / 1e3:.0f} kB",
        soft_wrap=True,
    )


def table(recipes: Sequence[Recipe], data: Path) -> Table:
    """One line a run: what full training reaches and from where a switch is safe."""
    lines = Table(title="Runs of the switch benchmark")
    for heading in ("run", "metric", "full", "delta", "safe from", "switch points", "worst", "kB"):
        lines.add_column(heading, justify="left" if heading in ("run", "metric") else "right")
    for recipe in recipes:
        path = data / f"{recipe.name}.npz"
        if not is_made_by(path, recipe):
            lines.add_row(recipe.name, "not made yet" if not path.exists() else "of another recipe")
            continue
        with np.load(path, allow_pickle=False) as run:
            full, delta = float(run["full_final"]), float(run["delta"])
            finals = dict(zip(run["switch_points"].tolist(), run["norm_only_final"].tolist(), strict=True))
            metric = str(run["metric_name"])
        safe = earliest_safe(finals, full, delta)
        lines.add_row(
            recipe.name,
            metric,
            f"{full:.3f}",
            f"{delta:.3f}",
            "none" if safe is None else f"{safe}/{recipe.intervals}",
            str(len(finals)),
            f"{min(finals.values()):.3f}",
            f"{path.stat().st_size / 1e3:.0f}",
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every run that was asked for is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.switch.generate", description="Make the runs of the switch benchmark."
    )
    parser.add_argument("run", nargs="*", help="part of a run's name; default: all of them")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="of the finished runs")
    parser.add_argument("--work", type=Path, default=WORK, metavar="FOLDER", help="of half-finished ones")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, to go on later")
    parser.add_argument("--list", action="store_true", help="make nothing; say what there is")
    given = parser.parse_args(arguments)
    try:
        recipes = chosen(given.run)
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else 140)
    if given.list:
        console.print(table(recipes, given.data))
        return 0
    os.nice(19)
    torch.set_num_threads(1)
    complete = generate(recipes, given.data, given.work, minutes=given.minutes, console=console)
    console.print(table(recipes, given.data))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
