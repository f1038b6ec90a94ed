"""`trajmon show`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from trajmon.cli.files import check_folder, write_figure
from trajmon.cli.picture import make_picture, mean_error_of, mean_of
from trajmon.cli.plain import array_value, number_value, split_errors
from trajmon.cli.runs import run_value
from trajmon.cli.screen import print_header, print_map_and_curves
from trajmon.cli.session import (
    CHECKPOINT,
    Problem,
    make_console,
    open_client,
    print_json,
    run_argument,
    scope_option,
    server_option,
)
from trajmon.cli.waiting import waiting
from trajmon.plot.colors import choose_scale
from trajmon.plot.modes import NORM_ONLY, switch_positions
from trajmon.query import MapResult
from trajmon_protos.v1 import ingest_pb2, query_pb2

__all__ = ["show", "show_run"]


def _check_png(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() != ".png":
        raise click.BadParameter(f"{value.name!r} does not end in .png; `trajmon export` writes other files")
    return value


@click.command()
@run_argument
@scope_option
@click.option(
    "--relative-to",
    type=CHECKPOINT,
    help="Checkpoint that the map's cosines are taken about. Default: the origin.",
)
@click.option(
    "--scale",
    type=click.Choice(["fixed", "fitted"]),
    default="fixed",
    show_default=True,
    help="Colours from the map's least entry to 1, or over the entries off the diagonal.",
)
@click.option("--low", type=float, help="Lower end of the colour scale; equal ends make maps comparable.")
@click.option("--out", type=click.Path(path_type=Path), callback=_check_png, help="Write FILE.png as well.")
@click.option("--json", "as_json", is_flag=True, help="State, advice, findings and latest hallmarks as JSON.")
@server_option
def show(
    run: str,
    scope: str,
    relative_to: int | None,
    scale: str,
    low: float | None,
    out: Path | None,
    as_json: bool,
    server: str | None,
) -> None:
    """Show RUN (its name or id): its state and advice, its trajectory map, its hallmarks as curves."""
    if out is not None:
        check_folder(out)
    with open_client(server) as client, waiting(3, quiet=as_json) as step:
        step("run")
        details = client.get_run(run)
        # The name is what the reader knows, also if the id was given.
        name = details.summary.name or run
        empty = not details.summary.checkpoints
        if empty:
            result, hallmarks = None, {}
        else:
            step("map")
            result = client.get_map(run, scope, relative_to)
            step("hallmarks")
            hallmarks = client.get_hallmarks(run, scope)
    if as_json:
        print_json(_value(details, result, scope, hallmarks))
    else:
        console = make_console()
        print_header(console, details)
        if result is None:
            console.print("no checkpoints yet")
        else:
            show_run(console, result, hallmarks, fitted=scale == "fitted", low=low)
    if out is not None:
        if result is None:
            raise Problem(f"run {name} has no checkpoints yet: nothing was written to {out}")
        with waiting(1, quiet=as_json) as step:
            step(f"drawing {out.name}")
            from trajmon.plot.figure import overview_figure

            floats = {key: np.asarray(array, dtype=np.float64) for key, array in hallmarks.items()}
            picture = make_picture(name, result, scale == "fitted", low)
            write_figure(out, overview_figure(picture, floats))
        click.echo(f"wrote {out}", err=as_json)


def show_run(
    console: Console,
    result: MapResult,
    hallmarks: Mapping[str, NDArray[Any]],
    fitted: bool = False,
    low: float | None = None,
) -> None:
    """Print one map and the curves of its run on a console."""
    scale = choose_scale(result.map, "fitted" if fitted else "fixed", low)
    print_map_and_curves(console, result, hallmarks, scale)


def _value(
    details: query_pb2.GetRunResponse,
    result: MapResult | None,
    scope: str,
    hallmarks: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    values, errors = split_errors(hallmarks)
    latest, latest_errors = (
        {name: array_value(array[-1:])[0] for name, array in arrays.items() if array.size}
        for arrays in (values, errors)
    )
    return {
        "run": run_value(details.summary),
        "scope": scope,
        "relative_to": result.relative_to if result else None,
        "mean": number_value(mean_of(result)) if result else None,
        "mean_error": mean_error_of(result) if result else None,
        "estimated_checkpoints": result.estimated_checkpoints if result else 0,
        "hallmarks": latest,
        "errors": latest_errors,
        "modes": _modes(hallmarks),
        "open": [
            {
                "checkpoint": known.checkpoint,
                "attempt": known.attempt,
                "num_parts": known.num_parts,
                "missing_parts": list(known.missing_parts),
            }
            for known in details.open
        ],
        "agent": _agent(details.agent) if details.HasField("agent") else None,
        "plan": _plan(details),
        "outlooks": [
            {
                "group": one.group,
                "remaining": number_value(one.remaining),
                "low": number_value(one.low),
                "high": number_value(one.high),
                "settled_since": one.settled_since if one.HasField("settled_since") else None,
            }
            for one in details.outlooks
        ],
        "findings": [
            {"kind": finding.kind, "checkpoint": finding.checkpoint, "text": finding.text}
            for finding in details.findings
        ],
    }


def _plan(details: query_pb2.GetRunResponse) -> dict[str, Any] | None:
    """What the newest checkpoint says of it."""
    if not details.checkpoints or not details.checkpoints[-1].info.HasField("plan"):
        return None
    plan = details.checkpoints[-1].info.plan
    return {
        "steps_ahead": plan.steps_ahead if plan.HasField("steps_ahead") else None,
        "rates_are_known": plan.HasField("rate_sum_ahead"),
        "objective": plan.objective,
        "larger_is_better": plan.larger_is_better,
        "objective_tolerance": plan.objective_tolerance if plan.HasField("objective_tolerance") else None,
    }


def _modes(hallmarks: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """What was trained from which checkpoint on."""
    mode = hallmarks.get("mode")
    if mode is None or not mode.size:
        return []
    return [
        {
            "from_checkpoint": int(hallmarks["checkpoint"][position]),
            "mode": "norm-only" if mode[position] == NORM_ONLY else "full",
        }
        for position in (0, *switch_positions(mode))
    ]


def _agent(agent: ingest_pb2.ReportStatusRequest) -> dict[str, Any]:
    return {
        "checkpoints_recorded": agent.checkpoints_recorded,
        "checkpoints_skipped": agent.checkpoints_skipped,
        "checkpoints_pending": agent.checkpoints_pending,
        "checkpoints_uncomputed": agent.checkpoints_uncomputed,
        "lag_seconds": number_value(agent.lag_seconds),
    }
