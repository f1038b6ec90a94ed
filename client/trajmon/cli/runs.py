"""`trajmon runs`."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.table import Table

from trajmon.cli.plain import phase_name, state_name, summary_value
from trajmon.cli.session import clean, make_console, open_client, print_json, server_option, text
from trajmon_protos.v1 import query_pb2, types_pb2

__all__ = ["age", "mode_name", "run_value", "runs"]


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON list with everything that is known of each run."
)
@server_option
def runs(server: str | None, as_json: bool) -> None:
    """List the runs of a server, newest first."""
    with open_client(server) as client:
        found = client.list_runs()
        address = client.address
    if as_json:
        print_json([run_value(run) for run in found])
        return
    console = make_console()
    if not found:
        console.print(f"no runs on {clean(address)} yet: trajmon.watch(model, run=NAME) records one")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("checkpoints", justify="right")
    # Columns that most servers would leave empty.
    has_open = any(run.open_checkpoints for run in found)
    has_modes = any(mode_name(run.mode) != "full" for run in found)
    if has_open:
        table.add_column("open", justify="right")
    for heading in ("step", "MDS"):
        table.add_column(heading, justify="right")
    if has_modes:
        table.add_column("training")
    table.add_column("advice")
    table.add_column("last seen", justify="right")
    for run in found:
        mds = run.mean_directional_similarity
        table.add_row(
            text(run.name),
            phase_name(run.phase),
            str(run.checkpoints - run.superseded) if run.superseded <= run.checkpoints else "?",
            *([str(run.open_checkpoints) if run.open_checkpoints else ""] if has_open else []),
            str(run.last_step) if run.checkpoints else "",
            f"{mds:.4f}" if run.HasField("mean_directional_similarity") and mds == mds else "undefined",
            *([mode_name(run.mode)] if has_modes else []),
            state_name(run.advice.state),
            age(time.time() - run.last_time_unix_seconds) if run.last_time_unix_seconds > 0 else "never",
        )
    console.print(table)


def mode_name(mode: types_pb2.TrainingMode.ValueType) -> str:
    """`full` (also where it was not told) or `norm-only`; `unknown` for modes of a newer server."""
    if mode == types_pb2.TRAINING_MODE_NORM_ONLY:
        return "norm-only"
    return (
        "full" if mode in (types_pb2.TRAINING_MODE_UNSPECIFIED, types_pb2.TRAINING_MODE_FULL) else "unknown"
    )


def run_value(run: query_pb2.RunSummary) -> dict[str, Any]:
    """One run as a plain value for JSON."""
    return summary_value(run) | {"open_checkpoints": run.open_checkpoints, "mode": mode_name(run.mode)}


def age(seconds: float) -> str:
    """A span of time in its largest fitting unit.

    >>> age(5), age(200), age(90000)
    ('5 s ago', '3 min ago', '25 h ago')
    """
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // unit))} {name} ago"
    return f"{int(seconds // 86400)} days ago"
