"""`trajmon sync`."""

from __future__ import annotations

import click

from trajmon.cli.machine import list_run_dirs
from trajmon.cli.session import Problem, clean, home

__all__ = ["sync"]


@click.command()
@click.argument("run", required=False)
def sync(run: str | None) -> None:
    """Hand in the checkpoints of RUN that wait on this machine; without RUN, those of every run."""
    known = list_run_dirs(home())
    # The parts of a sharded run lie in folders RUN~CUT~RANK.
    chosen = [found for found in known if run in (None, found.name, found.name.partition("~")[0])]
    if run is not None and not chosen:
        names = ", ".join(found.name for found in known[:12]) or "none"
        raise Problem(f"no run {run!r} was recorded on this machine in {home()}; there are: {names}")
    if not chosen:
        click.echo(f"no runs were recorded on this machine in {home()}: nothing to send")
        return
    from trajmon.agent.sync import sync as drain
    from trajmon.errors import TrajmonError

    left = {}
    for found in chosen:
        try:
            waiting = drain(found)
        except TrajmonError as error:
            raise Problem(str(error)) from error
        except OSError as error:
            raise Problem(
                f"cannot work on {error.filename or found}: {error.strerror}; see `trajmon doctor`"
            ) from error
        state = f"{waiting} checkpoints still wait" if waiting else "all checkpoints are on the server"
        click.echo(f"{clean(found.name)}: {state}")
        if waiting:
            left[found.name] = waiting
    if left:
        raise Problem(
            f"{sum(left.values())} checkpoints could not be handed in ({', '.join(left)}): `trajmon doctor` says "
            "whether the server answers; they stay on this machine until they are handed in"
        )
