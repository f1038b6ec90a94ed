"""`trajmon export`: the files hold what the server knows, or there is no file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import Result

Trajmon = Callable[..., Result]


def test_npz_holds_map_gram_step_checkpoint_and_scope(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    result = trajmon("export", "resnet20", "--scope", "group:norm", "--out", str(out))
    assert result.output == f"wrote {out}: 60 checkpoints of group:norm\n"
    points = served.runs["resnet20"].points
    lengths = np.linalg.norm(points, axis=1)
    with np.load(out, allow_pickle=False) as file:
        assert file["map"].dtype == file["gram"].dtype == np.float64
        np.testing.assert_array_equal(file["gram"], points @ points.T)
        np.testing.assert_allclose(file["map"], (points @ points.T) / np.outer(lengths, lengths), atol=1e-14)
        np.testing.assert_array_equal(file["checkpoint"], np.arange(60))
        np.testing.assert_array_equal(file["step"], np.arange(60) * 100)
        np.testing.assert_array_equal(file["mode"], np.zeros(60, dtype=np.uint8))
        assert str(file["scope"]) == "group:norm"
        assert str(file["run"]) == "resnet20"
        assert (str(file["kernel"]), int(file["relative_to"])) == ("linear", -1)


def test_relative_map_leaves_its_checkpoint_out(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    assert trajmon("export", "resnet20", "--relative-to", "7", "--out", str(out)).exit_code == 0
    shifted = np.delete(served.runs["resnet20"].points - served.runs["resnet20"].points[7], 7, axis=0)
    lengths = np.linalg.norm(shifted, axis=1)
    with np.load(out) as file:
        np.testing.assert_allclose(file["map"], shifted @ shifted.T / np.outer(lengths, lengths), atol=1e-12)
        assert 7 not in file["checkpoint"]
        assert int(file["relative_to"]) == 7


def test_npz_says_which_checkpoints_were_norm_only(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    assert trajmon("export", "switched", "--start", "15", "--stop", "40", "--out", str(out)).exit_code == 0
    with np.load(out) as file:
        assert file["mode"].dtype == np.uint8
        np.testing.assert_array_equal(file["mode"], served.runs["switched"].mode[15:40])


def test_kernel_and_range_reach_the_server(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    arguments = [
        "--kernel",
        "rbf",
        "--start",
        "10",
        "--stop",
        "14",
        "--include-superseded",
        "--out",
        str(out),
    ]
    assert trajmon("export", "resnet20", *arguments).exit_code == 0
    points = served.runs["resnet20"].points[10:14]
    lengths = np.linalg.norm(points, axis=1)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["checkpoint"], [10, 11, 12, 13])
        expected = np.exp(points @ points.T / np.outer(lengths, lengths) - 1)
        np.testing.assert_allclose(file["map"], expected, atol=1e-12)
        assert str(file["kernel"]) == "rbf"


def test_csv_reads_back_to_the_last_bit_with_gaps_where_undefined(
    trajmon: Trajmon, served: Any, tmp_path: Path
) -> None:
    out, arrays = tmp_path / "map.csv", tmp_path / "map.npz"
    assert trajmon("export", "holes", "--out", str(out)).exit_code == 0
    assert trajmon("export", "holes", "--out", str(arrays)).exit_code == 0
    with out.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["checkpoint", "step", *map(str, range(60))]
    assert [row[:2] for row in rows] == [[str(i), str(100 * i)] for i in range(60)]
    entries = np.array([[float(cell) if cell else np.nan for cell in row[2:]] for row in rows])
    with np.load(arrays) as known:
        np.testing.assert_array_equal(entries, known["map"])
    assert np.isnan(entries[17]).all()


@pytest.mark.parametrize("run", ["resnet20", "single", "holes", "undefined", "frozen", "long", "switched"])
@pytest.mark.parametrize("scale", ["fixed", "fitted"])
def test_png_is_a_picture(trajmon: Trajmon, run: str, scale: str, tmp_path: Path) -> None:
    out = tmp_path / "MAP.PNG"
    assert trajmon("export", run, "--scale", scale, "--low", "0.2", "--out", str(out)).exit_code == 0
    picture = matplotlib.image.imread(out)
    assert picture.shape == (800, 920, 4)
    # Not an empty sheet: axes, labels and map have many colours.
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 20


def test_an_old_file_is_replaced_and_nothing_else_is_left(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    out.write_bytes(b"old")
    assert trajmon("export", "five", "--out", str(out)).exit_code == 0
    with np.load(out) as file:
        assert file["map"].shape == (5, 5)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["map.npz"]


@pytest.mark.parametrize("name", ["map.pdf", "map", "map.npz.gz"])
def test_unsupported_suffix(trajmon: Trajmon, name: str, tmp_path: Path) -> None:
    result = trajmon("export", "five", "--out", str(tmp_path / name))
    assert result.exit_code == 2
    assert f"'{name}' does not end in one of .npz, .csv, .png" in result.stderr
    assert not (tmp_path / name).exists()


def test_relative_to_out_of_range(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    result = trajmon("export", "five", "--relative-to", "5", "--out", str(out))
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: request is not valid; relative_to: checkpoint 5 is not among those of the map (0 to 4)\n"
    )
    assert not out.exists()


@pytest.mark.parametrize("value", ["-1", "x", "1.5", str(2**63)])
def test_relative_to_that_is_no_checkpoint_number(trajmon: Trajmon, value: str) -> None:
    result = trajmon("export", "five", "--relative-to", value, "--out", "x.npz")
    assert result.exit_code == 2
    assert f"'{value}' is not the number of a checkpoint; they count from 0" in result.stderr


def test_unknown_kernel(trajmon: Trajmon) -> None:
    result = trajmon("export", "five", "--kernel", "cubic", "--out", "x.npz")
    assert result.exit_code == 2
    assert "'cubic' is not one of 'linear', 'rbf', 'polynomial'" in result.stderr


def test_no_folder(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "map.npz"
    result = trajmon("export", "five", "--out", str(out))
    assert result.exit_code == 1
    assert result.stderr == f"Error: cannot write {out}: there is no folder {out.parent}; create it first\n"


def test_out_is_a_folder(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    out.mkdir()
    result = trajmon("export", "five", "--out", str(out))
    assert result.exit_code == 1
    assert result.stderr == f"Error: cannot write {out}: it is a folder; name a file in it\n"


def test_a_folder_that_takes_no_files(trajmon: Trajmon) -> None:
    result = trajmon("export", "five", "--out", "/proc/map.npz")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot write /proc/map.npz: ")
    assert result.stderr.endswith("; nothing was left there\n")


@pytest.mark.parametrize("arguments", [["empty"], ["resnet20", "--start", "60"]])
def test_nothing_to_export(trajmon: Trajmon, arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "map.npz"
    result = trajmon("export", *arguments, "--out", str(out))
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: run {arguments[0]} has no checkpoints to export here: record some, or widen --start and --stop\n"
    )
    assert not out.exists()
