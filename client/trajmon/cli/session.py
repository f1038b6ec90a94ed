"""What every command needs: the home folder, a server to ask, a console to print on, errors in one line."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from trajmon._address import parse_server
from trajmon._settings import home_directory
from trajmon.errors import ServerAddressError
from trajmon.query import NotAuthorisedError, QueryClient, QueryError

__all__ = [
    "CHECKPOINT",
    "Problem",
    "clean",
    "family_option",
    "find_token",
    "home",
    "make_console",
    "open_client",
    "print_json",
    "run_argument",
    "scope_option",
    "server_option",
    "text",
]

_F = TypeVar("_F", bound=Callable[..., Any])


class _CheckpointNumber(click.ParamType[int]):
    """A number that fits the wire; click's own range would print its upper end in every help text."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = -1
        if not 0 <= number < 2**63:
            self.fail(
                f"{clean(str(value))!r} is not the number of a checkpoint; they count from 0", param, ctx
            )
        return number


CHECKPOINT = _CheckpointNumber()


class Problem(click.ClickException):
    """Ends the program with exit code 1 and one line on stderr."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message, 1000))


def clean(data: str, limit: int = 200) -> str:
    """A text from outside as one printable line: control and formatting characters become spaces.

    >>> clean("resnet\\x1b[31m\\nnext")
    'resnet [31m next'
    """
    line = "".join(
        " " if unicodedata.category(sign)[0] == "C" or sign in "\u2028\u2029" else sign for sign in data
    )
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def text(data: str, style: str = "") -> Text:
    """A text from outside for rich: no markup is read in it."""
    return Text(clean(data), style=style)


def home() -> Path:
    """``TRAJMON_HOME``, else ``~/.trajmon``."""
    return home_directory()


def make_console() -> Console:
    """A console on stdout. Colour as the terminal and NO_COLOR say; 100 columns without a terminal."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that lacks a sign shows another one, rather than nothing at all.
            stream.reconfigure(errors="replace")
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    return Console(highlight=False, markup=False, emoji=False, width=width)


def find_token(folder: Path) -> str | None:
    """``TRAJMON_TOKEN``, else the content of ``folder/token``, else None.

    Raises NotAuthorisedError for a token file that cannot be read, and for a token that cannot be sent.
    """
    source, token = "TRAJMON_TOKEN", os.environ.get("TRAJMON_TOKEN", "").strip()
    if not token:
        path = folder / "token"
        source = str(path)
        try:
            token = path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NotAuthorisedError(
                f"cannot read the token file {path}: {error.strerror}; see its owner and mode"
            ) from error
    if token and not (token.isascii() and token.isprintable()):
        raise NotAuthorisedError(f"{source} does not hold a token: it has characters that no token has")
    return token or None


@contextmanager
def open_client(server: str | None) -> Iterator[QueryClient]:
    """A client of the chosen server; QueryErrors leave as :class:`Problem`."""
    try:
        with QueryClient(_choose(server), find_token(home())) as client:
            yield client
    except QueryError as error:
        raise Problem(str(error)) from error


def _choose(server: str | None) -> str:
    """`server` (--server, TRAJMON_SERVER), else the local server, started if need be."""
    if server:
        return server
    from trajmon.local_server import ensure_local_server

    try:
        address = ensure_local_server(home())
    except OSError as error:
        raise Problem(
            f"cannot start a local server in {home()}: {error.strerror or error}; set TRAJMON_HOME"
        ) from error
    if address is None:
        raise Problem(
            f"no server runs for {home()}, and none could be started: install `trajmon[server]` here (if it is, "
            f"{home()}/server.log says more), or name a server with --server or TRAJMON_SERVER"
        )
    return address


def _check_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """HOST:PORT or grpcs://HOST:PORT and nothing else, so that a typing error is not a name look-up."""
    if value is None:
        return None
    try:
        parse_server(value)
    except ServerAddressError as error:
        raise click.BadParameter(clean(str(error))) from error
    return value


def family_option(function: _F) -> _F:
    """The architecture of checkpoints that have no model with them."""
    option = click.option(
        "--family",
        default="auto",
        show_default=True,
        metavar="auto|none|NAME",
        help="Architecture whose Q, K and V become layers; auto: as the config.json beside the first checkpoint says.",
    )
    return option(function)


def server_option(command: _F) -> _F:
    """``--server ADDR``, or TRAJMON_SERVER."""
    return click.option(
        "--server",
        metavar="[grpcs://]HOST:PORT",
        envvar="TRAJMON_SERVER",
        callback=_check_address,
        help="Server to ask; grpcs:// is TLS. Default: TRAJMON_SERVER, else the local server.",
    )(command)


def scope_option(command: _F) -> _F:
    """``--scope S``."""
    return click.option(
        "--scope", default="network", show_default=True, help="network, group:NAME or layer:NAME."
    )(command)


def run_argument(command: _F) -> _F:
    """``RUN``."""
    return click.argument("run")(command)


def print_json(value: object) -> None:
    """One JSON document on stdout; NaN must have become None before."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
