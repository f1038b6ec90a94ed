"""`trajmon cross`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from trajmon.cli.cross_files import write_cross_csv, write_cross_npz
from trajmon.cli.cross_screen import print_cross
from trajmon.cli.cross_value import cross_value
from trajmon.cli.files import check_folder
from trajmon.cli.session import (
    Problem,
    clean,
    home,
    make_console,
    open_client,
    print_json,
    run_argument,
    scope_option,
    server_option,
)
from trajmon.cli.waiting import waiting
from trajmon.cross.result import CrossResult
from trajmon.errors import TrajmonError

__all__ = ["SUFFIXES", "cross"]

SUFFIXES = (".npz", ".csv", ".png", ".svg")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs."""

    name: str
    """What the reader knows it by, also if the id was given."""
    on_path: int
    """Checkpoints along its path."""
    shown: int
    """Of those, in the map."""
    why: str
    """Why there are more than are in the map."""

    @property
    def note(self) -> str:
        """What of the run is not in the map; empty if all of it is."""
        if self.shown >= self.on_path:
            return ""
        return f"{self.shown} of {self.on_path} checkpoints of {self.name} are in the map: {self.why}"


def _check_suffix(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{clean(value.name)!r} does not end in one of {', '.join(SUFFIXES)}")
    return value


@click.command()
@run_argument
@click.argument("other")
@scope_option
@click.option(
    "--from-initialization",
    is_flag=True,
    help="Take each run's initialization off first: do they move in the same direction?",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Compare the snapshots of both on this machine, rather than sketches on a server.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=_check_suffix,
    help="Write FILE.npz (arrays), FILE.csv (the map), FILE.png or FILE.svg (picture) as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything but the map itself as JSON.")
@server_option
def cross(
    run: str,
    other: str,
    scope: str,
    from_initialization: bool,
    exact: bool,
    out: Path | None,
    as_json: bool,
    server: str | None,
) -> None:
    """Compare each checkpoint of RUN with each of OTHER (names or ids): cosines, distances, the nearest ones.

    Both need sketches of one specification, and the same layers. Estimates have their standard error after ±.
    """
    if out is not None:
        check_folder(out)
    if exact:
        result, sides = _by_snapshots(run, other, scope, from_initialization, quiet=as_json)
    else:
        result, sides = _by_sketches(run, other, scope, from_initialization, server, quiet=as_json)
    if not result.map.size:
        empty = next(side.name for side in sides if not side.shown)
        raise Problem(f"run {empty} has no checkpoints that can be compared yet")
    notes = [side.note for side in sides if side.note]
    if as_json:
        totals = sides[0].on_path, sides[1].on_path
        print_json(cross_value(result, exact, totals, notes))
    else:
        print_cross(make_console(), result, exact, notes)
    if out is not None:
        _write(out, result)
        click.echo(f"wrote {out}", err=as_json)


def _by_sketches(
    run: str, other: str, scope: str, from_initialization: bool, server: str | None, *, quiet: bool
) -> tuple[CrossResult, list[Side]]:
    with open_client(server) as client, waiting(1, quiet=quiet) as step:
        step("comparing")
        summaries = [client.get_run(name).summary for name in (run, other)]
        # By id: a name may pass to another run in between.
        ids = [summary.run_id for summary in summaries]
        result = client.get_cross_map(ids[0], ids[1], scope, from_initialization=from_initialization)
    result = result.named(summaries[0].name, summaries[1].name)
    why = "those without a sketch are left out, and evenly spaced ones where there are more than an answer holds"
    counts = result.map.shape
    sides = [
        Side(clean(summary.name), summary.checkpoints - summary.superseded, count, why)
        for summary, count in zip(summaries, counts, strict=True)
    ]
    return result, sides


def _by_snapshots(
    run: str, other: str, scope: str, from_initialization: bool, *, quiet: bool
) -> tuple[CrossResult, list[Side]]:
    # The compiled loops take longer to load than most commands to run.
    from trajmon.cross.exact import exact_map

    with waiting(1, quiet=quiet) as step:
        step("comparing")
        try:
            known = exact_map(home(), run, other, scope, from_initialization)
        except TrajmonError as error:
            raise Problem(str(error)) from error
        except OSError as error:
            raise Problem(f"cannot read {error.filename or home()}: {error.strerror or error}") from error
    sides = []
    for side in (known.run, known.other):
        reasons = {
            "were not kept": side.not_kept,
            "cannot be read": side.unreadable,
            "are left out evenly, as too many for one map": side.left_out,
        }
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        sides.append(Side(clean(side.name), side.on_path, len(side.snapshots), why))
    return known.result, sides


def _write(out: Path, result: CrossResult) -> None:
    if out.suffix.lower() == ".npz":
        write_cross_npz(out, result)
    elif out.suffix.lower() == ".csv":
        write_cross_csv(out, result)
    else:
        # matplotlib takes longer to import than the rest takes to run.
        from trajmon.cli.export_formats import write_picture
        from trajmon.plot.cross import cross_figure

        write_picture(out, cross_figure(result))
