"""What rests on estimates is shown with its standard error, in words, figures and files; the rest as always."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from trajmon.cli.picture import estimates_words, make_picture, mean_error_of
from trajmon.plot.curves import number_with_error
from trajmon.plot.figure import map_figure
from trajmon.query import MapResult

Trajmon = Callable[..., Result]


def mean_and_error(served: Any) -> tuple[float, float]:
    run = served.runs["sketched"]
    return float(run.hallmarks()["mds"][-1]), float(run.error.mean())


def result_with(error: np.ndarray | None) -> MapResult:
    t = 3
    numbers = np.arange(t)
    return MapResult(
        map=np.full((t, t), 0.956),
        gram=np.full((t, t), 0.956),
        checkpoint=numbers,
        step=numbers,
        mode=np.zeros(t, dtype=np.uint8),
        scope="network",
        error=error,
        gram_error=error,
    )


@pytest.mark.parametrize("width", [40, 60, 80, 110, 160, 240])
def test_show_fits_the_width(trajmon: Trajmon, width: int) -> None:
    result = trajmon("show", "sketched", env={"COLUMNS": str(width)})
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.output.splitlines())) <= width


def test_show_says_the_error_and_how_much_is_estimated(trajmon: Trajmon, served: Any) -> None:
    mean, error = mean_and_error(served)
    output = " ".join(trajmon("show", "sketched", env={"COLUMNS": "120"}).output.split())
    assert f"MDS {number_with_error(mean, error)} (12 of 60 checkpoints rest on estimates)" in output
    assert "anchored: a few snapshots kept" in output
    assert f"MDS {mean:.4g} (" not in output
    exact = trajmon("show", "resnet20", env={"COLUMNS": "120"}).output
    assert "±" not in exact
    assert "estimate" not in exact


def test_show_json(trajmon: Trajmon, served: Any) -> None:
    mean, error = mean_and_error(served)
    value = json.loads(trajmon("show", "sketched", "--json").output)
    assert value["mean"] == pytest.approx(mean)
    assert value["mean_error"] == pytest.approx(error)
    assert value["estimated_checkpoints"] == 12
    assert value["errors"] == {"mds": pytest.approx(error)}
    assert not any(name.startswith("error") for name in value["hallmarks"])
    exact = json.loads(trajmon("show", "resnet20", "--json").output)
    assert (exact["mean_error"], exact["estimated_checkpoints"], exact["errors"]) == (0.0, 0, {})


def test_hallmarks_json(trajmon: Trajmon, served: Any) -> None:
    value = json.loads(trajmon("hallmarks", "sketched", "--json").output)
    known = served.runs["sketched"].hallmarks()
    assert value["errors"] == {"mds": known["error:mds"].tolist()}
    assert value["mds"] == known["mds"].tolist()
    assert "error:mds" not in value
    assert json.loads(trajmon("hallmarks", "resnet20", "--json").output)["errors"] == {}


def test_hallmarks_table(trajmon: Trajmon, served: Any) -> None:
    mean, error = mean_and_error(served)
    lines = trajmon("hallmarks", "sketched", "--rows", "60", env={"COLUMNS": "160"}).output.splitlines()
    assert number_with_error(mean, error) in lines[-1]
    # Where a value is exact nothing is said.
    assert "±" not in lines[48]
    assert "±" in lines[49]


def test_runs(trajmon: Trajmon, served: Any) -> None:
    mean, error = mean_and_error(served)
    table = trajmon("runs", env={"COLUMNS": "160"}).output.splitlines()
    rows = {line.split()[0]: line for line in table[1:]}
    assert number_with_error(mean, error) in rows["sketched"]
    assert "±" not in rows["resnet20"]
    by_name = {run["name"]: run for run in json.loads(trajmon("runs", "--json").output)}
    assert by_name["sketched"]["mds_error"] == pytest.approx(error)
    assert by_name["sketched"]["snapshot_mode"] == "anchored"
    assert by_name["sketched"]["sketch"] == {"version": 1, "seed": 3, "bins": 4093}
    exact = by_name["resnet20"]
    assert (exact["mds_error"], exact["snapshot_mode"], exact["sketch"]) == (0.0, "exact", None)
    assert by_name["undefined"]["mds_error"] is None


def test_npz_and_csv_hold_the_errors(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    arrays, table = tmp_path / "map.npz", tmp_path / "map.csv"
    result = trajmon("export", "sketched", "--out", str(arrays))
    assert (
        result.output
        == f"wrote {arrays}: 60 checkpoints of network; 12 of 60 checkpoints rest on estimates\n"
    )
    assert trajmon("export", "sketched", "--out", str(table)).exit_code == 0
    run = served.runs["sketched"]
    with np.load(arrays, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["error"], run.error)
        np.testing.assert_array_equal(file["gram_error"], run.gram_error)
        entries = file["map"]
    with table.open(newline="") as lines:
        head, *rows = csv.reader(lines)
    assert head == ["checkpoint", "step", *map(str, range(60)), *(f"error:{i}" for i in range(60))]
    cells = np.array([[float(cell) for cell in row[2:]] for row in rows])
    np.testing.assert_array_equal(cells, np.hstack([entries, run.error]))


def test_exact_files_are_as_they_were(trajmon: Trajmon, tmp_path: Path) -> None:
    arrays, table = tmp_path / "map.npz", tmp_path / "map.csv"
    for out in (arrays, table):
        assert trajmon("export", "resnet20", "--out", str(out)).exit_code == 0
    with np.load(arrays, allow_pickle=False) as file:
        assert set(file) == {
            "map", "gram", "checkpoint", "step", "mode", "scope", "run", "kernel", "relative_to",
        }  # fmt: skip
    assert "error" not in table.read_text()


@pytest.mark.parametrize("command", ["show", "hallmarks", "runs"])
def test_a_terminal_without_unicode_gets_plain_signs(served: Any, home: Path, command: str) -> None:
    environment = os.environ | {
        "TRAJMON_SERVER": served.address,
        "TRAJMON_HOME": str(home),
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "160",
    }
    program = Path(sys.executable).parent / "trajmon"
    words = [str(program), command, *([] if command == "runs" else ["sketched"])]
    done = subprocess.run(words, capture_output=True, env=environment, timeout=60, check=True)
    assert b" +/- " in done.stdout
    assert done.stdout.isascii()


def test_figure_says_the_error_and_the_estimates() -> None:
    error = np.zeros((3, 3))
    error[2, 0] = error[0, 2] = 0.009
    result = result_with(error)
    assert mean_error_of(result) == pytest.approx(0.002)
    (axis, _) = map_figure(make_picture("run", result, False, None)).axes
    assert axis.get_title(loc="left") == "run   ω = 0.9560 ± 0.0020"
    assert axis.get_xlabel() == "checkpoint\n1 of 3 checkpoints rests on estimates"
    (axis, _) = map_figure(make_picture("run", result_with(None), False, None)).axes
    assert axis.get_title(loc="left") == "run   ω = 0.956"
    assert axis.get_xlabel() == "checkpoint"


def test_undefined_entries_have_no_part_in_the_error() -> None:
    error = np.full((3, 3), 0.5)
    error[0, 0] = np.nan
    result = result_with(error)
    result.map[1, 1] = np.nan
    assert mean_error_of(result) == 0.5
    assert estimates_words(result_with(np.zeros((3, 3)))) == ""


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.95612, 0.0012, "0.9561 ± 0.0012"),
        (0.9999, 0.00996, "0.9999 ± 0.0100"),
        (-0.3, 0.2, "-0.30 ± 0.20"),
        (88.2, 180.0, "88.2 ± 1.8e+02"),
        (12.3456, 2.3, "12.3 ± 2.3"),
        (0.87123, 3e-9, "0.8712 ± 3.0e-09"),
        (2.5e7, 12.0, "2.5e+07 ± 1.2e+01"),
        (0.5, 0.0, "0.5"),
        (0.5, float("nan"), "0.5"),
        (0.5, float("inf"), "0.5"),
        (float("nan"), 0.1, "undefined"),
    ],
)
def test_values_with_errors_in_words(value: float, error: float, text: str) -> None:
    assert number_with_error(value, error) == text
