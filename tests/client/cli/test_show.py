"""`trajmon show`, `runs` and `hallmarks`: what a reader sees, and what a program reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import Result

from support.calls import TIMEOUT_SECONDS, open_part, open_run, push, push_all, push_part
from support.rows import Cut, SyntheticRun
from support.server import Client, ServerProcess
from trajmon.cli.screen import lag_words, waiting_words
from trajmon.plot.colors import SWITCH_RGB
from trajmon_protos.record import encode
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2

Trajmon = Callable[..., Result]


def wide(columns: int) -> dict[str, str]:
    return {"COLUMNS": str(columns)}


@pytest.mark.parametrize("width", [40, 60, 80, 110, 160, 240])
@pytest.mark.parametrize(
    "run", ["five", "resnet20", "long", "holes", "undefined", "single", "frozen", "switched", "parts"]
)
def test_show_fits_the_width(trajmon: Trajmon, run: str, width: int) -> None:
    result = trajmon("show", run, env=wide(width))
    assert result.exit_code == 0
    assert result.stderr == ""
    assert max(map(len, result.output.splitlines())) <= width


def test_show_says_state_advice_mean_and_axes(trajmon: Trajmon, served: Any) -> None:
    output = trajmon("show", "resnet20", env=wide(80)).output
    lines = output.splitlines()
    assert lines[0] == "resnet20  running, 60 checkpoints, step 5900, 400 parameters"
    assert (
        "advice: explore at checkpoint 59: the forecast of the remaining displacement is 0.40, over 0.10"
        in " ".join(output.split())
    )
    mean = served.runs["resnet20"].hallmarks()["mds"][-1]
    assert f"trajectory map of network   MDS {mean:.4g}" in lines
    assert any(line.startswith("cosine similarity 0.22 .:-=+*%#@ 1.00") for line in lines)
    assert "undefined" not in output
    assert any(line.split() == ["checkpoint"] for line in lines)
    assert "update angle (degrees)" in output


def test_dark_is_similar_and_pale_is_not(trajmon: Trajmon) -> None:
    rows = [
        line.partition("-")[2]
        for line in trajmon("show", "five").output.splitlines()
        if line[1:3] in ("0-", "4-")
    ]
    first, last = rows
    assert (first[0], first[-1]) == ("@", ".")
    assert (last[0], last[-1]) == (".", "@")


def test_undefined_checkpoints_have_their_own_sign_and_are_counted(trajmon: Trajmon) -> None:
    output = trajmon("show", "holes", env=wide(80)).output
    assert "? undefined (3 of 60 checkpoints)" in output
    undefined_rows = [line for line in output.splitlines() if line.count("?") >= 60]
    # Checkpoints 17 and 18 fill the halves of two lines, 40 one half: no line is wholly undefined.
    assert undefined_rows == []
    assert any(line.count("?") >= 3 for line in output.splitlines())


def test_nothing_defined(trajmon: Trajmon) -> None:
    output = trajmon("show", "undefined").output
    assert "MDS undefined" in output
    assert "advice: unknown" in output
    assert "? undefined (6 of 6 checkpoints)" in output


def test_no_checkpoints(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "run.png"
    shown = trajmon("show", "empty")
    assert (shown.exit_code, shown.output.splitlines()[-1]) == (0, "no checkpoints yet")
    written = trajmon("show", "empty", "--out", str(out))
    assert written.exit_code == 1
    assert written.stderr == f"Error: run empty has no checkpoints yet: nothing was written to {out}\n"
    assert not out.exists()


def test_one_checkpoint(trajmon: Trajmon) -> None:
    output = trajmon("show", "single").output
    assert "single  running, 1 checkpoints, step 0" in output
    assert "MDS 1" in output
    assert "update angle (degrees) undefined" in output


def test_plan_and_settled_groups(trajmon: Trajmon) -> None:
    lines = trajmon("show", "parts", env=wide(120)).output.splitlines()
    assert "plan: 12,000 steps ahead, learning rates known; for accu racy, larger is better" in lines
    assert "settled groups: norm (since checkpoint 3); 2 of 3 have not" in lines
    value = json.loads(trajmon("show", "parts", "--json").output)
    assert value["plan"] == {
        "steps_ahead": 12_000,
        "rates_are_known": True,
        "objective": "accu\x1bracy",
        "larger_is_better": True,
        "objective_tolerance": 0.01,
    }
    assert value["outlooks"][0] == {
        "group": "norm",
        "remaining": 0.02,
        "low": 0.01,
        "high": 0.03,
        "settled_since": 3,
    }
    assert (value["outlooks"][2]["high"], value["outlooks"][2]["settled_since"]) == (None, None)
    without = trajmon("show", "five").output
    assert "plan:" not in without
    assert "settled groups" not in without
    value = json.loads(trajmon("show", "five", "--json").output)
    assert (value["plan"], value["outlooks"]) == (None, [])


def test_relative_map_is_named(trajmon: Trajmon, served: Any) -> None:
    _, entries = served.runs["five"].relative_map(2)
    output = trajmon("show", "five", "--relative-to", "2").output
    assert f"relative MDS (about checkpoint 2) {entries.mean():.4g}" in output
    assert "cosine similarity about checkpoint 2" in output


def test_relative_to_out_of_range(trajmon: Trajmon) -> None:
    result = trajmon("show", "five", "--relative-to", "9")
    assert result.exit_code == 1
    assert "relative_to: checkpoint 9 is not among those of the map (0 to 4)" in result.stderr


def test_findings_are_shown_and_the_rest_counted(trajmon: Trajmon) -> None:
    output = trajmon("show", "five").output
    assert output.count("finding: checkpoint 4: checkpoints 3 and 4 hold identical bytes") == 5
    assert "and 2 more findings" in output


def test_switches_are_lines_in_the_map_with_a_bar_and_its_key(trajmon: Trajmon) -> None:
    lines = trajmon("show", "switched", env=wide(80)).output.splitlines()
    assert lines[0] == "switched  running, 60 checkpoints, step 5900, 400 parameters, norm-only training"
    key = lines.index("== norm-only training: checkpoints 20 to 34, 48 to 59")
    rows = [line[4:] for line in lines[key + 2 :][:30]]
    assert [{i for i, sign in enumerate(row) if sign == "|"} for row in rows] == [{20, 35, 48}] * 30
    assert lines[key + 32] == " " * 24 + "=" * 15 + " " * 13 + "=" * 12
    assert lines[key + 33].split() == ["0", "10", "20", "30", "40", "50"]


def test_the_last_switches_of_many_are_named_and_the_rest_counted(trajmon: Trajmon) -> None:
    output = trajmon("show", "alternating", env=wide(120)).output
    expected = "== norm-only training: checkpoints 200 to 239, 280 to 319, 360 to 399, and 2 spans before"
    assert expected in output.splitlines()


@pytest.mark.parametrize("run", ["resnet20", "empty"])
def test_a_server_that_sends_no_modes_has_trained_everything(trajmon: Trajmon, run: str) -> None:
    output = trajmon("show", run, env=wide(80)).output
    assert "norm-only" not in output
    assert "|" not in output
    modes = json.loads(trajmon("show", run, "--json").output)["modes"]
    assert modes == ([{"from_checkpoint": 0, "mode": "full"}] if run == "resnet20" else [])


def test_checkpoints_that_wait_for_parts_and_an_agent_that_is_behind(trajmon: Trajmon) -> None:
    lines = trajmon("show", "parts", env=wide(400)).output.splitlines()
    assert lines[2] == (
        "5 checkpoints wait for parts: checkpoint 7 lacks parts 0, 1 of 64; checkpoint 8 lacks parts "
        "1, 2, 3, 4, 5, 6, 7, 8 and 5 more of 64; checkpoint 9 lacks parts 2, 3, 4, 5, 6, 7, 8, 9 and 16 more of 64; "
        "and 2 more"
    )
    assert lines[3] == "agent: 12 checkpoints behind, the oldest 40 s old, 4 without a row"
    value = json.loads(trajmon("show", "parts", "--json").output)
    assert value["run"]["open_checkpoints"] == len(value["open"]) == 5
    assert value["open"][1] == {
        "checkpoint": 8,
        "attempt": 2,
        "num_parts": 64,
        "missing_parts": list(range(1, 14)),
    }
    assert value["agent"] == {
        "checkpoints_recorded": 19,
        "checkpoints_skipped": 0,
        "checkpoints_pending": 12,
        "checkpoints_uncomputed": 4,
        "lag_seconds": 40.2,
    }


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({}, ""),
        ({"checkpoints_pending": 1, "lag_seconds": 0.4}, ""),
        ({"checkpoints_pending": 1, "lag_seconds": 400.0}, "agent: 1 checkpoint behind, 6.7 min old"),
        ({"checkpoints_pending": 2}, "agent: 2 checkpoints behind"),
        ({"checkpoints_pending": 3, "lag_seconds": float("inf")}, "agent: 3 checkpoints behind"),
        ({"checkpoints_pending": 1, "lag_seconds": float("nan")}, ""),
    ],
)
def test_lag_in_words(report: dict[str, Any], words: str) -> None:
    assert lag_words(ingest_pb2.ReportStatusRequest(**report)) == words


def test_open_checkpoints_beyond_the_list_are_counted() -> None:
    details = query_pb2.GetRunResponse(summary=query_pb2.RunSummary(open_checkpoints=250))
    assert waiting_words(details) == "250 checkpoints wait for parts"
    details.open.add(checkpoint=3, num_parts=2, missing_parts=[1])
    assert waiting_words(details) == (
        "250 checkpoints wait for parts: checkpoint 3 lacks part 1 of 2; and 249 more"
    )


def shown_by_the_real_program(served: Any, home: Path, run: str = "five", **settings: str) -> str:
    """A fresh process: the renderer keeps the codes of the first colour system that it meets."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLORTERM", "NO_COLOR")}
    environment = (
        kept
        | {"TRAJMON_SERVER": served.address, "TRAJMON_HOME": str(home), "TERM": "xterm-256color"}
        | settings
    )
    program = Path(sys.executable).parent / "trajmon"
    done = subprocess.run(
        [str(program), "show", run], capture_output=True, env=environment, timeout=60, check=True
    )
    return done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))


