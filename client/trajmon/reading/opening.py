"""`trajmon.open_run`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from trajmon._address import parse_server
from trajmon._settings import home_directory
from trajmon.errors import ServerAddressError
from trajmon.reading.errors import MissingPackageError, ReadingError

if TYPE_CHECKING:
    from trajmon.reading.base import Source
    from trajmon.reading.view import RunView

__all__ = ["open_run"]


def open_run(
    run: str,
    *,
    server: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
) -> RunView:
    """Open a run, by its name or id, for reading: maps and hallmarks as xarray objects.

    `server` is ``HOST:PORT``, or ``grpcs://HOST:PORT`` over TLS; with `data_dir` the run is read straight from the
    files of a server's data directory, whether or not the server runs. With neither: TRAJMON_SERVER, else the local
    server of `home` (default: TRAJMON_HOME, else ``~/.trajmon``), which is started if need be. The token is
    TRAJMON_TOKEN, else that of `home`.

    Raises QueryError (a server's word) or ReadingError (xarray is missing, no such run, files that cannot be read).
    Needs the extra ``trajmon[reading]``.
    """
    _require_packages(("xarray",) if data_dir is None else ("xarray", "zarr"))
    # Not at the top: a training process that only imports trajmon is spared xarray, and gRPC.
    from trajmon.reading.view import RunView

    if not run:
        raise ReadingError("run is empty; give the name or id of a run")
    if data_dir is not None:
        if server is not None:
            raise ReadingError("server and data_dir were both given; a run is read from one of them")
        from trajmon.reading.stored import StoreSource

        return RunView(StoreSource(Path(data_dir).expanduser().absolute(), run))
    folder = home_directory(home)
    return RunView(_served(server or os.environ.get("TRAJMON_SERVER") or _local_server(folder), folder, run))


def _require_packages(names: tuple[str, ...]) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"reading runs from Python needs {' and '.join(missing)}: pip install 'trajmon[reading]'"
        )


def _served(address: str, folder: Path, run: str) -> Source:
    from trajmon.cli.session import find_token
    from trajmon.reading.served import ServerSource

    try:
        parse_server(address)
    except ServerAddressError as error:
        raise ReadingError(f"server={error}") from error
    return ServerSource(address, find_token(folder), run)


def _local_server(folder: Path) -> str:
    from trajmon.local_server import ensure_local_server

    try:
        address = ensure_local_server(folder)
    except OSError as error:
        raise ReadingError(f"cannot start a local server in {folder}: {error.strerror or error}") from error
    if address is None:
        raise ReadingError(
            f"no server runs for {folder}, and none could be started: install `trajmon[server]` (if it is, "
            f"{folder}/server.log says more), name one with server=..., or read files with data_dir=..."
        )
    return address
