"""`trajmon.open_run`: the same numbers from a server and from its files, those of the parameters themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import trajmon
from support.calls import open_run, push
from support.server import Client
from trajmon.errors import TrajmonError
from trajmon.reading.errors import NotAvailableError
from trajmon.reading.stored import HALLMARKS
from trajmon.reading.view import RunView

Open = Callable[[str], RunView]
SCOPES = ["network", "group:first", "layer:layer1.weight"]
PATH = [0, 1, 2, 6, 7, 8]


def cosines(points: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: NDArray[np.float64] = unit @ unit.T
    return product


@pytest.mark.parametrize("scope", SCOPES)
def test_map_is_that_of_the_parameters(read: Open, house: Any, scope: str) -> None:
    found = read("long").map(scope)
    points = house.points("long", list(range(70)), scope)
    np.testing.assert_allclose(found, cosines(points), atol=1e-12)
    assert found.dims == ("checkpoint", "checkpoint_j")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.checkpoint, np.arange(70))
    np.testing.assert_array_equal(found.checkpoint_j, np.arange(70))
    np.testing.assert_array_equal(found.step, 10 * np.arange(70))
    np.testing.assert_array_equal(found.step_j, 10 * np.arange(70))
    assert found.attrs["mds"] == pytest.approx(cosines(points).mean(), rel=1e-12)
    wanted = {"run": "long", "scope": scope, "relative_to": "origin", "kernel": "linear"}
    assert wanted.items() <= found.attrs.items()
    # Exact entries have no standard errors.
    assert "standard_error" not in found.coords


@pytest.mark.parametrize("tau", [0, 4, 69])
@pytest.mark.parametrize("scope", SCOPES)
def test_relative_map_leaves_its_checkpoint_out(read: Open, house: Any, scope: str, tau: int) -> None:
    found = read("long").map(scope, relative_to=tau)
    points = house.points("long", list(range(70)), scope)
    expected = cosines(np.delete(points - points[tau], tau, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-11)
    np.testing.assert_array_equal(found.checkpoint, np.delete(np.arange(70), tau))
    assert found.attrs["relative_to"] == tau
    assert found.attrs["relative_mds"] == pytest.approx(expected.mean(), abs=1e-11)
    assert "mds" not in found.attrs


@pytest.mark.parametrize("scope", SCOPES)
def test_gram_is_symmetric_and_that_of_the_parameters(read: Open, house: Any, scope: str) -> None:
    found = read("long").gram(scope)
    points = house.points("long", list(range(70)), scope)
    np.testing.assert_allclose(found, points @ points.T, rtol=1e-12)
    np.testing.assert_array_equal(found, found.values.T)


def test_a_range_of_a_map(read: Open, house: Any) -> None:
    found = read("long").map(start=10, stop=14)
    np.testing.assert_array_equal(found.checkpoint, [10, 11, 12, 13])
    np.testing.assert_allclose(found, cosines(house.points("long", [10, 11, 12, 13])), atol=1e-12)


def test_relative_to_the_first_of_a_range_is_about_that_checkpoint(from_files: Open, house: Any) -> None:
    points = house.points("long", list(range(20, 30)))
    found = from_files("long").map(relative_to=20, start=20, stop=30)
    np.testing.assert_allclose(found, cosines(points[1:] - points[0]), atol=1e-11)


def test_superseded_checkpoints_are_left_out_unless_asked_for(read: Open, house: Any) -> None:
    view = read("resumed")
    np.testing.assert_array_equal(view.map().checkpoint, PATH)
    np.testing.assert_allclose(view.map(), cosines(house.points("resumed", PATH)), atol=1e-12)
    everything = view.map(include_superseded=True)
    np.testing.assert_array_equal(everything.checkpoint, np.arange(9))
    np.testing.assert_array_equal(view.hallmarks().checkpoint, PATH)
    np.testing.assert_array_equal(view.checkpoints.checkpoint, PATH)
    assert view.summary.attrs["num_superseded"] == 3


def test_hallmarks_are_those_of_the_parameters(read: Open, house: Any) -> None:
    found = read("resumed").hallmarks()
    points = house.points("resumed", PATH)
    steps = np.diff(points, axis=0)
    moved = points - points[0]
    means = [cosines(points[: i + 1]).mean() for i in range(6)]
    np.testing.assert_allclose(found.mds, means, rtol=1e-12)
    relative = [np.nan, *(cosines(moved[1 : i + 1]).mean() for i in range(1, 6))]
    np.testing.assert_allclose(found.relative_mds, relative, atol=1e-11)
    np.testing.assert_allclose(found.parameter_norm, np.linalg.norm(points, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.distance_from_initialization, np.linalg.norm(moved, axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.update_norm, [np.nan, *np.linalg.norm(steps, axis=1)], rtol=1e-9)
    between = np.degrees(np.arccos(np.diag(cosines(steps), 1)))
    np.testing.assert_allclose(found.update_angle_degrees, [np.nan, np.nan, *between], rtol=1e-9)
    at_start = np.degrees(np.arccos(np.clip(cosines(moved[1:])[0], -1, 1)))
    np.testing.assert_allclose(found.apex_angle_initialization_degrees, [np.nan, *at_start], atol=1e-5)
    at_origin = np.degrees(np.arccos(np.clip(cosines(points)[0], -1, 1)))
    np.testing.assert_allclose(found.apex_angle_origin_degrees, at_origin, atol=1e-5)
    assert found.update_angle_degrees.attrs["units"] == "degrees"
    assert found.mds.attrs["long_name"] == "mean directional similarity"


@pytest.mark.parametrize("run", ["long", "resumed", "single", "empty"])
@pytest.mark.parametrize("scope", SCOPES)
def test_files_and_server_say_the_same(house: Any, from_files: Open, run: str, scope: str) -> None:
    with trajmon.open_run(run, server=house.address, home=house.server.home) as served:
        theirs, mine = served.hallmarks(scope), from_files(run).hallmarks(scope)
        for name in HALLMARKS:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-12, atol=1e-12, err_msg=name)
        assert set(mine.data_vars) == set(HALLMARKS)
        assert set(HALLMARKS) < set(theirs.data_vars)
        np.testing.assert_allclose(from_files(run).map(scope), served.map(scope), rtol=0, atol=1e-15)
        np.testing.assert_array_equal(from_files(run).gram(scope), served.gram(scope))


def test_layers_say_which_groups_hold_them(read: Open) -> None:
    found = read("long").layers
    assert found.layer.values.tolist() == ["layer0.weight", "layer1.weight", "layer2.weight"]
    assert found.member.sel(group="network").values.tolist() == [True, True, True]
    assert found.member.sel(group="first").values.tolist() == [True, False, False]
    assert read("long").scopes == ("network", "group:first", *(f"layer:layer{i}.weight" for i in range(3)))


def test_a_server_knows_more_of_layers_and_checkpoints(house: Any) -> None:
    with trajmon.open_run("long", server=house.address, home=house.server.home) as view:
        layers, checkpoints = view.layers, view.checkpoints
        assert layers.parameters.values.tolist() == [5, 5, 5]
        assert layers.dtype.values.tolist() == ["float64"] * 3
        np.testing.assert_allclose(checkpoints["metric:loss"], 1.0 / (1 + np.arange(70)))
        assert checkpoints.mode.values.tolist() == [0] * 70
        rbf = view.map(kernel="rbf")
        assert np.isfinite(rbf).all()
        assert "mean" in rbf.attrs
        assert rbf.attrs["long_name"] == "rbf similarity"


def test_checkpoints_carry_step_epoch_rate_and_time(read: Open, house: Any) -> None:
    found = read("long").checkpoints
    np.testing.assert_array_equal(found.step, 10 * np.arange(70))
    np.testing.assert_array_equal(found.epoch, np.arange(70))
    np.testing.assert_array_equal(found.learning_rate, np.full(70, 0.1))
    assert found.time.dtype == np.dtype("datetime64[ns]")
    seconds = found.time.values.astype("datetime64[us]").astype(np.int64) / 1e6
    np.testing.assert_array_equal(seconds, house.runs["long"].started + np.arange(70))


def test_summary_has_the_latest_hallmarks_of_every_group(read: Open) -> None:
    view = read("long")
    found = view.summary
    assert found.group.values.tolist() == ["network", "first"]
    for group in ("network", "first"):
        latest = view.hallmarks(f"group:{group}").isel(checkpoint=-1)
        for name in HALLMARKS:
            np.testing.assert_allclose(found[name].sel(group=group), latest[name], rtol=1e-9, err_msg=name)
    assert {"run": "long", "num_checkpoints": 70, "last_step": 690}.items() <= found.attrs.items()


def test_a_single_checkpoint_and_none(read: Open) -> None:
    single = read("single")
    assert single.map().values.tolist() == [[1.0]]
    assert single.hallmarks().mds.values.tolist() == [1.0]
    assert np.isnan(single.hallmarks().update_norm).all()
    assert single.map(relative_to=0).shape == (0, 0)
    empty = read("empty")
    assert empty.map().shape == (0, 0)
    assert np.isnan(empty.map().attrs["mds"])
    assert empty.hallmarks().sizes["checkpoint"] == 0
    assert empty.checkpoints.sizes["checkpoint"] == 0
    assert empty.summary.attrs["last_step"] == -1


def test_a_live_run_grows_under_the_view(read: Open, house: Any) -> None:
    view = read("live")
    before = view.map().sizes["checkpoint"]
    run = house.runs["live"]
    with Client(house.address, house.server.token) as client:
        epoch = open_run(client, run).writer_epoch
        push(client, run, epoch, run.record(before))
        with trajmon.open_run("live", server=house.address, home=house.server.home) as served:
            assert served.map().sizes["checkpoint"] == before + 1
    numbers = list(range(before + 1))
    np.testing.assert_allclose(view.map(), cosines(house.points("live", numbers)), atol=1e-12)


def test_a_run_is_found_by_its_id_too(read: Open, house: Any) -> None:
    view = read(house.runs["long"].run_id)
    assert (view.name, view.run_id) == ("long", house.runs["long"].run_id)
    assert repr(view).startswith("<trajmon run 'long' in ")


def test_other_kernels_need_a_server(from_files: Open) -> None:
    with pytest.raises(NotAvailableError, match="kernel 'rbf' cannot be had from a data directory"):
        from_files("long").map(kernel="rbf")


def test_what_files_lack_is_said(from_files: Open) -> None:
    view = from_files("long")
    assert "a server tells them" in view.hallmarks().attrs["not_available"]
    assert "advice" in view.summary.attrs["not_available"]


def test_what_is_read_can_be_stored(read: Open, tmp_path: Path) -> None:
    view = read("long")
    for name, found in {
        "map": view.map().to_dataset(),
        "hallmarks": view.hallmarks(),
        "s": view.summary,
    }.items():
        found.to_zarr(tmp_path / name, zarr_format=2)
        xr.testing.assert_identical(xr.open_zarr(tmp_path / name, chunks=None).load(), found)


def test_a_stopped_server_leaves_its_files_readable(copied: Path, house: Any) -> None:
    found = trajmon.open_run("long", data_dir=copied).map()
    np.testing.assert_allclose(found, cosines(house.points("long", list(range(70)))), atol=1e-12)
    # The folder of maps alone, copied from another machine, does as well.
    assert trajmon.open_run("long", data_dir=copied / "maps").name == "long"


def test_without_address_the_local_server_of_the_home_is_asked(house: Any) -> None:
    with trajmon.open_run("long", home=house.server.home) as view:
        assert view.summary.attrs["source"] == house.address


def test_the_environment_names_the_server(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJMON_SERVER", house.address)
    monkeypatch.setenv("TRAJMON_TOKEN", house.server.token)
    with trajmon.open_run("single") as view:
        assert view.summary.attrs["num_checkpoints"] == 1


def test_a_closed_view_gives_its_connection_up(house: Any) -> None:
    view = trajmon.open_run("single", server=house.address, home=house.server.home)
    view.close()
    with pytest.raises((ValueError, TrajmonError)):
        view.map()
