"""`trajmon hallmarks`."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from trajmon.cli.plain import array_value, has_unicode, split_errors
from trajmon.cli.session import (
    clean,
    make_console,
    open_client,
    print_json,
    run_argument,
    scope_option,
    server_option,
)
from trajmon.cli.waiting import waiting
from trajmon.plot.curves import number_with_error
from trajmon.plot.modes import NORM_ONLY

__all__ = ["hallmarks"]

# Heading of each column of the table.
_COLUMNS = {
    "mds": "MDS",
    "relative_mds": "relative MDS",
    "update_angle_degrees": "update angle (degrees)",
    "parameter_norm": "norm",
    "distance_from_initialization": "distance from start",
    "update_norm": "norm of update",
}


@click.command()
@run_argument
@scope_option
@click.option(
    "--rows", type=click.IntRange(1), default=10, show_default=True, help="Checkpoints in the table."
)
@click.option(
    "--json", "as_json", is_flag=True, help="All hallmarks as arrays over checkpoints, null where undefined."
)
@server_option
def hallmarks(run: str, scope: str, rows: int, as_json: bool, server: str | None) -> None:
    """Print the hallmarks of RUN (its name or id): the last rows as a table, or everything as JSON."""
    with open_client(server) as client, waiting(1, quiet=as_json) as begin:
        begin("hallmarks")
        arrays = client.get_hallmarks(run, scope)
    arrays, errors = split_errors(arrays)
    if as_json:
        print_json(
            {"run": run, "scope": scope}
            | {name: array_value(array) for name, array in arrays.items()}
            | {"errors": {name: array_value(array) for name, array in errors.items()}}
        )
        return
    console = make_console()
    count = arrays["checkpoint"].size
    if not count:
        console.print(f"run {clean(run)} has no checkpoints yet")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown = [name for name in _COLUMNS if name in arrays]
    for heading in ("checkpoint", "step", *(_COLUMNS[name] for name in shown)):
        table.add_column(heading, justify="right")
    has_modes = bool((arrays["mode"] == NORM_ONLY).any())
    if has_modes:
        table.add_column("training")
    for i in range(max(0, count - rows), count):
        step = str(arrays["step"][i]) if "step" in arrays else ""
        values = (
            number_with_error(_at(arrays[name], i), _at(errors.get(name), i), plain=not has_unicode(console))
            for name in shown
        )
        mode = ["norm-only" if arrays["mode"][i] == NORM_ONLY else "full"] if has_modes else []
        table.add_row(str(arrays["checkpoint"][i]), step, *values, *mode)
    console.print(table)
    if count > rows:
        console.print(
            f"the last {rows} of {count} checkpoints; --rows shows more, --json everything", style="dim"
        )


def _at(array: NDArray[Any] | None, position: int) -> float:
    return float(np.asarray(array, dtype=np.float64)[position]) if array is not None else 0.0
