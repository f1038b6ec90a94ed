"""`trajmon ingest` as its user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.ingest.written import Shapes, save_series, walk  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import TOKEN, IngestServer, record_run  # noqa: TID251
from trajmon.cli import main
from trajmon.rundir import RunDir

SHAPES: Shapes = {"fc.weight": ((30, 60), "float32"), "ln.weight": ((9,), "float32")}
Ingest = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[IngestServer]:
    started = IngestServer()
    started.start()
    yield started
    started.stop()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save_series(tmp_path / "saved", walk(SHAPES, 12), SHAPES)


@pytest.fixture
def ingest(server: IngestServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """Run the program against the server: `ingest(folder, "--run", "old")`."""
    monkeypatch.setenv("TRAJMON_TOKEN", TOKEN)
    monkeypatch.setenv("TRAJMON_SERVER", server.address)
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0.5")

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(main, ["ingest", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def events(result: Result, kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == kind]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_a_run(ingest: Ingest, server: IngestServer, home: Path, paths: list[Path]) -> None:
    result = ingest(paths[0].parent, "--run", "old", "--tag", "archive")
    assert result.exit_code == 0, result.output
    # By step and not by name: step20 before step100.
    shown = [line.split() for line in result.stdout.splitlines() if line.endswith(".safetensors")]
    assert shown == [[str(number), str(10 * number), str(path)] for number, path in enumerate(paths)]
    assert "12 checkpoints of 2 layers, 1,809 parameters" in result.stdout
    assert f"12 checkpoints are on {server.address}; look: trajmon show old" in result.stdout
    stored = server.run("old")
    assert [row.header.info.step for row in stored.rows] == [10 * number for number in range(12)]
    assert list(stored.request.tags) == ["archive"]
    assert not (RunDir.of(home, "old").path / "ingest" / "sums.f64").exists()


def test_the_same_again_does_nothing_more(ingest: Ingest, server: IngestServer, paths: list[Path]) -> None:
    ingest(paths[0].parent, "--run", "old")
    records = dict(server.run("old").records)
    again = ingest(paths[0].parent, "--run", "old", "--json")
    assert again.exit_code == 0
    assert events(again, "progress") == []
    assert events(again, "end")[0]["acknowledged"] == 12
    assert server.run("old").records == records


def test_json(ingest: Ingest, paths: list[Path]) -> None:
    result = ingest(*paths, "--run", "old", "--json")
    assert result.exit_code == 0
    order = events(result, "order")[0]
    assert [entry["path"] for entry in order["checkpoints"]] == list(map(str, paths))
    assert (order["layers"], order["parameters"], order["refused"]) == (2, 1809, [])
    progress = events(result, "progress")[-1]
    assert progress["bytes"] == progress["of_bytes"] == 12 * 1809 * 4
    assert events(result, "sent")[-1]["checkpoints"] == 12
    end = events(result, "end")[0]
    assert (end["run"], end["checkpoints"], end["acknowledged"], end["problem"]) == ("old", 12, 12, "")


def test_dry_run(ingest: Ingest, server: IngestServer, home: Path, paths: list[Path]) -> None:
    before = files(home)
    result = ingest(
        paths[3],
        paths[0],
        paths[1],
        "--run",
        "old",
        "--dry-run",
        "--order",
        "as-given",
        "--every",
        2,
        "--json",
    )
    assert result.exit_code == 0
    order = events(result, "order")[0]["checkpoints"]
    assert [(entry["path"], entry["step"]) for entry in order] == [(str(paths[3]), 30), (str(paths[1]), 10)]
    assert files(home) == before
    assert server.calls == []


def test_views_and_groups(ingest: Ingest, server: IngestServer, paths: list[Path]) -> None:
    cut = r"fc\.weight$=1:a,b,c:-1,3,20"
    result = ingest(
        paths[0].parent, "--run", "old", "--view", cut, "--group", r"mine=\.[ab]$", "--group", "mine=ln"
    )
    assert result.exit_code == 0, result.output
    layout = server.run("old").request.layout
    names = [layer.name for layer in layout.layers]
    assert names == ["fc.weight.a", "fc.weight.b", "fc.weight.c", "ln.weight"]
    mine = next(group for group in layout.groups if group.name == "mine")
    assert [names[index] for index in mine.layers] == ["fc.weight.a", "fc.weight.b", "ln.weight"]


def test_a_truncated_file_names_itself_and_the_rest_goes_on(
    ingest: Ingest, server: IngestServer, paths: list[Path]
) -> None:
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    result = ingest(paths[0].parent, "--run", "old")
    assert result.exit_code == 1
    assert f"1 of 12 checkpoints left out: {paths[4]}: " in result.stderr
    assert "left out: step40.safetensors: " in result.stdout
    assert [row.header.info.step for row in server.run("old").rows] == [0, 10, 20, 30, *range(50, 120, 10)]


def test_another_model_is_left_out(ingest: Ingest, server: IngestServer, paths: list[Path]) -> None:
    other: Shapes = {"fc.weight": ((60, 30), "float32"), "ln.weight": ((9,), "float32")}
    save_series(paths[0].parent, walk(other, 1), other, first=2)
    result = ingest(paths[0].parent, "--run", "old")
    assert result.exit_code == 1
    assert "fc.weight has shape (60, 30), the series began with (30, 60)" in " ".join(result.stderr.split())
    assert len(server.run("old").rows) == 11


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["missing", "--run", "old"], 1, "missing: there is no such file or folder"),
        (["empty", "--run", "old"], 1, "empty: there is no checkpoint in it"),
        (["junk.pt", "--run", "old"], 1, "none of 1 checkpoints can be used: junk.pt: "),
        (["saved", "--run", "../up"], 1, "'../up' is not a run name; use 1 to 64 of"),
        (
            ["saved", "--run", "old", "--tag", "x" * 65],
            1,
            "at most 32 tags of 1 to 64 characters are allowed",
        ),
        (["saved", "--run", "old", "--view", "fc"], 2, "'fc' is not PATTERN=AXIS:NAME,NAME"),
        (["saved", "--run", "old", "--view", "fc=1:a"], 2, "must be two or more, distinct and not empty"),
        (["saved", "--run", "old", "--view", "none=0:a,b"], 1, "matches none of the 2 parameters"),
        (["saved", "--run", "old", "--group", "late"], 2, "'late' is not NAME=REGEX"),
        (["saved", "--run", "old", "--group", "late=xyz"], 1, "'xyz' matches none of the 2 layers"),
        (["saved", "--run", "old", "--memory", "lots"], 2, "'lots' is not a number of bytes"),
        (["saved", "--run", "old", "--memory", "1M"], 2, "'1M' is less than 64M"),
        (["saved", "--run", "old", "--threads", "0"], 2, "0 is not in the range x>=1"),
        (["saved"], 2, "Missing option '--run'"),
        (["--run", "old"], 2, "Missing argument 'PATH...'"),
    ],
)
def test_bad_input_changes_nothing(
    ingest: Ingest,
    server: IngestServer,
    home: Path,
    paths: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.pt").write_bytes(b"no checkpoint")
    before = files(home)
    result = ingest(*arguments)
    assert result.exit_code == code
    assert text in " ".join(result.stderr.replace("│", " ").split())
    assert files(home) == before
    assert server.calls == []


def test_a_run_name_that_is_taken_here(
    ingest: Ingest, server: IngestServer, home: Path, paths: list[Path]
) -> None:
    recorded = record_run(home, server.address, 1, name="old")
    before = {path: path.read_bytes() for path in files(home)}
    result = ingest(paths[0].parent, "--run", "old")
    assert result.exit_code == 1
    assert (
        f"Error: run 'old' exists in {recorded.run_dir.path} and was not ingested; choose another name\n"
        == result.stderr
    )
    assert {path: path.read_bytes() for path in files(home)} == before


def test_without_a_server_the_rows_wait(
    ingest: Ingest, server: IngestServer, home: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    result = ingest(paths[0].parent, "--run", "old")
    assert result.exit_code == 1
    assert "12 of 12 rows are computed and not handed in: UNAVAILABLE: " in result.stderr
    assert f"12 of them wait in {RunDir.of(home, 'old').spool}; the same command sends them" in result.stderr
    server.start()
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "15")
    again = ingest(paths[0].parent, "--run", "old")
    assert again.exit_code == 0
    assert "all sums are there of 2" in again.stdout
    assert len(server.run("old").rows) == 12


def test_a_cluster_that_is_not_there(
    ingest: Ingest, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajmon.ingest.cluster._CONNECT_SECONDS", 1)
    result = ingest(paths[0].parent, "--run", "old", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1: " in result.stderr


def test_without_dask_the_message_says_what_to_install(home: Path, paths: list[Path]) -> None:
    """A fresh interpreter in which dask cannot be found."""
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        "from trajmon.cli import main\n"
        f"main(['ingest', {str(paths[0].parent)!r}, '--run', 'old', '--scheduler', 'tcp://127.0.0.1:1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "--scheduler needs Dask (" in done.stderr
    assert "pip install 'trajmon[dask]'" in done.stderr


def test_no_torch_for_safetensors(home: Path, server: IngestServer, paths: list[Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from trajmon.cli import main\n"
        f"main(['ingest', {str(paths[0].parent)!r}, '--run', 'old', '--json'])"
    )
    environment = {**os.environ, "TRAJMON_TOKEN": TOKEN, "TRAJMON_SERVER": server.address}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(server.run("old").rows) == 12


def test_ctrl_c(home: Path, server: IngestServer, tmp_path: Path) -> None:
    """One line, and the next call goes on."""
    shapes: Shapes = {"w": ((2000, 1000), "float32")}
    folder = save_series(tmp_path / "large", walk(shapes, 3), shapes)[0].parent
    slow = (
        "import sys, time\nimport trajmon.ingest.gram as g\n"
        "whole = g.BlockSource.sums\n"
        "def slowly(*a):\n time.sleep(0.2)\n return whole(*a)\n"
        "g.BlockSource.sums = slowly\n"
        "from trajmon.cli import main\n"
        f"main(['ingest', {str(folder)!r}, '--run', 'old', '--json', '--memory', '64M', '--threads', '1'])"
    )
    environment = {**os.environ, "TRAJMON_TOKEN": TOKEN, "TRAJMON_SERVER": server.address}
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "Error: interrupted; the same command goes on from here\n"
    assert (RunDir.of(home, "old").path / "ingest" / "state.bin").exists()
    assert server.calls == []


def test_a_late_first_checkpoint_is_said(ingest: Ingest, paths: list[Path]) -> None:
    words = "the first checkpoint is from step 20: what counts as the initialization is not that of training"
    late = ingest(*paths[2:5], "--run", "old", "--dry-run", "--json")
    assert events(late, "order")[0]["remarks"] == [words]
    assert words in " ".join(ingest(*paths[2:5], "--run", "old", "--dry-run").stdout.split())
    assert events(ingest(*paths[:5], "--run", "old", "--dry-run", "--json"), "order")[0]["remarks"] == []
