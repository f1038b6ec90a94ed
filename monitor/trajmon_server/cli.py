"""`trajmon-server`: serve runs, say whether a server is ready, replay a recorded Gram."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import click

from trajmon_server.config import load_settings, parse_address
from trajmon_server.errors import ConfigError
from trajmon_server.health import why_not_ready
from trajmon_server.replay_command import replay_command

__all__ = ["main"]


def home() -> Path:
    """`TRAJMON_HOME`, by default ~/.trajmon."""
    return Path(os.environ.get("TRAJMON_HOME") or Path.home() / ".trajmon")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("trajmon"), prog_name="trajmon-server")
def main() -> None:
    """Keep trajectory maps of trainings, export their hallmarks, advise."""


@main.command("serve")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Journal and maps; default: TRAJMON_HOME/data."
)
@click.option(
    "--grpc", metavar="HOST:PORT", help="Where agents and readers connect; default: 127.0.0.1:50051."
)
@click.option(
    "--http", metavar="HOST:PORT", help="The page, its API and health over HTTP; default: 127.0.0.1:8080."
)
@click.option("--metrics", metavar="HOST:PORT", help="Prometheus metrics; default: 127.0.0.1:9108.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="Default: TRAJMON_HOME/token, created if absent."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]))
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def serve_command(config: Path | None, **options: Any) -> None:
    """Take rows, keep maps, export hallmarks, answer queries."""
    # Here, not above: `health` is asked often, and has no use for what they load.
    from trajmon_server.app import serve
    from trajmon_server.logs import configure_logs

    overrides = {name: value for name, value in options.items() if value is not None}
    try:
        settings = load_settings(config, overrides, home())
        configure_logs(settings.log_format, settings.log_level)
        asyncio.run(serve(settings))
    except ConfigError as error:
        _fail(str(error))


@main.command("health")
@click.option("--http", metavar="HOST:PORT", help="Where the server answers; default: as in `serve`.")
@click.option("--config", type=click.Path(path_type=Path), help="The server's TOML file.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=3.0, help="Seconds to wait; default: 3."
)
def health_command(http: str | None, config: Path | None, timeout: float) -> None:
    """Say whether the server on this machine takes rows. Exit code 0 if it does, else 1."""
    try:
        settings = load_settings(config, {} if http is None else {"http": http}, home())
        why = why_not_ready(parse_address(settings.http), settings.tls, timeout)
    except ConfigError as error:
        _fail(str(error))
    if why:
        _fail(f"not ready: {why}")
    click.echo("ready")


main.add_command(replay_command)


def _fail(text: str) -> NoReturn:
    click.echo(f"trajmon-server: {text}", err=True)
    raise SystemExit(1)
