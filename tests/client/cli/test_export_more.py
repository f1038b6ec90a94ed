"""`trajmon export` to Zarr and SVG, and as JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import Result

Trajmon = Callable[..., Result]


def test_a_store_holds_what_the_server_knows(trajmon: Trajmon, served: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    for run, count in (("five", 5), ("resnet20", 60)):
        result = trajmon("export", run, "--scope", "group:norm", "--out", str(out))
        assert result.output == f"wrote {out}: {count} checkpoints of group:norm\n"
        points = served.runs[run].points
        with xr.open_zarr(out, chunks=None) as store:
            np.testing.assert_array_equal(store["gram"], points @ points.T)
            assert store.attrs["scope"] == "group:norm"


def test_a_picture_as_svg(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "map.svg"
    assert trajmon("export", "holes", "--out", str(out)).exit_code == 0
    assert ET.parse(out).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("suffix", ["npz", "csv", "png", "svg", "zarr"])
def test_as_json(trajmon: Trajmon, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"map.{suffix}"
    result = trajmon("export", "sketched", "--out", str(out), "--json")
    assert json.loads(result.stdout) == {
        "file": str(out),
        "run": "sketched",
        "scope": "network",
        "checkpoints": 60,
        "estimated_checkpoints": 12,
    }
    assert out.exists()


def test_a_folder_that_is_no_store_is_left_alone(trajmon: Trajmon, tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    out.mkdir()
    result = trajmon("export", "resnet20", "--out", str(out))
    assert result.exit_code == 1
    assert "something that is no Zarr store is there; name another path" in result.stderr
    assert list(out.iterdir()) == []
