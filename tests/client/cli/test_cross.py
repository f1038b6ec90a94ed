"""`trajmon cross`: from snapshots on this machine, and what it refuses."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from click.testing import Result

from trajmon.cross import folders
from trajmon.numerics.layout import Dtype, Group, Layer, Layout
from trajmon.numerics.reference import pack
from trajmon.plot.cross_terminal import fit
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.chunks import Chunk, Shard
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore

Trajmon = Callable[..., Result]
EVIL = "\x1b[31m[bold]evil[/bold]\nsecond line"
SIZE = 40


def points(seed: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    start = np.random.default_rng(9).standard_normal(SIZE)
    steps = 0.3 * rng.standard_normal((count, SIZE))
    steps[:1] = 0.0
    return start + np.cumsum(steps, axis=0)


def record(
    home: Path,
    name: str,
    seed: int,
    count: int,
    dtype: Dtype = "float64",
    size: int = SIZE,
    shard: bool = False,
) -> SnapshotStore:
    """A run's folder as a training leaves it."""
    run_dir = RunDir.of(home, f"{name}~{'0' * 8}~00000" if shard else name)
    run_dir.create()
    layout = Layout((Layer("w", (size,), dtype),), (Group("network", (0,)), Group("own", (0,))))
    part = Shard(0, 1, "0" * 32, 0, (Chunk(0, (size,), (0,), (size,)),)) if shard else None
    run_id = name.encode().hex().ljust(32, "0")[:32]
    RunDescription(run_id, name, (), layout, 0.0, part).write(run_dir)
    store = SnapshotStore(run_dir.snapshots, layout.fingerprint, layout.nbytes, writer="test")
    for number, values in enumerate(points(seed, count)):
        header = SnapshotHeader(number, 1, 10 * number, layout.fingerprint, number - 1 if number else None)
        store.write(number, header, pack(layout, [np.resize(values, size)]).data, durable=False)
    return store


@pytest.fixture
def recorded(home: Path) -> Path:
    record(home, "a", 1, 9)
    record(home, "b", 2, 6, "float32")
    return home


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_exact_map_on_the_terminal(trajmon: Trajmon, width: int) -> None:
    result = trajmon("cross", "a", "b", "--exact", env={"COLUMNS": str(width)})
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.output.splitlines()
    assert lines[0] == "a, 9 checkpoints, against b, 6"
    assert lines[1] == "network; exact, from the snapshots on this machine"
    assert max(map(len, lines)) <= width
    assert "±" not in result.output
    a, b = points(1, 9), points(2, 6).astype(np.float32).astype(np.float64)
    cosine = a[8] @ b[5] / np.linalg.norm(a[8]) / np.linalg.norm(b[5])
    expected = f"last checkpoints, 8 and 5: cosine {cosine:.4g}, distance {np.linalg.norm(a[8] - b[5]):.4g}"
    assert expected in " ".join(result.output.split())


@pytest.mark.usefixtures("recorded")
def test_json_says_everything_but_the_map(trajmon: Trajmon) -> None:
    value = json.loads(trajmon("cross", "a", "b", "--exact", "--json", "--from-initialization").output)
    a, b = points(1, 9), points(2, 6).astype(np.float32).astype(np.float64)
    a, b = a - a[0], b - b[0]
    distances = np.linalg.norm(a[:, None] - b[None, :], axis=2)
    assert (value["run"], value["other"], value["exact"], value["from_initialization"]) == (
        "a",
        "b",
        True,
        True,
    )
    assert value["same_number"]["checkpoint"] == list(range(6))
    np.testing.assert_allclose(
        value["same_number"]["distance"], np.diagonal(distances), rtol=1e-9, atol=1e-12
    )
    assert value["same_number"]["cosine"][0] is None
    assert value["nearest"]["other_checkpoint"] == distances.argmin(axis=1).tolist()
    np.testing.assert_allclose(value["nearest"]["distance"], distances.min(axis=1), rtol=1e-9, atol=1e-12)
    assert value["last"]["other_checkpoint"] == 5


@pytest.mark.usefixtures("recorded")
def test_files(trajmon: Trajmon, tmp_path: Path) -> None:
    for suffix in ("npz", "csv", "png", "svg"):
        result = trajmon("cross", "a", "b", "--exact", "--out", str(tmp_path / f"x.{suffix}"))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.output.endswith(f"wrote {tmp_path / f'x.{suffix}'}\n")
    with np.load(tmp_path / "x.npz") as file:
        assert file["map"].shape == (9, 6)
        assert file["error"].max() == 0.0
        table = file["map"]
        assert (str(file["run"]), str(file["other"])) == ("a", "b")
    with (tmp_path / "x.csv").open() as text:
        rows = list(csv.reader(text))
    assert rows[0] == ["checkpoint", "step", *map(str, range(6)), *(f"distance:{n}" for n in range(6))]
    np.testing.assert_array_equal(np.array([row[2:8] for row in rows[1:]], dtype=float), table)
    assert matplotlib.image.imread(tmp_path / "x.png").ndim == 3
    ET.parse(tmp_path / "x.svg")  # written a moment ago


