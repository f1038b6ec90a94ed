"""`trajmon doctor` and `trajmon sync` on real folders with real modes and locks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from trajmon._files import lock_holder
from trajmon.cli.machine import inspect_run_dir
from trajmon.rundir import AgentNote, RecorderNote, RunDir

Trajmon = Callable[..., Result]
HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def checks(result: Result) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.output)}


def make_run(home: Path, name: str, rows: int = 0, snapshots: int = 0) -> Path:
    path = home / "client" / name
    for folder in ("spool", "snapshots"):
        (path / folder).mkdir(parents=True)
    for i in range(rows):
        (path / "spool" / f"{i:08d}.row").write_bytes(b"row")
    for i in range(snapshots):
        (path / "snapshots" / f"{i:08d}.snap").write_bytes(bytes(1024))
    (path / "spool" / "00000009.row.tmp").write_bytes(b"half a row")
    return path


def test_all_is_well(trajmon: Trajmon, served: Any, home: Path) -> None:
    result = trajmon("doctor")
    assert result.exit_code == 0
    assert "problem" not in result.output
    found = checks(trajmon("doctor", "--json"))
    assert found["home"]["text"] == f"{home} (mode 0700)"
    assert found["token"]["text"] == f"{home}/token (mode 0600)"
    assert (
        found["server"]["text"]
        == f"{served.address} answers and takes the token; it has {len(served.runs)} runs"
    )
    assert found["runs"]["text"] == "none recorded on this machine yet"
    assert found["numba"]["level"] == found["torch"]["level"] == "ok"


def test_open_token_file(trajmon: Trajmon, home: Path) -> None:
    (home / "token").chmod(0o644)
    result = trajmon("doctor", "--json")
    assert result.exit_code == 1
    check = checks(result)["token"]
    assert (check["level"], check["fix"]) == ("problem", f"chmod 600 {home}/token")
    assert check["text"] == f"{home}/token is open to other users (mode 0644)"


@pytest.mark.parametrize(
    ("mode", "level", "words", "code"), [(0o755, "warning", "read", 0), (0o777, "problem", "written", 1)]
)
def test_open_home(trajmon: Trajmon, home: Path, mode: int, level: str, words: str, code: int) -> None:
    home.chmod(mode)
    result = trajmon("doctor", "--json")
    check = checks(result)["home"]
    assert (check["level"], result.exit_code) == (level, code)
    assert check["text"] == f"{home} can be {words} by other users (mode {mode:04o})"


def test_home_is_a_file(trajmon: Trajmon, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    result = trajmon("doctor", "--json", env={"TRAJMON_HOME": str(path)})
    assert result.exit_code == 1
    assert checks(result)["home"]["text"] == f"{path} is not a folder"


def test_server_down_and_token_wrong(trajmon: Trajmon) -> None:
    down = trajmon("doctor", "--json", "--server", "127.0.0.1:1")
    assert down.exit_code == 1
    assert checks(down)["server"]["text"].startswith("no server answers at 127.0.0.1:1: start one with")
    wrong = trajmon("doctor", env={"TRAJMON_TOKEN": "wrong"})
    assert wrong.exit_code == 1
    assert "refused the token: token is not valid" in wrong.output


def test_rows_that_wait_without_an_agent(trajmon: Trajmon, home: Path) -> None:
    make_run(home, "resnet", rows=3, snapshots=2)
    result = trajmon("doctor", "--json")
    assert result.exit_code == 0
    check = checks(result)["run resnet"]
    assert check["level"] == "warning"
    assert check["text"] == "3 checkpoints wait, 2 snapshots with 2.0 KiB, not training, no agent"
    assert check["fix"] == "`trajmon sync resnet` sends them"


def test_checkpoints_without_a_row_wait_as_well(home: Path) -> None:
    path = make_run(home, "resnet", rows=1, snapshots=5)
    RunDir(path).acked_file.write_text('{"acked": 2}')
    assert inspect_run_dir(path).waiting == 3


def test_recording_that_stopped_and_an_agent_with_a_problem(trajmon: Trajmon, home: Path) -> None:
    stopped, refused = make_run(home, "full"), make_run(home, "fenced", rows=1)
    RecorderNote(attempt=1, state="stopped", reason="snapshots take 5 GiB, the budget").write(RunDir(stopped))
    AgentNote(pid=1, state="refused", problem="the server holds another run of this name").write(
        RunDir(refused)
    )
    found = checks(trajmon("doctor", "--json"))
    assert found["run full"]["level"] == found["run fenced"]["level"] == "warning"
    assert found["run full"]["text"].startswith(
        "recording stopped: snapshots take 5 GiB, the budget; 0 checkpoints"
    )
    assert found["run fenced"]["text"].startswith(
        "agent says: the server holds another run of this name; 1 checkpoints"
    )
    assert found["run fenced"]["fix"] == f"see {refused}/agent.log"


def test_agent_and_training_are_found_by_their_locks_and_keep_them(trajmon: Trajmon, home: Path) -> None:
    path = make_run(home, "resnet", rows=1)
    holders = []
    try:
        for name in ("agent.lock", "owner.lock"):
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLD_LOCK, str(path / name)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            holders.append(holder)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
        agent, training = (holder.pid for holder in holders)
        for _ in range(2):
            assert lock_holder(path / "agent.lock") == agent
        check = checks(trajmon("doctor", "--json"))["run resnet"]
        assert check["level"] == "ok"
        assert f"training is process {training}, agent is process {agent}" in check["text"]
    finally:
        for holder in holders:
            holder.communicate()
    assert inspect_run_dir(path).agent_pid is None


def test_doctor_changes_nothing(trajmon: Trajmon, home: Path) -> None:
    make_run(home, "resnet", rows=1)
    before = sorted((str(path), path.stat().st_mode) for path in home.rglob("*"))
    trajmon("doctor")
    assert sorted((str(path), path.stat().st_mode) for path in home.rglob("*")) == before


def test_sync_without_runs(trajmon: Trajmon, home: Path) -> None:
    result = trajmon("sync")
    assert (result.exit_code, result.output) == (
        0,
        f"no runs were recorded on this machine in {home}: nothing to send\n",
    )


def test_sync_of_a_run_that_is_all_there(trajmon: Trajmon, home: Path) -> None:
    path = make_run(home, "resnet", snapshots=2)
    RunDir(path).acked_file.write_text('{"acked": 2}')
    result = trajmon("sync", "resnet")
    assert (result.exit_code, result.output) == (0, "resnet: all checkpoints are on the server\n")


def test_sync_of_a_run_that_cannot_be_read(trajmon: Trajmon, home: Path) -> None:
    path = make_run(home, "resnet", rows=1, snapshots=1)
    result = trajmon("sync")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {path}/run.json cannot be read; restore it, or remove its folder\n"


def test_sync_of_a_folder_that_is_no_run(trajmon: Trajmon, home: Path) -> None:
    path = home / "client" / "other"
    path.mkdir(parents=True)
    result = trajmon("sync")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: cannot work on {path}/snapshots: No such file or directory; see `trajmon doctor`\n"
    )


def test_sync_of_an_unknown_run(trajmon: Trajmon, home: Path) -> None:
    make_run(home, "resnet")
    result = trajmon("sync", "resnte")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: no run 'resnte' was recorded on this machine in {home}; there are: resnet\n"
    )


def test_sync_as_json(trajmon: Trajmon, home: Path) -> None:
    path = make_run(home, "resnet", snapshots=2)
    RunDir(path).acked_file.write_text('{"acked": 2}')
    result = trajmon("sync", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [{"run": "resnet", "waiting": 0}]


def test_sync_without_runs_as_json(trajmon: Trajmon, home: Path) -> None:
    result = trajmon("sync", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
