"""Zarr stores and SVG pictures: whole or not at all, and what they hold."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import trajmon
from support.calls import push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon.cli.export_formats import check_store, write_picture, write_zarr
from trajmon.cli.picture import make_picture
from trajmon.cli.session import Problem
from trajmon.plot.figure import map_figure
from trajmon.query import MapResult, QueryClient


def map_result(t: int = 5, relative_to: int | None = None) -> MapResult:
    random = np.random.default_rng(t)
    points = random.standard_normal((t, 9))
    gram = points @ points.T
    lengths = np.sqrt(np.diag(gram))
    entries = gram / np.outer(lengths, lengths)
    if t > 2:
        entries[2] = entries[:, 2] = np.nan
    numbers = np.arange(t) + 3
    mode = (np.arange(t) > 3).astype(np.uint8)
    return MapResult(entries, gram, numbers, 100 * numbers, mode, "group:norm", relative_to)


@pytest.mark.parametrize("relative_to", [None, 2])
def test_a_store_reads_back_to_the_last_bit(tmp_path: Path, relative_to: int | None) -> None:
    out, result = tmp_path / "map.zarr", map_result(relative_to=relative_to)
    write_zarr(out, "resnet20", result)
    # Without a warning, and with its metadata in one read.
    with xr.open_zarr(out, chunks=None, consolidated=True) as store:
        np.testing.assert_array_equal(store["map"], result.map)
        np.testing.assert_array_equal(store["gram"], result.gram)
        np.testing.assert_array_equal(store["checkpoint"], result.checkpoint)
        np.testing.assert_array_equal(store["checkpoint_j"], result.checkpoint)
        np.testing.assert_array_equal(store["step"], result.step)
        np.testing.assert_array_equal(store["mode"], result.mode)
        assert (store["map"].dtype, store["mode"].dtype) == (np.float64, np.uint8)
        assert store["map"].dims == ("checkpoint", "checkpoint_j")
        about = "origin" if relative_to is None else relative_to
        wanted = {"run": "resnet20", "scope": "group:norm", "relative_to": about, "kernel": "linear"}
        assert wanted.items() <= store.attrs.items()
        assert store["gram"].attrs["relative_to"] == "origin"
        assert "error" not in store


def test_a_store_of_no_checkpoints(tmp_path: Path) -> None:
    write_zarr(tmp_path / "map.zarr", "empty", map_result(0))
    with xr.open_zarr(tmp_path / "map.zarr", chunks=None) as store:
        assert store["map"].shape == (0, 0)


def test_an_earlier_store_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    write_zarr(out, "a", map_result(7))
    check_store(out)
    write_zarr(out, "b", map_result(4))
    with xr.open_zarr(out, chunks=None) as store:
        assert (store.attrs["run"], store["map"].shape) == ("b", (4, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder", "folder with something"])
def test_what_is_no_store_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "map.zarr"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        if kind != "folder":
            (out / "precious").write_text("precious")
    with pytest.raises(Problem, match="something that is no Zarr store is there; name another path"):
        check_store(out)
    assert out.exists()


def test_no_folder_for_the_store(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"there is no folder .*absent; create it first"):
        check_store(tmp_path / "absent" / "map.zarr")


def test_a_store_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    # Zarr makes missing folders, but not one in a file.
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match=r"cannot write .*map\.zarr: .*; nothing was left there"):
        write_zarr(tmp_path / "file" / "map.zarr", "run", map_result())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_earlier_store(tmp_path: Path) -> None:
    """A file-size limit is what a full disk is like: chunks cannot be written to their end."""
    out = tmp_path / "map.zarr"
    write_zarr(out, "earlier", map_result(4))
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from trajmon.cli.export_formats import write_zarr\n"
        "from trajmon.query import MapResult\n"
        "from pathlib import Path\n"
        "import xarray, zarr, trajmon.reading.labels\n"
        "n = 600; a = np.random.default_rng(0).standard_normal((n, n)); k = np.arange(n)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: write_zarr(Path(sys.argv[1]), 'later', MapResult(a, a, k, k, k.astype(np.uint8), 'network'))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment,
    )
    assert answer.stdout.startswith("Problem cannot write"), answer.stdout + answer.stderr
    assert "File too large; nothing was left there" in answer.stdout
    with xr.open_zarr(out, chunks=None) as store:
        assert store.attrs["run"] == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


def test_standard_errors_stand_beside_what_they_are_of(tmp_path: Path) -> None:
    result = replace(map_result(4), error=np.full((4, 4), 0.25), gram_error=np.full((4, 4), 0.5))
    write_zarr(tmp_path / "map.zarr", "run", result)
    with xr.open_zarr(tmp_path / "map.zarr", chunks=None) as store:
        assert (store["error"].values == 0.25).all()
        assert (store["gram_error"].values == 0.5).all()
        assert store.attrs["mds_error"] == 0.25


def test_the_store_equals_what_is_read_from_the_server(monitor: ServerProcess, tmp_path: Path) -> None:
    run = SyntheticRun("exported", num_checkpoints=6)
    with Client(monitor.addresses["grpc"], monitor.token) as client:
        push_all(client, run)
    with QueryClient(monitor.addresses["grpc"], monitor.token) as reader:
        write_zarr(tmp_path / "map.zarr", "exported", reader.get_map("exported"))
    with (
        trajmon.open_run("exported", server=monitor.addresses["grpc"], home=monitor.home) as view,
        xr.open_zarr(tmp_path / "map.zarr", chunks=None) as store,
    ):
        xr.testing.assert_equal(store["map"].load(), view.map())
        xr.testing.assert_equal(store["gram"].load(), view.gram())


@pytest.mark.parametrize("name", ["map.svg", "map.SVG", "map.png"])
def test_a_picture_by_its_suffix(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    figure = map_figure(make_picture("a <b> & 'c'", map_result(), False, None))
    write_picture(out, figure)
    first = out.read_bytes()
    if name == "map.png":
        assert first.startswith(b"\x89PNG")
        return
    assert ET.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    write_picture(out, map_figure(make_picture("a <b> & 'c'", map_result(), False, None)))
    assert out.read_bytes() == first


def test_estimates_of_a_server_keep_their_standard_errors(served: Any, home: Path, tmp_path: Path) -> None:
    run = served.runs["sketched"]
    with trajmon.open_run("sketched", server=served.address, home=home) as view:
        entries, gram, hallmarks = view.map(), view.gram(), view.hallmarks()
    np.testing.assert_allclose(entries.standard_error, run.error, rtol=1e-12)
    np.testing.assert_array_equal(gram.standard_error, run.gram_error)
    assert entries.attrs["mds_error"] == pytest.approx(run.error.mean(), rel=1e-12)
    np.testing.assert_allclose(hallmarks.mds_error, run.hallmarks()["error:mds"], rtol=1e-12)
    with QueryClient(served.address, (home / "token").read_text().strip()) as reader:
        write_zarr(tmp_path / "map.zarr", "sketched", reader.get_map("sketched"))
    with xr.open_zarr(tmp_path / "map.zarr", chunks=None) as store:
        np.testing.assert_array_equal(store["error"], entries.standard_error)
        np.testing.assert_array_equal(store["gram_error"], gram.standard_error)
