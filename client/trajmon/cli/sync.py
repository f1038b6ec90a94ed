"""`trajmon sync`."""

from __future__ import annotations

import click

from trajmon.cli.machine import list_run_dirs
from trajmon.cli.session import Problem, clean, home

__all__ = ["sync"]


@click.command()
@click.argument("run", required=False)
def sync(run: str | None) -> None:
    """Send the rows of RUN that wait on this machine to the server; without RUN, those of every run."""
    known = list_run_dirs(home())
    chosen = [found for found in known if run in (None, found.name)]
    if run is not None and not chosen:
        names = ", ".join(found.name for found in known[:12]) or "none"
        raise Problem(f"no run {run!r} was recorded on this machine in {home()}; there are: {names}")
    if not chosen:
        click.echo(f"no runs were recorded on this machine in {home()}: nothing to send")
        return
    from trajmon.agent.sync import sync as drain

    left = {}
    for found in chosen:
        rows = drain(found)
        click.echo(
            f"{clean(found.name)}: "
            + ("all rows are on the server" if not rows else f"{rows} rows still wait")
        )
        if rows:
            left[found.name] = rows
    if left:
        raise Problem(
            f"{sum(left.values())} rows could not be sent ({', '.join(left)}): `trajmon doctor` says whether "
            "the server answers; the rows stay here until they are sent"
        )
