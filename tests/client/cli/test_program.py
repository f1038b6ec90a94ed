"""`trajmon` itself: help, version, exit codes, which server is asked, how errors are stated."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import Result

from trajmon.cli import COMMANDS

Trajmon = Callable[..., Result]
COMMANDS_THAT_ASK = [
    ["runs"],
    ["show", "resnet20"],
    ["compare", "resnet20", "five"],
    ["hallmarks", "resnet20"],
    ["export", "resnet20", "--out", "x.npz"],
]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_version(trajmon: Trajmon) -> None:
    assert trajmon("--version").output == f"trajmon, version {version('trajmon')}\n"


def test_help_names_every_command_with_its_summary(trajmon: Trajmon) -> None:
    result = trajmon("--help")
    assert result.exit_code == 0
    for name in ("runs", "show", "compare", "hallmarks", "export", "ingest", "watch", "sync", "doctor"):
        assert f"{name} " in result.output
        assert COMMANDS[name].summary in result.output


@pytest.mark.parametrize(
    "name", ["runs", "show", "compare", "hallmarks", "export", "ingest", "watch", "sync", "doctor"]
)
def test_every_command_has_help(trajmon: Trajmon, name: str) -> None:
    result = trajmon(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


def test_unknown_command_is_a_usage_error(trajmon: Trajmon) -> None:
    result = trajmon("rnus")
    assert result.exit_code == 2
    assert "No such command 'rnus'" in result.stderr


def test_help_imports_neither_grpc_nor_matplotlib_nor_torch() -> None:
    code = (
        "import sys\nfrom trajmon.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('grpc', 'matplotlib', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_real_program_with_the_right_token(served: object, home: Path) -> None:
    program = Path(sys.executable).parent / "trajmon"
    address = served.address  # type: ignore[attr-defined] # Served, of conftest.py
    environment = dict(os.environ, TRAJMON_HOME=str(home), TRAJMON_SERVER=address)
    done = subprocess.run(
        [str(program), "runs", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {run["name"] for run in json.loads(done.stdout)} >= {"resnet20", "long"}


@pytest.mark.parametrize("arguments", COMMANDS_THAT_ASK)
def test_server_down(
    trajmon: Trajmon, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"127.0.0.1:{unused_port()}"
    result = trajmon(*arguments, "--server", address)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        f"Error: no server answers at {address}: start one with `trajmon-server serve`, or name another with "
        "--server or TRAJMON_SERVER ("
    )
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.glob("*.npz")) == []


@pytest.mark.parametrize("arguments", COMMANDS_THAT_ASK)
def test_wrong_token(
    trajmon: Trajmon, served: object, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAJMON_TOKEN", "wrong")
    result = trajmon(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: server at {served.address} refused the token: token is not valid; set TRAJMON_TOKEN, or point "  # type: ignore[attr-defined] # Served, of conftest.py
        "TRAJMON_HOME at the folder whose `token` file the server reads\n"
    )
    assert list(tmp_path.glob("*.npz")) == []


def test_no_token_at_all(trajmon: Trajmon, home: Path) -> None:
    (home / "token").unlink()
    result = trajmon("runs")
    assert result.exit_code == 1
    assert "refused the token: token is not valid; set TRAJMON_TOKEN" in result.stderr


def test_token_file_that_cannot_be_read(trajmon: Trajmon, home: Path) -> None:
    (home / "token").unlink()
    (home / "token").mkdir()
    result = trajmon("runs")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: cannot read the token file {home}/token: Is a directory; see its owner and mode\n"
    )


def test_token_that_cannot_be_sent(trajmon: Trajmon) -> None:
    result = trajmon("runs", env={"TRAJMON_TOKEN": "two\nlines"})
    assert result.exit_code == 1
    assert (
        result.stderr == "Error: TRAJMON_TOKEN does not hold a token: it has characters that no token has\n"
    )


@pytest.mark.parametrize(
    "address", ["nonsense", "host:", ":50051", "host:99999", "http://host:80", "host:5x"]
)
def test_bad_server_address(trajmon: Trajmon, address: str) -> None:
    result = trajmon("runs", "--server", address)
    assert result.exit_code == 2
    assert f"'{address}' is not HOST:PORT, for example 127.0.0.1:50051" in result.stderr


@pytest.mark.parametrize("arguments", COMMANDS_THAT_ASK[1:])
def test_unknown_run(
    trajmon: Trajmon, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = trajmon(arguments[0], "resnet21", *arguments[2:])
    assert result.exit_code == 1
    assert result.stderr == "Error: no run named 'resnet21'; `trajmon runs` lists what there is\n"
    assert list(tmp_path.glob("*.npz")) == []


@pytest.mark.parametrize("arguments", COMMANDS_THAT_ASK[1:])
def test_unknown_scope(
    trajmon: Trajmon, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = trajmon(*arguments, "--scope", "group:nrom")
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no scope 'group:nrom'; there are: network, group:norm\n"
