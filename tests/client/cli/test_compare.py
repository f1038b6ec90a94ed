"""`trajmon compare`: several runs side by side, on the terminal, as JSON, as a picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import Result
from matplotlib.axes import Axes

from trajmon.cli import COMMANDS
from trajmon.cli.picture import make_picture
from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB, Scale, choose_scale
from trajmon.plot.common_scale import common_scale
from trajmon.plot.compare import Compared, compare_figure
from trajmon.plot.curves import number_with_error
from trajmon.query import MapResult

Trajmon = Callable[..., Result]
EVIL = "\x1b[31m[bold]evil[/bold]\nsecond line"


def wide(columns: int) -> dict[str, str]:
    return {"COLUMNS": str(columns)}


def test_it_is_listed_and_has_help(trajmon: Trajmon) -> None:
    assert COMMANDS["compare"].summary in trajmon("--help").output
    assert trajmon("compare", "--help").output.startswith("Usage: main compare [OPTIONS] RUN RUN [RUN]...")


@pytest.mark.parametrize("width", [40, 60, 80, 110, 160, 240])
@pytest.mark.parametrize(
    "runs",
    [
        ("resnet20", "five"),
        ("single", "holes", "long"),
        ("undefined", "frozen"),
        ("resnet20", "holes", "five", "long", "switched", "alternating", "parts", EVIL),
    ],
)
def test_it_fits_the_width(trajmon: Trajmon, runs: tuple[str, ...], width: int) -> None:
    result = trajmon("compare", *runs, env=wide(width))
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.output.splitlines())) <= width
    assert "\x1b" not in result.output


def test_maps_stand_side_by_side_with_their_means(trajmon: Trajmon, served: Any) -> None:
    lines = trajmon("compare", "resnet20", "five", env=wide(100)).output.splitlines()
    means = [served.runs[name].hallmarks()["mds"][-1] for name in ("resnet20", "five")]
    assert lines[0] == "trajectory maps of network, one colour scale"
    assert lines[3].split() == ["resnet20", "five"]
    assert lines[4].split() == ["MDS", f"{means[0]:.4g}", "MDS", f"{means[1]:.4g}"]
    # Both maps begin on the line below, each dark at its own corner.
    left, right = lines[5][:50], lines[5][50:]
    assert "@" in left
    assert "@" in right


def test_equal_shades_mean_equal_entries(trajmon: Trajmon, served: Any) -> None:
    """The shade of the entry (0, 4) of `five`: alone the least of its map, beside `resnet20` it is not."""
    alone = trajmon("show", "five", env=wide(100)).output
    assert any(line.startswith(" 0-") and line.rstrip().endswith(".") for line in alone.splitlines())
    beside = trajmon("compare", "resnet20", "five", env=wide(100)).output.splitlines()
    key = next(line for line in beside if line.startswith("cosine similarity"))
    low = min(_least(served.runs[name].gram) for name in ("resnet20", "five"))
    assert key == f"cosine similarity {low:.2f} .:-=+*%#@ 1.00"
    row = next(line for line in beside if line[50:].lstrip().startswith("0-"))
    entry = _cosine(served.runs["five"].points, 0, 4)
    shade = ".:-=+*%#@"[min(int(9 * (entry - low) / (1 - low)), 8)]
    assert row.rstrip()[-1] == shade != "."


def _least(gram: Any) -> float:
    lengths = np.sqrt(np.diag(gram))
    return float((gram / np.outer(lengths, lengths)).min())


def _cosine(points: Any, i: int, j: int) -> float:
    return float(points[i] @ points[j] / np.linalg.norm(points[i]) / np.linalg.norm(points[j]))


def table_of(output: str) -> dict[str, list[str]]:
    """The rows of the table by their headings."""
    known = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        if len(cells) > 1:
            known[cells[0]] = cells[1:]
    return known


def test_the_table_holds_the_latest_hallmarks(trajmon: Trajmon, served: Any) -> None:
    rows = table_of(trajmon("compare", "resnet20", "five", env=wide(100)).output)
    known = [served.runs[name].hallmarks() for name in ("resnet20", "five")]
    assert rows["checkpoints"] == ["60", "5"]
    assert rows["last step"] == ["5900", "400"]
    for heading, name in {
        "MDS": "mds",
        "relative MDS": "relative_mds",
        "update angle (degrees)": "update_angle_degrees",
        "norm": "parameter_norm",
        "norm of update": "update_norm",
    }.items():
        assert rows[heading] == [f"{hallmarks[name][-1]:.4g}" for hallmarks in known], heading
    assert rows["angle at start (degrees)"] == ["undefined", "undefined"]
    assert rows["advice"] == ["explore", "explore"]


def test_runs_of_different_lengths_are_compared_over_equally_many(trajmon: Trajmon, served: Any) -> None:
    result = trajmon("compare", "resnet20", "five", env=wide(100))
    rows = table_of(result.output)
    for heading, name in {"MDS, first 5": "mds", "relative MDS, first 5": "relative_mds"}.items():
        known = [served.runs[run].hallmarks()[name][4] for run in ("resnet20", "five")]
        assert rows[heading] == [f"{value:.4g}" for value in known]
    assert "The runs have 5 to 60 checkpoints" in " ".join(result.output.split())
    even = trajmon("compare", "resnet20", "switched", env=wide(100)).output
    assert "first" not in even


def test_json_says_the_same_in_full(trajmon: Trajmon, served: Any) -> None:
    result = trajmon("compare", "resnet20", "five", "--json")
    value = json.loads(result.stdout)
    assert (value["scope"], value["relative_to"], value["common_checkpoints"]) == ("network", None, 5)
    assert value["scale"]["high"] == 1.0
    for side, name in zip(value["runs"], ("resnet20", "five"), strict=True):
        hallmarks = served.runs[name].hallmarks()
        assert side["run"]["name"] == name
        assert side["mean"] == pytest.approx(hallmarks["mds"][-1], rel=1e-13)
        assert side["mean_error"] == 0.0
        assert side["errors"] == {}
        assert side["hallmarks"]["mds"] == hallmarks["mds"][-1]
        assert side["hallmarks_at_common"]["mds"] == hallmarks["mds"][4]
        assert side["hallmarks_at_common"]["checkpoint"] == 4
        assert side["hallmarks"]["apex_angle_initialization_degrees"] is None


def test_scope_and_relative_maps_reach_the_server(trajmon: Trajmon, served: Any) -> None:
    arguments = ("compare", "resnet20", "five", "--scope", "group:norm", "--relative-to", "2")
    value = json.loads(trajmon(*arguments, "--json").stdout)
    for side, name in zip(value["runs"], ("resnet20", "five"), strict=True):
        assert side["mean"] == pytest.approx(served.runs[name].relative_map(2)[1].mean(), rel=1e-12)
    assert value["scale"]["low"] == pytest.approx(
        min(served.runs[name].relative_map(2)[1].min() for name in ("resnet20", "five"))
    )
    output = trajmon(*arguments, env=wide(120)).output
    assert "trajectory maps of group:norm, one colour scale" in output
    assert "relative MDS (about checkpoint 2)" in output


def test_undefined_is_a_word_and_a_sign(trajmon: Trajmon) -> None:
    output = trajmon("compare", "undefined", "frozen", env=wide(80)).output
    assert "MDS undefined" in output
    assert "? undefined" in output
    assert json.loads(trajmon("compare", "undefined", "frozen", "--json").stdout)["runs"][0]["mean"] is None


@pytest.mark.parametrize("suffix", [".png", ".svg", ".SVG"])
def test_a_picture_is_written(trajmon: Trajmon, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"runs{suffix}"
    result = trajmon("compare", "resnet20", "holes", "switched", "--out", str(out))
    assert result.output.endswith(f"wrote {out}\n")
    if suffix == ".png":
        pixels = (255 * matplotlib.image.imread(out)[..., :3]).round().astype(int)
        for color in (UNDEFINED_RGB, SWITCH_RGB):
            assert (abs(pixels - color).max(axis=-1) <= 1).any()
        return
    assert ET.parse(out).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    first = out.read_bytes()
    assert trajmon("compare", "resnet20", "holes", "switched", "--out", str(out)).exit_code == 0
    assert out.read_bytes() == first


def test_with_json_only_json_goes_to_stdout(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "runs.png"
    result = trajmon("compare", "resnet20", "five", "--json", "--out", str(out))
    assert len(json.loads(result.stdout)["runs"]) == 2
    assert result.stderr == f"wrote {out}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("resnet20",), 2, "name two runs or more; `trajmon show` shows one"),
        ((), 2, "Missing argument"),
        (("resnet20", "absent"), 1, "no run named 'absent'; `trajmon runs` lists what there is"),
        (("resnet20", "empty"), 1, "run empty has no checkpoints yet: there is nothing to compare"),
        (("five", "resnet20", "five"), 1, "run five is named twice; compare it with another one"),
        (("resnet20", "five", "--scope", "group:absent"), 1, "there is no scope 'group:absent'"),
        (("resnet20", "five", "--relative-to", "5"), 1, "checkpoint 5 is not among those of the map"),
        (("resnet20", "five", "--relative-to", "-1"), 2, "is not the number of a checkpoint"),
        (("resnet20", "five", "--out", "runs.npz"), 2, "'runs.npz' does not end in one of .png, .svg"),
        (("resnet20", "five", "--out", "absent/runs.png"), 1, "there is no folder"),
        (("resnet20", "five", "--server", "nowhere"), 2, "is not HOST:PORT"),
        (("resnet20", "five", "--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1"),
    ],
)
def test_wrong_calls_end_in_one_line(
    trajmon: Trajmon, arguments: tuple[str, ...], code: int, text: str
) -> None:
    result = trajmon("compare", *arguments)
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_one_run_by_name_and_by_id_is_still_one(trajmon: Trajmon, served: Any) -> None:
    run_id = served.runs["five"].summary().run_id
    result = trajmon("compare", "five", run_id)
    assert "run five is named twice" in result.stderr


def test_names_from_outside_are_printed_letter_by_letter(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "runs.svg"
    result = trajmon("compare", EVIL, "resnet20", "--out", str(out), env=wide(200))
    assert "[31m[bold]evil[/bold] second line" in result.output
    assert ET.parse(out).getroot() is not None


def map_of(entries: Any, error: float = 0.0) -> MapResult:
    """A map whose every entry has the standard error."""
    numbers = np.arange(len(entries))
    errors = np.full_like(entries, error) if error else None
    mode = np.zeros(len(entries), np.uint8)
    return MapResult(entries, entries, numbers, numbers, mode, "network", error=errors, gram_error=errors)


def compared(name: str, entries: Any, error: float = 0.0, **hallmarks: Any) -> Compared:
    result = map_of(np.array(entries, dtype=np.float64), error)
    hallmarks = {"checkpoint": np.arange(len(entries), dtype=np.float64), **hallmarks}
    return Compared(make_picture(name, result, False, None), hallmarks)


def texts(figure: Any) -> list[str]:
    figure.canvas.draw()
    return [found.get_text() for found in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_the_figure_says_means_with_their_errors() -> None:
    two = [[1.0, 0.5], [0.5, 1.0]]
    found = texts(
        compare_figure(
            [compared("a", two), compared("b_$x$", two, 0.0021), compared("c", [[np.nan]])], Scale(0, 1)
        )
    )
    assert {"a\nω = 0.750", "b_$x$\nω = 0.7500 ± 0.0021", "c\nω = undefined"} <= set(found)
    assert "undefined" in found


def test_all_maps_of_a_figure_share_one_scale() -> None:
    two = [[1.0, 0.5], [0.5, 1.0]]
    figure = compare_figure([compared(str(i), two) for i in range(5)], Scale(0.25, 1.0))
    images = figure.findobj(matplotlib.image.AxesImage)
    assert len(images) == 5
    assert {image.get_clim() for image in images} == {(0.25, 1.0)}


def test_curves_are_drawn_over_each_other_with_bands_where_estimated() -> None:
    curve = np.array([1.0, 0.8, 0.7])
    exact, estimated = (compared(name, np.eye(3), mds=curve) for name in ("exact", "_estimated"))
    estimated = replace(estimated, errors={"mds": np.array([0.0, 0.1, 0.1])})
    figure = compare_figure([exact, estimated], Scale(0, 1))
    panel = next(a for a in figure.findobj(Axes) if a.get_title("left").startswith("mean directional"))
    assert [np.asarray(line.get_ydata()).tolist() for line in panel.get_lines()] == [curve.tolist()] * 2
    (band,) = panel.collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.6, 1.0))
    # A name that begins with an underscore has its place in the legend too.
    assert "\u200b_estimated" in texts(figure)


def test_a_figure_of_maps_without_entries_is_drawn() -> None:
    empty = compared("none", np.empty((0, 0)))
    assert texts(compare_figure([empty, empty], Scale(0, 1))).count("no checkpoints") == 2


def test_one_scale_holds_all_and_the_undefined_have_no_say() -> None:
    high = np.array([[1.0, 0.9], [0.9, 1.0]])
    low = np.array([[1.0, -0.2], [-0.2, 1.0]])
    nothing = np.full((2, 2), np.nan)
    assert common_scale([high, nothing]) == choose_scale(high)
    assert common_scale([high, low, nothing]) == Scale(-0.2, 1.0)
    assert common_scale([high, low], "fitted") == Scale(-0.2, 0.9)
    assert common_scale([high, low], "fixed", 0.5) == Scale(0.5, 1.0)
    assert common_scale([nothing]) == common_scale([]) == Scale(0.0, 1.0)


def test_means_and_hallmarks_carry_their_standard_errors(
    trajmon: Trajmon, served: Any, tmp_path: Path
) -> None:
    run = served.runs["sketched"]
    mean, error = run.hallmarks()["mds"][-1], run.error.mean()
    result = trajmon("compare", "sketched", "five", env=wide(120))
    words = number_with_error(mean, error)
    assert " ± " in words
    assert f"MDS {words}" in result.output
    assert table_of(result.output)["MDS"][0] == words
    assert "12 of 60 checkpoints rest on estimates" in result.output
    value = json.loads(trajmon("compare", "sketched", "five", "--json").stdout)
    sketched, five = value["runs"]
    assert sketched["mean_error"] == pytest.approx(error, rel=1e-12)
    assert sketched["errors"] == {"mds": pytest.approx(error, rel=1e-12)}
    # Its first five checkpoints are exact.
    assert sketched["errors_at_common"] == {"mds": 0.0}
    assert (five["mean_error"], five["errors"]) == (0.0, {})
    assert trajmon("compare", "sketched", "five", "--out", str(tmp_path / "a.svg")).exit_code == 0
