"""The checks of `trajmon doctor`: each looks at one thing and says what to do about it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from trajmon._address import parse_server
from trajmon._channel import read_own_pair, trusted_roots
from trajmon._settings import TlsFiles, allows_plaintext
from trajmon.cli.behind import Behind, behind
from trajmon.cli.machine import RunFolder, inspect_run_dir, list_run_dirs
from trajmon.cli.session import find_token
from trajmon.errors import ServerAddressError
from trajmon.query import QueryClient, QueryError

__all__ = ["Check", "Level", "run_checks", "size"]

Level = Literal["ok", "warning", "problem"]
_LOW_DISK_BYTES = 5 << 30
_NO_DISK_BYTES = 200 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    name: str
    level: Level
    text: str
    fix: str = ""
    """What to do about it; empty: nothing."""


def run_checks(home: Path, server: str | None) -> Iterator[Check]:
    """All checks, in the order in which one would look. Reads only."""
    yield from _check_home(home)
    yield _check_token(home)
    yield from _check_server(home, server)
    yield from _check_runs(home)
    yield _check_disk(home)
    yield from _check_packages()


def size(count: float) -> str:
    """A number of bytes for people.

    >>> size(3 * 2**30)
    '3.0 GiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _check_home(home: Path) -> Iterator[Check]:
    if not home.exists():
        yield Check("home", "ok", f"{home} does not exist yet; the first run or server creates it")
        return
    if not home.is_dir():
        yield Check(
            "home", "problem", f"{home} is not a folder", "remove it, or set TRAJMON_HOME to another folder"
        )
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield Check(
            "home",
            "problem",
            f"{home} cannot be written by this user",
            "set TRAJMON_HOME to a folder of yours",
        )
    elif mode & 0o022:
        yield Check(
            "home", "problem", f"{home} can be written by other users (mode {mode:04o})", f"chmod 700 {home}"
        )
    elif mode & 0o055:
        yield Check(
            "home", "warning", f"{home} can be read by other users (mode {mode:04o})", f"chmod 700 {home}"
        )
    else:
        yield Check("home", "ok", f"{home} (mode {mode:04o})")


def _check_token(home: Path) -> Check:
    path = home / "token"
    try:
        token = find_token(home)
    except QueryError as error:
        return Check("token", "problem", str(error), "put the server's token there, or set TRAJMON_TOKEN")
    if os.environ.get("TRAJMON_TOKEN", "").strip():
        return Check("token", "ok", "from TRAJMON_TOKEN")
    if token is None:
        return Check("token", "warning", f"no token in {path}", "a local server creates one when it starts")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check(
            "token", "problem", f"{path} is open to other users (mode {mode:04o})", f"chmod 600 {path}"
        )
    return Check("token", "ok", f"{path} (mode {mode:04o})")


def _check_server(home: Path, server: str | None) -> Iterator[Check]:
    page = None
    if server is None:
        from trajmon.local_server import find_page, find_server

        server, page = find_server(home), find_page(home)
    if server is None:
        yield Check(
            "server",
            "warning",
            f"none runs for {home}",
            "the first watched training starts one; or `trajmon-server serve`",
        )
        return
    yield from _check_tls(server)
    try:
        with QueryClient(server, find_token(home)) as client:
            serving = client.serving()
            count = len(client.list_runs())
    except QueryError as error:
        yield Check("server", "problem", str(error), "see the text; rows wait on this machine meanwhile")
        return
    if serving:
        yield Check("server", "ok", f"{server} answers and takes the token; it has {_counted(count, 'run')}")
        if page is not None:  # of a server of this machine
            yield Check("page", "ok", f"{page} (once with ?token= and the token behind it)")
    else:
        yield Check(
            "server", "warning", f"{server} answers, but says that it is not serving", "look at its log"
        )


