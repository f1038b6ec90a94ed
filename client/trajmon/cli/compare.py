"""`trajmon compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from trajmon.cli.compare_screen import print_comparison
from trajmon.cli.files import check_folder
from trajmon.cli.picture import make_picture, mean_error_of, mean_of
from trajmon.cli.plain import array_value, number_value, split_errors
from trajmon.cli.runs import run_value
from trajmon.cli.session import (
    CHECKPOINT,
    Problem,
    clean,
    make_console,
    open_client,
    print_json,
    scope_option,
    server_option,
)
from trajmon.cli.waiting import waiting
from trajmon.plot.colors import Scale
from trajmon.plot.common_scale import common_scale
from trajmon.query import MapResult, QueryClient
from trajmon_protos.v1 import query_pb2

__all__ = ["Side", "compare"]

SUFFIXES = (".png", ".svg")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the runs that are compared."""

    summary: query_pb2.RunSummary
    map: MapResult
    hallmarks: dict[str, NDArray[Any]]
    """[T] each, along the path."""
    errors: dict[str, NDArray[Any]]
    """[T] each, the standard errors of hallmarks that rest on estimates."""

    @property
    def name(self) -> str:
        """What the reader knows it by, also if the id was given."""
        return self.summary.name

    @property
    def count(self) -> int:
        """Checkpoints along the path."""
        return int(self.hallmarks["checkpoint"].size)

    def at(self, name: str, count: int) -> tuple[float, float]:
        """A hallmark as of the `count`-th checkpoint of the path, with its standard error; NaN where undefined."""
        values, errors = self.hallmarks.get(name), self.errors.get(name)
        if values is None or not count:
            return float("nan"), 0.0
        return float(values[count - 1]), 0.0 if errors is None else float(errors[count - 1])


def _check_suffix(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{clean(value.name)!r} does not end in one of {', '.join(SUFFIXES)}")
    return value


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN [RUN]...")
@scope_option
@click.option(
    "--relative-to", type=CHECKPOINT, help="Checkpoint that cosines are taken about. Default: the origin."
)
@click.option(
    "--scale",
    type=click.Choice(["fixed", "fitted"]),
    default="fixed",
    show_default=True,
    help="Colours from the least entry of all maps to 1, or over their entries off the diagonal.",
)
@click.option("--low", type=float, help="Lower end of the colour scale.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=_check_suffix,
    help="Write FILE.png or FILE.svg as well.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="State, means and latest hallmarks of each run as JSON."
)
@server_option
def compare(
    runs: tuple[str, ...],
    scope: str,
    relative_to: int | None,
    scale: str,
    low: float | None,
    out: Path | None,
    as_json: bool,
    server: str | None,
) -> None:
    """Show several RUNs (names or ids) side by side: maps on one colour scale, and a table of hallmarks."""
    if len(runs) < 2:
        raise click.UsageError("name two runs or more; `trajmon show` shows one")
    if out is not None:
        check_folder(out)
    with open_client(server) as client, waiting(len(runs), quiet=as_json) as step:
        sides = []
        for run in runs:
            step(run)
            sides.append(_read(client, run, scope, relative_to))
    _refuse_twins(sides)
    chosen = common_scale([side.map.map for side in sides], "fitted" if scale == "fitted" else "fixed", low)
    if as_json:
        print_json(_value(sides, scope, relative_to, chosen))
    else:
        print_comparison(make_console(), sides, chosen)
    if out is not None:
        _write(out, sides, chosen)
        click.echo(f"wrote {out}", err=as_json)


def _read(client: QueryClient, run: str, scope: str, relative_to: int | None) -> Side:
    details = client.get_run(run)
    if not details.summary.checkpoints:
        raise Problem(f"run {details.summary.name} has no checkpoints yet: there is nothing to compare")
    run_id = details.summary.run_id
    result = client.get_map(run_id, scope, relative_to)
    hallmarks, errors = split_errors(client.get_hallmarks(run_id, scope))
    return Side(details.summary, result, hallmarks, errors)


def _refuse_twins(sides: list[Side]) -> None:
    seen = set()
    for side in sides:
        if side.summary.run_id in seen:
            raise Problem(f"run {side.name} is named twice; compare it with another one")
        seen.add(side.summary.run_id)


def _value(sides: list[Side], scope: str, relative_to: int | None, scale: Scale) -> dict[str, Any]:
    shortest = min(side.count for side in sides)
    return {
        "scope": scope,
        "relative_to": relative_to,
        "scale": {"low": number_value(scale.low), "high": number_value(scale.high)},
        "common_checkpoints": shortest,
        "runs": [
            {
                "run": run_value(side.summary),
                "mean": number_value(mean_of(side.map)),
                "mean_error": mean_error_of(side.map),
                "hallmarks": _at(side.hallmarks, side.count),
                "hallmarks_at_common": _at(side.hallmarks, shortest),
                "errors": _at(side.errors, side.count),
                "errors_at_common": _at(side.errors, shortest),
            }
            for side in sides
        ],
    }


def _at(arrays: dict[str, NDArray[Any]], count: int) -> dict[str, float | int | None]:
    """Each as of the `count`-th checkpoint of the path."""
    return {name: array_value(array[count - 1 : count])[0] for name, array in arrays.items() if count}


def _write(out: Path, sides: list[Side], scale: Scale) -> None:
    # matplotlib takes longer to import than the rest takes to run.
    from trajmon.cli.export_formats import write_picture
    from trajmon.plot.compare import Compared, compare_figure

    compared = [
        Compared(
            make_picture(side.name, side.map, False, None),
            {name: np.asarray(array, dtype=np.float64) for name, array in side.hallmarks.items()},
            {name: np.asarray(array, dtype=np.float64) for name, array in side.errors.items()},
        )
        for side in sides
    ]
    write_picture(out, compare_figure(compared, scale))
