"""`trajmon runs`."""

from __future__ import annotations

import math
import time
from typing import Any

import click
from rich.table import Table

from trajmon.cli.plain import has_unicode, phase_name, state_name, summary_value
from trajmon.cli.session import clean, make_console, open_client, print_json, server_option, text
from trajmon.cli.waiting import waiting
from trajmon.plot.curves import number_with_error
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

__all__ = ["age", "mode_name", "run_value", "runs", "snapshot_mode_name"]


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON list with everything that is known of each run."
)
@server_option
def runs(server: str | None, as_json: bool) -> None:
    """List the runs of a server, newest first."""
    with open_client(server) as client, waiting(1, quiet=as_json) as step:
        step("runs")
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
        table.add_row(
            text(run.name),
            phase_name(run.phase),
            str(run.checkpoints - run.superseded) if run.superseded <= run.checkpoints else "?",
            *([str(run.open_checkpoints) if run.open_checkpoints else ""] if has_open else []),
            str(run.last_step) if run.checkpoints else "",
            _mds(run, plain=not has_unicode(console)),
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
    return summary_value(run) | {
        "open_checkpoints": run.open_checkpoints,
        "early_checkpoints": run.early_checkpoints,
        "mode": mode_name(run.mode),
        "snapshot_mode": snapshot_mode_name(run.snapshot_mode),
        "sketch": {"version": run.sketch.version, "seed": run.sketch.seed, "bins": run.sketch.bins}
        if run.HasField("sketch")
        else None,
    }


def snapshot_mode_name(mode: ingest_pb2.SnapshotMode.ValueType) -> str:
    """`exact` (also where it was not told), `anchored` or `sketch`; `unknown` for modes of a newer server."""
    if mode == ingest_pb2.SNAPSHOT_MODE_UNSPECIFIED:
        return "exact"
    if mode not in ingest_pb2.SnapshotMode.values():
        return "unknown"
    return ingest_pb2.SnapshotMode.Name(mode).removeprefix("SNAPSHOT_MODE_").lower()


def _mds(run: query_pb2.RunSummary, plain: bool) -> str:
    mds, error = run.mean_directional_similarity, run.mean_directional_similarity_error
    if not run.HasField("mean_directional_similarity") or math.isnan(mds):
        return "undefined"
    return number_with_error(mds, error, plain) if error > 0 else f"{mds:.4f}"


def age(seconds: float) -> str:
    """A span of time in its largest fitting unit.

    >>> age(5), age(200), age(90000)
    ('5 s ago', '3 min ago', '25 h ago')
    """
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // unit))} {name} ago"
    return f"{int(seconds // 86400)} days ago"
