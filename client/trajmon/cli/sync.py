"""`trajmon sync`."""

from __future__ import annotations

from pathlib import Path

import click

from trajmon.cli.machine import list_run_dirs
from trajmon.cli.session import Problem, clean, home, print_json
from trajmon.cli.waiting import waiting

__all__ = ["sync"]


@click.command()
@click.argument("run", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON list: each run, and how many checkpoints still wait."
)
def sync(run: str | None, as_json: bool) -> None:
    """Hand in the checkpoints of RUN that wait on this machine; without RUN, those of every run."""
    known = list_run_dirs(home())
    # The parts of a sharded run lie in folders RUN~CUT~RANK.
    chosen = [found for found in known if run in (None, found.name, found.name.partition("~")[0])]
    if run is not None and not chosen:
        names = ", ".join(found.name for found in known[:12]) or "none"
        raise Problem(f"no run {run!r} was recorded on this machine in {home()}; there are: {names}")
    if not chosen and not as_json:
        click.echo(f"no runs were recorded on this machine in {home()}: nothing to send")
        return
    left = {}
    done = []
    with waiting(len(chosen), quiet=as_json) as step:
        for found in chosen:
            step(found.name)
            pending = _drain(found)
            done.append({"run": found.name, "waiting": pending})
            if not as_json:
                state = (
                    f"{pending} checkpoints still wait" if pending else "all checkpoints are on the server"
                )
                click.echo(f"{clean(found.name)}: {state}")
            if pending:
                left[found.name] = pending
    if as_json:
        print_json(done)
    if left:
        raise Problem(
            f"{sum(left.values())} checkpoints could not be handed in ({', '.join(left)}): `trajmon doctor` says "
            "whether the server answers; they stay on this machine until they are handed in"
        )


def _drain(path: Path) -> int:
    """Send what a run has not handed in; how many checkpoints the server still lacks. Raises Problem."""
    from trajmon.agent.sync import sync as drain
    from trajmon.errors import TrajmonError

    try:
        return drain(path)
    except TrajmonError as error:
        raise Problem(str(error)) from error
    except OSError as error:
        raise Problem(
            f"cannot work on {error.filename or path}: {error.strerror}; see `trajmon doctor`"
        ) from error