def test_truecolor(served: Any, home: Path) -> None:
    output = shown_by_the_real_program(served, home, FORCE_COLOR="1", COLORTERM="truecolor")
    # The diagonal is the darkest colour, the cosine of first and last the palest.
    assert "\x1b[38;2;19;37;71;48;2;19;37;71m▀" in output
    assert "\x1b[38;2;242;248;251;48;2;242;248;251m▀" in output


def test_switches_in_truecolor_lie_over_the_map(served: Any, home: Path) -> None:
    output = shown_by_the_real_program(
        served, home, "switched", FORCE_COLOR="1", COLORTERM="truecolor", COLUMNS="80"
    )
    crimson = "38;2;{};{};{}".format(*SWITCH_RGB)
    # The map's own colour goes on behind the line.
    assert f"\x1b[{crimson};48;2;19;37;71m▏" in output
    assert f"\x1b[{crimson};48;2;19;37;71m▔" in output
    assert f"\x1b[{crimson}m▀▀\x1b[0m norm-only training: checkpoints 20 to 34, 48 to 59" in output
    assert crimson not in shown_by_the_real_program(served, home, FORCE_COLOR="1", COLORTERM="truecolor")


def test_256_colours(served: Any, home: Path) -> None:
    output = shown_by_the_real_program(served, home, FORCE_COLOR="1")
    assert "\x1b[38;5;17;48;5;17m▀" in output
    assert "38;2;" not in output