def _check_tls(server: str) -> Iterator[Check]:
    """What is said to the server in clear text, or which files stand for TLS. Nothing within this machine."""
    try:
        address = parse_server(server)
        if not address.tls:
            if not address.is_loopback and allows_plaintext():
                yield Check(
                    "tls",
                    "warning",
                    f"the token crosses the network to {address} in clear text (TRAJMON_ALLOW_PLAINTEXT)",
                    f"set tls.certificate and tls.key on the server, and name it as grpcs://{address.target}",
                )
            return
        files = TlsFiles.from_environment()
        trusted_roots(files)
        own = files.own_pair()
        if own is not None:
            read_own_pair(*own)
    except ServerAddressError as error:
        yield Check("tls", "problem", str(error), "name a server and PEM files that can be used")
        return
    mode = 0 if own is None else stat.S_IMODE(own[1].stat().st_mode)
    if own is not None and mode & 0o077:
        yield Check(
            "tls", "warning", f"{own[1]} is open to other users (mode {mode:04o})", f"chmod 600 {own[1]}"
        )
        return
    trusted = f"those in {files.ca}" if files.ca is not None else "those of this machine"
    shown = "no certificate" if own is None else str(own[0])
    yield Check("tls", "ok", f"trusts {trusted}; shows {shown}")


def _check_runs(home: Path) -> Iterator[Check]:
    try:
        folders = [inspect_run_dir(path) for path in list_run_dirs(home)]
        waiting = [behind(run.path) for run in folders]
    except OSError as error:
        yield Check(
            "runs", "problem", f"cannot look at {error.filename}: {error.strerror}", "see its owner and mode"
        )
        return
    if not folders:
        yield Check("runs", "ok", "none recorded on this machine yet")
    for run, backlog in zip(folders, waiting, strict=True):
        yield _check_run(run, backlog)


def _check_run(run: RunFolder, backlog: Behind) -> Check:
    name = f"run {run.path.name}"
    snapshots = f"{_counted(run.snapshots, 'snapshot')} with {size(run.snapshot_bytes)}"
    training = f"training is process {run.training_pid}" if run.training_pid else "not training"
    agent = f"agent is process {run.agent_pid}" if run.agent_pid else "no agent"
    text = f"{backlog}, {snapshots}, {training}, {agent}"
    log = f"see {run.path}/agent.log"
    if run.recording == "stopped":
        return Check(
            name, "warning", f"recording stopped: {run.reason}; {text}", "mend the cause, then resume the run"
        )
    if backlog.checkpoints and run.agent_problem:
        return Check(name, "warning", f"agent says: {run.agent_problem}; {text}", log)
    if backlog.checkpoints and not run.agent_pid:
        return Check(name, "warning", text, f"`trajmon sync {run.path.name}` sends them")
    if run.training_pid and not run.agent_pid:
        return Check(name, "warning", text, f"training restarts its agent at the next checkpoint; {log}")
    if backlog.is_late and backlog.uncomputed:
        fix = (
            "record less often, or grant the agent more (agent_threads); rows that wait are computed together"
        )
        return Check(name, "warning", f"the agent is slower than training; {text}", fix)
    if backlog.is_late:
        return Check(name, "warning", f"the server takes no rows; {text}", log)
    return Check(name, "ok", text)


def _check_disk(home: Path) -> Check:
    there = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    text = f"{size(free)} free at {there}"
    if free < _NO_DISK_BYTES:
        return Check("disk", "problem", text, "make room, or set TRAJMON_HOME to a larger disk")
    if free < _LOW_DISK_BYTES:
        return Check("disk", "warning", text, "snapshots take one copy of the parameters each; make room")
    return Check("disk", "ok", text)


def _check_packages() -> Iterator[Check]:
    for name, without in (
        ("numba", "the agent cannot compute Gram rows"),
        ("torch", "this machine can look at runs, but not record any"),
    ):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            level: Level = "problem" if name == "numba" else "warning"
            yield Check(name, level, f"not installed: {without}", f"pip install {name}")
