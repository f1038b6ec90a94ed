"""`trajmon export`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from trajmon.cli.export_formats import check_store, write_picture, write_zarr
from trajmon.cli.files import check_folder, write_csv, write_npz
from trajmon.cli.picture import estimates_words
from trajmon.cli.session import (
    CHECKPOINT,
    Problem,
    open_client,
    print_json,
    run_argument,
    scope_option,
    server_option,
)
from trajmon.cli.waiting import waiting
from trajmon.query import KERNELS, Kernel

__all__ = ["SUFFIXES", "export"]

SUFFIXES = (".npz", ".csv", ".png", ".svg", ".zarr")


def _check_suffix(_: click.Context, __: click.Parameter, value: Path) -> Path:
    if value.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{value.name!r} does not end in one of {', '.join(SUFFIXES)}")
    return value


@click.command()
@run_argument
@scope_option
@click.option(
    "--relative-to", type=CHECKPOINT, help="Checkpoint that cosines are taken about. Default: the origin."
)
@click.option("--kernel", type=click.Choice(list(KERNELS)), default="linear", show_default=True)
@click.option("--start", type=CHECKPOINT, help="First checkpoint number, inclusive.")
@click.option("--stop", type=CHECKPOINT, help="Last checkpoint number, exclusive.")
@click.option("--include-superseded", is_flag=True, help="Checkpoints that a restart replaced as well.")
@click.option(
    "--scale",
    type=click.Choice(["fixed", "fitted"]),
    default="fixed",
    help="Colours of a picture, as in show.",
)
@click.option("--low", type=float, help="Lower end of the colour scale of a picture.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    callback=_check_suffix,
    help="FILE.npz or FILE.zarr (arrays), FILE.csv (the map), FILE.png or FILE.svg (picture).",
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON.")
@server_option
def export(
    run: str,
    scope: str,
    relative_to: int | None,
    kernel: str,
    start: int | None,
    stop: int | None,
    include_superseded: bool,
    scale: str,
    low: float | None,
    out: Path,
    as_json: bool,
    server: str | None,
) -> None:
    """Write a trajectory map of RUN (its name or id) to a file.

    An .npz holds map, gram (T x T float64), step, checkpoint, mode (T; 1: norm-only training) and scope; where entries
    are estimates, also error and gram_error, their standard errors.
    """
    suffix = out.suffix.lower()
    (check_store if suffix == ".zarr" else check_folder)(out)
    with open_client(server) as client, waiting(1) as step:
        step(run)
        result = client.get_map(
            run, scope, relative_to, cast("Kernel", kernel), start, stop, include_superseded
        )
    if not result.checkpoint.size:
        raise Problem(
            f"run {run} has no checkpoints to export here: record some, or widen --start and --stop"
        )
    if suffix == ".npz":
        write_npz(out, run, result)
    elif suffix == ".zarr":
        write_zarr(out, run, result)
    elif suffix == ".csv":
        write_csv(out, result)
    else:
        # matplotlib takes longer to import than the rest takes to run.
        from trajmon.cli.picture import make_picture
        from trajmon.plot.figure import map_figure

        picture = make_picture(run, result, scale == "fitted", low)
        write_picture(out, map_figure(picture))
    if as_json:
        print_json(
            {
                "file": str(out),
                "run": run,
                "scope": scope,
                "checkpoints": len(result.checkpoint),
                "estimated_checkpoints": result.estimated_checkpoints,
            }
        )
        return
    estimates = estimates_words(result)
    click.echo(
        f"wrote {out}: {len(result.checkpoint)} checkpoints of {scope}"
        + (f"; {estimates}" if estimates else "")
    )
