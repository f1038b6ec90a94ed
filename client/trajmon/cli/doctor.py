"""`trajmon doctor`."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version

import click
from rich.text import Text

from trajmon.cli.checks import Check, run_checks
from trajmon.cli.session import clean, home, make_console, print_json, server_option
from trajmon.cli.waiting import waiting

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@server_option
def doctor(server: str | None, as_json: bool) -> None:
    """Check this machine's set-up. Starts and changes nothing. Exit code 1 if there is a problem."""
    program = f"trajmon {version('trajmon')}, Python {platform.python_version()}"
    with waiting(1, quiet=as_json) as step:
        step("checking")
        checks = [Check("version", "ok", program), *run_checks(home(), server)]
    if as_json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        console = make_console()
        width = max(len(clean(check.name)) for check in checks)
        for check in checks:
            line = Text.assemble(
                (check.level.ljust(8), _STYLES[check.level]),
                clean(check.name).ljust(width),
                "  ",
                clean(check.text),
            )
            console.print(line, soft_wrap=True)
            if check.fix:
                console.print(Text(" " * (10 + width) + "-> " + clean(check.fix)), soft_wrap=True)
    if any(check.level == "problem" for check in checks):
        raise SystemExit(1)