def test_no_color_is_respected(served: Any, home: Path) -> None:
    output = shown_by_the_real_program(served, home, FORCE_COLOR="1", COLORTERM="truecolor", NO_COLOR="1")
    assert "▀" not in output
    assert "38;" not in output
    assert "@@@@" in output


def test_a_terminal_without_unicode_gets_plain_signs(served: Any, home: Path) -> None:
    output = shown_by_the_real_program(
        served, home, FORCE_COLOR="1", COLORTERM="truecolor", PYTHONIOENCODING="ascii"
    )
    assert output.isascii()
    assert "@@@@" in output
    assert "*" in output


def test_show_writes_the_figure_beside_the_picture(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "run.png"
    result = trajmon("show", "holes", "--scale", "fitted", "--out", str(out))
    assert result.exit_code == 0
    assert result.output.endswith(f"wrote {out}\n")
    assert matplotlib.image.imread(out).shape == (920, 2160, 4)


def test_show_writes_png_only(trajmon: Trajmon) -> None:
    result = trajmon("show", "five", "--out", "run.pdf")
    assert result.exit_code == 2
    assert "'run.pdf' does not end in .png; `trajmon export` writes other files" in result.stderr


def test_show_json(trajmon: Trajmon, served: Any) -> None:
    value = json.loads(trajmon("show", "five", "--json").output)
    assert value["run"]["name"] == "five"
    assert value["run"]["advice"]["evidence"] == {"forecast": 0.4, "undefined": None}
    assert value["hallmarks"]["parameter_norm"] == served.runs["five"].hallmarks()["parameter_norm"][-1]
    assert value["hallmarks"]["apex_angle_initialization_degrees"] is None
    assert len(value["findings"]) == 7


def test_hallmarks_json_holds_arrays_with_null_where_undefined(trajmon: Trajmon, served: Any) -> None:
    value = json.loads(trajmon("hallmarks", "holes", "--json").output)
    known = served.runs["holes"].hallmarks()
    assert (value["run"], value["scope"]) == ("holes", "network")
    assert value["checkpoint"] == list(range(60))
    for name, array in known.items():
        expected = [None if np.isnan(entry) else entry for entry in array.tolist()]
        assert value[name] == expected
    assert value["mode"] == [0] * 60
    assert value["parameter_norm"][17] is None


def test_hallmarks_table_shows_the_last_rows(trajmon: Trajmon, served: Any) -> None:
    output = trajmon("hallmarks", "resnet20", "--rows", "3", env=wide(140)).output
    rows = [line.split() for line in output.splitlines() if line.strip()[:2].isdigit()]
    assert [row[:2] for row in rows] == [["57", "5700"], ["58", "5800"], ["59", "5900"]]
    assert rows[-1][2] == f"{served.runs['resnet20'].hallmarks()['mds'][-1]:.4g}"
    assert "the last 3 of 60 checkpoints; --rows shows more, --json everything" in output


def test_hallmarks_tell_what_was_trained_where_some_was_norm_only(trajmon: Trajmon, served: Any) -> None:
    output = trajmon("hallmarks", "switched", "--rows", "13", env=wide(140)).output
    rows = [line.split() for line in output.splitlines() if line.strip()[:2].isdigit()]
    assert [row[-1] for row in rows] == ["full"] + ["norm-only"] * 12
    assert "full" not in trajmon("hallmarks", "resnet20", env=wide(140)).output
    value = json.loads(trajmon("hallmarks", "switched", "--json").output)
    assert value["mode"] == served.runs["switched"].mode.tolist()


def test_hallmarks_of_an_empty_run(trajmon: Trajmon) -> None:
    assert trajmon("hallmarks", "empty").output == "run empty has no checkpoints yet\n"
    assert json.loads(trajmon("hallmarks", "empty", "--json").output)["mds"] == []


def test_runs_lists_all_pages(trajmon: Trajmon, served: Any) -> None:
    value = json.loads(trajmon("runs", "--json").output)
    assert sorted(run["name"] for run in value) == sorted(served.runs)
    by_name = {run["name"]: run for run in value}
    assert by_name["undefined"]["mds"] is None
    assert by_name["five"]["state"] == "running"
    assert by_name["five"]["advice"]["state"] == "explore"
    table = trajmon("runs", env=wide(140)).output
    assert table.splitlines()[0].split() == [
        "run",
        "state",
        "checkpoints",
        "open",
        "step",
        "MDS",
        "training",
        "advice",
        "last",
        "seen",
    ]
    assert (by_name["parts"]["open_checkpoints"], by_name["parts"]["mode"]) == (5, "full")
    assert (by_name["switched"]["open_checkpoints"], by_name["switched"]["mode"]) == (0, "norm-only")
    assert len(table.splitlines()) == 1 + len(served.runs)


def test_names_from_the_server_cannot_steer_the_terminal(trajmon: Trajmon) -> None:
    for arguments in (["runs"], ["show", "\x1b[31m[bold]evil[/bold]\nsecond line"]):
        output = trajmon(*arguments, env=wide(140)).output
        assert "\x1b" not in output
        # The markup is shown, not obeyed.
        assert "[31m[bold]evil[/bold] second line" in output


def test_what_the_monitor_server_itself_says(
    monitor: ServerProcess, trajmon: Trajmon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = monitor.addresses["grpc"]
    monkeypatch.setenv("TRAJMON_SERVER", address)
    monkeypatch.setenv("TRAJMON_TOKEN", monitor.token)
    with Client(address, monitor.token) as client:
        push_all(client, SyntheticRun("plain"))
        assert trajmon("runs", env=wide(120)).output.splitlines()[0].split() == [
            *("run", "state", "checkpoints", "step", "MDS", "advice", "last", "seen"),
        ]
        switched = SyntheticRun("switched-here", num_checkpoints=9)
        epoch = open_run(client, switched).writer_epoch
        for number in range(9):
            row = switched.row(number)
            row.header.info.mode = (
                types_pb2.TRAINING_MODE_NORM_ONLY if number in (3, 4, 7, 8) else types_pb2.TRAINING_MODE_FULL
            )
            push(client, switched, epoch, encode(row))
        behind = ingest_pb2.ReportStatusRequest(
            run_id=switched.run_id,
            writer_epoch=epoch,
            phase=ingest_pb2.RUN_PHASE_RUNNING,
            checkpoints_recorded=12,
            checkpoints_pending=3,
            checkpoints_uncomputed=2,
            lag_seconds=130.0,
        )
        client.ingest.ReportStatus(behind, metadata=client.metadata, timeout=TIMEOUT_SECONDS)
        sharded = SyntheticRun("sharded-here", num_checkpoints=4)
        cut = Cut.of(sharded, 3)
        epochs = [open_part(client, sharded, cut, part).writer_epoch for part in range(3)]
        for part, last in ((0, 4), (1, 2), (2, 3)):
            for number in range(last):
                record = sharded.part_record(number, cut, part)
                push_part(client, sharded, cut, part, epochs[part], record)
    output = trajmon("runs", env=wide(120)).output
    assert output.splitlines()[0].split()[2:6] == ["checkpoints", "open", "step", "MDS"]
    rows = {line.split()[0]: line.split() for line in output.splitlines()}
    assert rows["sharded-here"][2:4] == ["2", "2"]
    assert "full" in rows["sharded-here"]
    assert "norm-only" in rows["switched-here"]

    shown = trajmon("show", "switched-here", env=wide(200)).output
    assert "norm-only training" in shown.splitlines()[0]
    assert "agent: 3 checkpoints behind, the oldest 2.2 min old, 2 without a row" in shown.splitlines()
    assert "== norm-only training: checkpoints 3 to 4, 7 to 8" in shown.splitlines()
    assert json.loads(trajmon("show", "switched-here", "--relative-to", "3", "--json").output)["modes"] == [
        {"from_checkpoint": 0, "mode": "full"},
        {"from_checkpoint": 3, "mode": "norm-only"},
        {"from_checkpoint": 5, "mode": "full"},
        {"from_checkpoint": 7, "mode": "norm-only"},
    ]
    waiting = (
        "2 checkpoints wait for parts: checkpoint 2 lacks part 1 of 3; checkpoint 3 lacks parts 1, 2 of 3"
    )
    assert waiting in trajmon("show", "sharded-here", env=wide(200)).output.splitlines()

    out = tmp_path / "map.npz"
    assert trajmon("export", "switched-here", "--relative-to", "3", "--out", str(out)).exit_code == 0
    with np.load(out) as file:
        assert file["mode"].dtype == np.uint8
        assert dict(zip(file["checkpoint"].tolist(), file["mode"].tolist(), strict=True)) == {
            **dict.fromkeys((0, 1, 2, 5, 6), 0),
            **dict.fromkeys((4, 7, 8), 1),
        }
