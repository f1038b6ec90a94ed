"""`python -m benchmarks.switch table`: every policy's score, as it is, at equal lateness, with each family left out.

`--check` ends with what the default has to hold, and with 1 if it does not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.switch.scoring import (
    WRONG_LIMIT,
    Run,
    Summary,
    at_equal_lateness,
    load_runs,
    score_held_out,
    score_policies,
    summarize,
)
from rich.console import Console
from rich.table import Table

from trajmon_server.signals.outcomes import Score
from trajmon_server.signals.policies import DEFAULT, POLICIES

__all__ = ["main"]

DATA = Path(__file__).parent / "data"
LATENESS_LIMIT = 0.15
DELICATE = ("lazy", "modular")
"""Families in which no switch may be wrong."""
PREDECESSORS = ("remaining_displacement/1",)
"""Policies that are no naive ones."""


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 1 if there is nothing to score."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switch table", description=__doc__)
    parser.add_argument("path", nargs="*", type=Path, default=[DATA], help="recordings, or folders of them")
    parser.add_argument("--runs", action="store_true", help="one table more: every run")
    parser.add_argument("--no-plan", action="store_true", help="policies do not know how long runs go on")
    parser.add_argument("--no-objective", action="store_true", help="policies do not see the metric")
    parser.add_argument("--check", action="store_true", help="also judge the default; 1 if it misses a limit")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    chosen = parser.parse_args(arguments)
    if chosen.json and chosen.check:
        parser.error("--check prints lines, --json one object: ask for one of them")
    try:
        runs = load_runs(chosen.path, with_plan=not chosen.no_plan, with_objective=not chosen.no_objective)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    usual = score_policies(runs)
    enough = len({run.family for run in runs}) > 1
    held_out = {name: score_held_out(runs, name) for name in POLICIES} if enough else {}
    if chosen.json:
        print(json.dumps(_json(runs, usual, held_out)))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    what = f"{len(runs)} runs of {len({run.family for run in runs})} families"
    as_is = {name: summarize(usual[name]) for name in usual}
    console.print(_table(f"Policies as they are, {what}", as_is))
    console.print(_by_family(f"Policies as they are: {_CELLS}", runs, usual))
    matched = {
        name: at_equal_lateness(runs, name, as_is[DEFAULT].lateness) for name in POLICIES if name != DEFAULT
    }
    console.print(_matched(as_is[DEFAULT], matched))
    if held_out:
        rows = {name: summarize(scores) for name, (scores, _) in held_out.items()}
        console.print(_table(f"Threshold chosen on the other families, {what}", rows))
        scores = {name: scores for name, (scores, _) in held_out.items()}
        console.print(_by_family(f"Each family, left out: {_CELLS}", runs, scores))
    if chosen.runs:
        console.print(_each(runs, usual))
    return 0 if not chosen.check or _holds(console, runs, usual[DEFAULT], matched) else 1


def _holds(
    console: Console,
    runs: Sequence[Run],
    scores: list[Score],
    matched: Mapping[str, tuple[float, Summary] | None],
) -> bool:
    """Print what the default has to hold, one a line; whether it holds all."""
    found = summarize(scores)
    delicate = [one for run, one in zip(runs, scores, strict=True) if run.family in DELICATE]
    wrong = sum(one.wrong is not False for one in delicate)
    rivals = {name: best for name, best in matched.items() if best is not None and name not in PREDECESSORS}
    least = min((best[1].regret for best in rivals.values()), default=math.inf)
    lines = [
        (
            f"wrong switches {found.wrong_part:.1%} of {found.runs} runs (limit {WRONG_LIMIT:.0%})",
            found.wrong_part <= WRONG_LIMIT,
        ),
        (
            f"median lateness {found.lateness:.1%} of the run (limit {LATENESS_LIMIT:.0%})",
            found.lateness <= LATENESS_LIMIT,
        ),
        (
            f"wrong in {' and '.join(DELICATE)} runs: {wrong} of {len(delicate)} (limit 0)",
            bool(delicate) and wrong == 0,
        ),
        (
            f"mean regret {found.regret:.2f} δ; least of the naive policies, as early: {least:.2f} δ",
            bool(rivals) and found.regret < least,
        ),
    ]
    for text, holds in lines:
        console.print(f"{'holds' if holds else 'MISSED'}  {text}", style=None if holds else "bold red")
    return all(holds for _, holds in lines)


def _matched(default: Summary, matched: Mapping[str, tuple[float, Summary] | None]) -> Table:
    table = Table(
        title=f"At their best with a median lateness of at most {default.lateness:.1%}, as {DEFAULT}"
    )
    table.add_column("policy")
    for heading in ("setting", "wrong", "regret, mean", "worst", "lateness, median"):
        table.add_column(heading, justify="right")
    table.add_row(
        DEFAULT,
        "",
        f"{default.wrong_part:.0%}",
        f"{default.regret:.2f} δ",
        f"{default.worst:.2f} δ",
        f"{default.lateness:.1%}",
    )
    for name, best in matched.items():
        if best is None:
            table.add_row(name, "none is as early", "", "", "", "")
            continue
        setting, found = best
        table.add_row(
            name,
            f"{setting:g}",
            f"{found.wrong_part:.0%}",
            f"{found.regret:.2f} δ",
            f"{found.worst:.2f} δ",
            f"{found.lateness:.1%}",
        )
    return table


def _table(title: str, rows: dict[str, Summary]) -> Table:
    table = Table(title=title)
    table.add_column("policy")
    for heading in ("wrong", "not known", "regret, mean", "worst", "lateness, median", "no signal"):
        table.add_column(heading, justify="right")
    for name, found in rows.items():
        table.add_row(
            name,
            f"{found.wrong / found.runs:.0%}",
            str(found.unknown),
            f"{found.regret:.2f} δ",
            f"{found.worst:.2f} δ",
            f"{found.lateness:.0%}",
            str(found.never),
        )
    return table


_CELLS = "wrong of runs, median lateness"


def _by_family(title: str, runs: Sequence[Run], scores: Mapping[str, list[Score]]) -> Table:
    families = sorted({run.family for run in runs})
    table = Table(title=title)
    table.add_column("policy")
    for family in families:
        table.add_column(family, justify="right")
    for name, all_scores in scores.items():
        cells = []
        for family in families:
            mine = [one for run, one in zip(runs, all_scores, strict=True) if run.family == family]
            found = summarize(mine)
            cells.append(f"{found.wrong + found.unknown}/{found.runs}, {found.lateness:.0%}")
        table.add_row(name, *cells)
    return table


def _each(runs: Sequence[Run], scores: dict[str, list[Score]]) -> Table:
    table = Table(title="Each run: checkpoint of the signal, regret in δ; ! marks a wrong one")
    table.add_column("run", overflow="fold")
    table.add_column("safe from", justify="right")
    for name in scores:
        table.add_column(name, justify="right", overflow="fold")
    for index, run in enumerate(runs):
        cells = [_cell(scores[name][index]) for name in scores]
        table.add_row(run.name, str(run.outcomes.earliest_safe), *cells)
    return table


def _cell(one: Score) -> str:
    if one.never_signalled:
        return "never"
    mark = {True: "!", False: "", None: "?"}[one.wrong]
    return f"{one.signal}: {one.regret_in_deltas:.2f}{mark}"


def _json(
    runs: Sequence[Run],
    usual: dict[str, list[Score]],
    held_out: dict[str, tuple[list[Score], dict[str, float]]],
) -> dict[str, Any]:
    """Plain values; numbers that are not finite are None."""
    return {
        "runs": [{"name": run.name, "family": run.family} for run in runs],
        "as_is": {name: _plain(asdict(summarize(scores))) for name, scores in usual.items()},
        "held_out": {
            name: {**_plain(asdict(summarize(scores))), "thresholds": thresholds}
            for name, (scores, thresholds) in held_out.items()
        },
        "each": {name: [_plain(asdict(one)) for one in scores] for name, scores in usual.items()},
    }


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and value - value != 0 else value
        for name, value in numbers.items()
    }