def test_snapshots_that_are_not_there_are_counted(trajmon: Trajmon, recorded: Path) -> None:
    store = SnapshotStore(RunDir.of(recorded, "a").snapshots, "", SIZE * 8, writer="test")
    store.give_up(3)
    store.give_up(4)
    store.path(6).write_bytes(store.path(6).read_bytes()[:4200])
    output = " ".join(trajmon("cross", "a", "b", "--exact").output.split())
    assert "6 of 9 checkpoints of a are in the map: 2 were not kept, 1 cannot be read" in output


@pytest.mark.usefixtures("recorded")
def test_too_many_snapshots_are_left_out_evenly(trajmon: Trajmon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MOST_SNAPSHOTS", 5)
    value = json.loads(trajmon("cross", "a", "b", "--exact", "--json").output)
    assert value["checkpoint"] == [0, 2, 4, 6, 8]
    assert value["notes"][0].endswith("4 are left out evenly, as too many for one map")


def test_a_superseded_checkpoint_is_not_on_the_path(trajmon: Trajmon, recorded: Path) -> None:
    store = SnapshotStore(RunDir.of(recorded, "a").snapshots, "", SIZE * 8, writer="test")
    header = store.header(5)
    data = store.path(5).read_bytes()[-SIZE * 8 :]
    store.write(5, SnapshotHeader(5, 2, 25, header.fingerprint, previous=2), memoryview(data), durable=False)
    value = json.loads(trajmon("cross", "a", "b", "--exact", "--json").output)
    assert value["checkpoint"] == [0, 1, 2, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("wide", "layer 0 of run 'a' is 'w' (40,), of run 'wide' 'w' (41,)"),
        ("parts", "run 'parts' was recorded in parts, one for each rank"),
        ("empty", "run 'empty' has no snapshots on this machine"),
        ("gone", "of run 'gone' no snapshot is left on this machine: 1 of 1 were not kept"),
        ("broken", "cannot be read"),
        ("nowhere", "no run 'nowhere' was recorded on this machine"),
        ("../a", "'../a' is no name of a run"),
        ("a/../b", "is no name of a run"),
        (EVIL, "is no name of a run"),
        ("", "'' is no name of a run"),
        ("*", "is no name of a run"),
    ],
)
def test_what_cannot_be_compared(trajmon: Trajmon, recorded: Path, other: str, said: str) -> None:
    record(recorded, "wide", 1, 2, size=41)
    record(recorded, "parts", 1, 2, shard=True)
    record(recorded, "empty", 1, 0)
    record(recorded, "gone", 1, 1).give_up(0)
    record(recorded, "broken", 1, 1)
    RunDir.of(recorded, "broken").run_file.write_text("{")
    for pair in (("a", other), (other, "a")):
        result = trajmon("cross", *pair, "--exact")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "\x1b" not in result.output
        if pair[0] == "a":
            assert said in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a",), "Missing argument 'OTHER'"),
        (("a", "b", "--out", "x.txt"), "does not end in one of .npz, .csv, .png, .svg"),
        (("a", "b", "--exact", "--out", "/nowhere/x.npz"), "there is no folder /nowhere"),
        (("a", "b", "--exact", "--scope", "layer:x"), "run 'a' has no layer 'x'; it has: w"),
    ],
)
@pytest.mark.usefixtures("recorded")
def test_wrong_usage(trajmon: Trajmon, arguments: tuple[str, ...], said: str) -> None:
    result = trajmon("cross", *arguments)
    assert result.exit_code in (1, 2)
    assert said in result.output


@pytest.mark.parametrize(
    ("shape", "side", "pixels"),
    [((1, 1), 64, (8, 8)), ((30, 6), 60, (60, 12)), ((100, 50), 20, (20, 10)), ((1, 900), 60, (1, 60))],
)
def test_a_map_keeps_its_proportions(shape: tuple[int, int], side: int, pixels: tuple[int, int]) -> None:
    entries = np.full(shape, 0.25)
    entries[0, 0] = np.nan
    fitted = fit(entries, side)
    assert fitted.shape == pixels
    assert np.nanmax(fitted, initial=0.25) == 0.25
