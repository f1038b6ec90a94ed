"""The `trajmon` program. A command is one line in the table below and one module beside this one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import click

__all__ = ["COMMANDS", "Entry", "main"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives. Its module is imported when it is called: `trajmon --help` stays quick."""

    module: str
    """Holds a click command of the entry's name."""
    summary: str
    """For `trajmon --help`."""


COMMANDS: dict[str, Entry] = {
    "demo": Entry("trajmon.cli.demo", "Train a small network under watch and show what comes of it."),
    "runs": Entry("trajmon.cli.runs", "List the runs of a server."),
    "show": Entry("trajmon.cli.show", "Show a run's trajectory map and curves, here or as a PNG."),
    "compare": Entry("trajmon.cli.compare", "Show several runs side by side, here or as a picture."),
    "cross": Entry("trajmon.cli.cross", "Compare the checkpoints of two runs with each other."),
    "hallmarks": Entry("trajmon.cli.hallmarks", "Print a run's hallmarks over its checkpoints."),
    "export": Entry("trajmon.cli.export", "Write a run's trajectory map to a file."),
    "watch": Entry("trajmon.cli.watch", "Follow a folder that another trainer fills with checkpoints."),
    "ingest": Entry("trajmon.cli.ingest", "Make a run of checkpoints that already exist."),
    "sync": Entry("trajmon.cli.sync", "Send what waits on this machine to the server."),
    "doctor": Entry("trajmon.cli.doctor", "Check this machine's set-up and say what to do."),
}


class _Program(click.Group):
    """Finds its commands in :data:`COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in COMMANDS.items() if find_spec(entry.module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name].module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])


@click.command(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("trajmon"), prog_name="trajmon")
def main() -> None:
    """Watch the direction of neural-network training.

    Without --server and TRAJMON_SERVER, commands ask the local server of TRAJMON_HOME (default ~/.trajmon)
    and start it if need be.
    """
