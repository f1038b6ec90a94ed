"""The run's Zarr store over HTTP: xarray reads from it what the export holds, and nothing else can be had."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from support.calls import get_map, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web


@pytest.fixture
def web(shared_server: ServerProcess, team_client: Client) -> Web:
    token = str(team_client.metadata[0][1]).removeprefix("Bearer ")
    return Web(shared_server.addresses["http"], token)


def open_store(web: Web, run: str) -> xr.Dataset:
    opened: xr.Dataset = xr.open_zarr(
        f"http://{web.address}/api/v1/runs/{run}/zarr",
        storage_options={"headers": {"Authorization": f"Bearer {web.token}"}},
    )
    return opened


def symmetric(lower: np.ndarray) -> np.ndarray:
    whole: np.ndarray = np.tril(lower) + np.tril(lower, -1).T
    return whole


def test_xarray_reads_what_the_server_exports(web: Web, team_client: Client) -> None:
    run = SyntheticRun("zarr", num_checkpoints=75)
    epoch = push_all(team_client, run, 70)
    for stop in (70, 75):
        if stop == 75:
            for checkpoint in range(70, 75):
                push(team_client, run, epoch, run.record(checkpoint))
        expected = get_map(team_client, "zarr", "network")  # once it answers, its rows are published
        with open_store(web, "zarr") as store:
            assert store.sizes["checkpoint"] == stop
            joined = store.group_gram.fillna(store.group_gram_tail).sel(group="network").values
            np.testing.assert_array_equal(symmetric(joined), expected["gram"])
            np.testing.assert_array_equal(store.step.values, expected["step"])
            layer = store.gram.fillna(store.gram_tail).sel(layer="layer1.weight").values
            exact = get_map(team_client, "zarr", "layer:layer1.weight")["gram"]
            np.testing.assert_array_equal(symmetric(layer), exact)
            assert store.attrs["run_name"] == "zarr"


def test_xarray_equals_the_folder_itself(web: Web, team_client: Client, shared_server: ServerProcess) -> None:
    run = SyntheticRun("folder", num_checkpoints=20)
    push_all(team_client, run)
    get_map(team_client, "folder")
    path = shared_server.data_dir / "maps" / f"{run.run_id}.zarr"
    with open_store(web, "folder") as over_http, xr.open_zarr(path) as in_folder:
        xr.testing.assert_identical(over_http.load(), in_folder.load())


def test_xarray_without_a_token(web: Web, team_client: Client) -> None:
    push_all(team_client, SyntheticRun("closed"))
    with pytest.raises(Exception, match="401"):
        open_store(Web(web.address, "wrong"), "closed")


def test_ranges(web: Web, team_client: Client, shared_server: ServerProcess) -> None:
    run = SyntheticRun("ranges", num_checkpoints=3)
    push_all(team_client, run)
    get_map(team_client, "ranges")
    path = "/api/v1/runs/ranges/zarr/step/c.0"
    whole = (shared_server.data_dir / "maps" / f"{run.run_id}.zarr" / "step" / "c.0").read_bytes()
    answer = web.get(path)
    assert (answer.status, answer.body, answer.headers["accept-ranges"]) == (200, whole, "bytes")
    size = len(whole)
    for wanted, expected in {
        "bytes=0-7": whole[:8],
        "bytes=8-": whole[8:],
        "bytes=-4": whole[-4:],
        f"bytes=-{size + 9}": whole,
        f"bytes={size - 1}-{size + 9}": whole[-1:],
    }.items():
        answer = web.get(path, Range=wanted)
        assert (answer.status, answer.body) == (206, expected), wanted
        start = size - len(expected) if wanted.startswith("bytes=-") else int(wanted[6:].partition("-")[0])
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{size}"
        assert answer.headers["content-length"] == str(len(expected))
        head = web.get(path, "HEAD", Range=wanted)
        assert (head.status, head.body, head.headers["content-length"]) == (206, b"", str(len(expected)))
    for wanted in ("bytes=0-1,4-5", "lines=0-1", "bytes=5-2", "bytes=-", "bytes=x-1", ""):
        assert web.get(path, Range=wanted).body == whole, wanted
    for wanted in (f"bytes={size}-", "bytes=-0"):
        answer = web.get(path, Range=wanted)
        assert (answer.status, answer.reason) == (416, "RANGE_NOT_SATISFIABLE")
        assert answer.headers["content-range"] == f"bytes */{size}"
    assert web.get(path, "HEAD").headers["content-length"] == str(size)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "step",
        "step/",
        "step/c.1",
        ".zgroup",
        ".zmetadata",
        "step/c.0/",
        "step//c.0",
        "/etc/passwd",
        "..",
        "%2e%2e/x",
        "..%2f..%2fserver.lock",
        "step/..%2f..%2f..%2fserver.lock",
        "%2e%2e%2f%2e%2e%2fserver.lock",
        "%252e%252e%252fserver.lock",
        "..%5c..%5cserver.lock",
        "zarr.json%00",
        "zarr.json/x",
        "gram/" + "c" * 300,
        "x" * 5000,
        "%ff",
        "leak",
        "leak_folder/server.lock",
        "pipe",
    ],
)
def test_nothing_else_can_be_had(
    web: Web, team_client: Client, shared_server: ServerProcess, path: str, tmp_path: Path
) -> None:
    run = SyntheticRun("escape", num_checkpoints=2)
    push_all(team_client, run)
    get_map(team_client, "escape")
    store = shared_server.data_dir / "maps" / f"{run.run_id}.zarr"
    (store / "leak").symlink_to(shared_server.home / "token")
    (store / "leak_folder").symlink_to(shared_server.data_dir)
    os.mkfifo(store / "pipe")
    answer = web.get(f"/api/v1/runs/escape/zarr/{path}")
    assert answer.status == 404
    assert answer.reason in ("NO_SUCH_FILE", "NO_SUCH_PATH")
    assert shared_server.token not in answer.text
    assert str(shared_server.data_dir) not in answer.text


def test_another_teams_store(web: Web, team_client: Client, shared_server: ServerProcess) -> None:
    run = SyntheticRun("mine", num_checkpoints=2)
    push_all(team_client, run)
    other = Web(web.address, shared_server.token)
    for name in ("mine", run.run_id):
        assert other.get(f"/api/v1/runs/{name}/zarr/zarr.json").reason == "NO_SUCH_RUN"
