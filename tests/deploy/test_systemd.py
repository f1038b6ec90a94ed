"""The systemd unit: what systemd says of it unrun, and its server under what can be had without systemd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from support.deployment import DEPLOY, unit
from support.web import Web

SYSTEMD = DEPLOY / "systemd"
UNIT = SYSTEMD / "trajmon-server.service"
PROGRAM = "/usr/local/lib/trajmon/bin/trajmon-server"
DENY_NEW_CODE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # Linux 6.3; an older one says no
os.umask(0o077)
os.execv(sys.executable, [sys.executable, "-m", "trajmon_server", *sys.argv[1:]])
"""


def values(key: str) -> list[str]:
    """Of a key in the unit, in order."""
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    return [value for name, equals, value in lines if equals and name == key]


def test_systemd_finds_nothing_and_the_unit_may_do_little() -> None:
    assert unit() == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ProtectSystem=strict", "ProtectSystems=strict", "ProtectSystems"),
        ("RestartSec=2s", "RestartSec=soon", "soon"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@everything", "@everything"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = UNIT.read_text()
    assert text.count(old) == 1
    broken = tmp_path / UNIT.name
    broken.write_text(text.replace(old, new))
    assert said in " ".join(unit(broken))


def test_a_unit_that_may_do_more_is_found(tmp_path: Path) -> None:
    loose = tmp_path / UNIT.name
    loose.write_text(
        "\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith("SystemCall"))
    )
    (problem,) = unit(loose)
    assert "exposure level" in problem


def test_users_and_folders_are_made_as_the_unit_needs_them(tmp_path: Path) -> None:
    for folder in ("etc", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    root = f"--root={tmp_path}"
    subprocess.run(
        ["systemd-sysusers", root, SYSTEMD / "sysusers.conf"], check=True, timeout=60, capture_output=True
    )
    users = dict(line.split(":", 1) for line in (tmp_path / "etc" / "passwd").read_text().splitlines())
    assert values("User") == ["trajmon"]
    _, uid, gid, _, home, shell = users["trajmon"].split(":")
    assert (home, shell) == (f"/var/lib/{values('StateDirectory')[0]}", "/usr/sbin/nologin")
    if os.geteuid() == 0:
        subprocess.run(
            ["systemd-tmpfiles", root, "--create", SYSTEMD / "tmpfiles.conf"],
            check=True,
            timeout=60,
            capture_output=True,
        )
        for folder in ("etc/trajmon", "etc/trajmon/tls"):
            made = (tmp_path / folder).stat()
            assert (made.st_mode & 0o777, made.st_uid, made.st_gid) == (0o750, 0, int(gid))
    assert int(uid) != 0


def test_a_server_runs_with_the_units_settings_and_without_new_code(tmp_path: Path) -> None:
    state, runtime = tmp_path / "state", tmp_path / "runtime"
    state.mkdir(mode=0o700)
    runtime.mkdir(mode=0o700)

    def here(text: str) -> str:
        return text.replace("/var/lib/trajmon", str(state)).replace("/run/trajmon", str(runtime))

    config = tmp_path / "server.toml"
    config.write_text(here((SYSTEMD / "server.toml").read_text()))
    for name in ("grpc", "http", "metrics"):
        address = tomllib.loads(config.read_text())[name]
        config.write_text(config.read_text().replace(f'"{address}"', '"127.0.0.1:0"'))
    (program, *options) = values("ExecStart")[0].split()
    assert program == PROGRAM
    options = [option.replace("/etc/trajmon/server.toml", str(config)) for option in options]
    environment = dict(pair.split("=", 1) for line in values("Environment") for pair in here(line).split())
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", DENY_NEW_CODE, *options],
            cwd=state,
            env={**environment, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        announced, deadline = runtime / "server.json", time.monotonic() + 60
        while not announced.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        token = (state / "token").read_text().strip()
        assert Web(json.loads(announced.read_text())["http"], token).get("/").status == 200
        assert not [path for path in state.rglob("*") if path.stat().st_mode & 0o077]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
