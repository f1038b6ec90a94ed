"""Maps, curves and layers over HTTP, against direct computations and what the query service says."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from support.calls import get_hallmarks, get_map, open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web, read_float32
from trajmon.cli import main
from trajmon_protos import record
from trajmon_protos.record import LayerStatus
from trajmon_protos.v1 import query_pb2


@pytest.fixture
def token(team_client: Client) -> str:
    return str(team_client.metadata[0][1]).removeprefix("Bearer ")


@pytest.fixture
def web(shared_server: ServerProcess, token: str) -> Web:
    return Web(shared_server.addresses["http"], token)


def as_array(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float64)  # None becomes NaN


def cosines(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: np.ndarray = unit @ unit.T
    return product


@pytest.mark.parametrize("scope", ["network", "group:first", "layer:layer1.weight"])
@pytest.mark.parametrize("relative_to", [None, 0, 4])
def test_map_in_json_and_float32(web: Web, team_client: Client, scope: str, relative_to: int | None) -> None:
    run = SyntheticRun("map", num_checkpoints=9)
    push_all(team_client, run)
    layers = {"network": slice(None), "group:first": slice(1), "layer:layer1.weight": slice(1, 2)}[scope]
    points = run.parameters[:, layers].reshape(9, -1)
    numbers = np.arange(9)
    if relative_to is not None:
        numbers = np.delete(numbers, relative_to)
        points = points[numbers] - points[relative_to]
    query = f"scope={scope}" + ("" if relative_to is None else f"&relative_to={relative_to}")
    told = web.json(f"/api/v1/runs/map/map?{query}")
    np.testing.assert_allclose(as_array(told["map"]), cosines(points), rtol=0, atol=1e-11)
    assert told["checkpoint"] == numbers.tolist()
    assert told["step"] == (10 * numbers).tolist()
    assert (told["scope"], told["relative_to"], told["reduced"]) == (scope, relative_to, None)
    assert told["mean"] == pytest.approx(cosines(points).mean(), abs=1e-11)
    assert (told["mean_error"], told["has_error"]) == (0.0, False)
    answer = web.get(f"/api/v1/runs/map/map?{query}&format=f32")
    assert answer.headers["trajmon-shape"] == f"{len(numbers)},{len(numbers)}"
    assert "trajmon-reduced" not in answer.headers
    head, (entries,) = read_float32(answer.body)
    assert head == {name: value for name, value in told.items() if name != "map"}
    np.testing.assert_array_equal(entries, as_array(told["map"]).astype(np.float32))


@pytest.mark.parametrize("kernel", ["rbf", "polynomial"])
def test_kernels(web: Web, team_client: Client, kernel: str) -> None:
    push_all(team_client, SyntheticRun("kernels"))
    number = {"rbf": query_pb2.KERNEL_RBF, "polynomial": query_pb2.KERNEL_POLYNOMIAL}[kernel]
    expected = get_map(team_client, "kernels", kernel=number)["map"]
    np.testing.assert_array_equal(
        as_array(web.json(f"/api/v1/runs/kernels/map?kernel={kernel}")["map"]), expected
    )


def test_range_and_superseded(web: Web, team_client: Client) -> None:
    run = SyntheticRun("ranges", num_checkpoints=8)
    push_all(team_client, run, 5)
    epoch = open_run(team_client, run, attempt=2).writer_epoch
    push(team_client, run, epoch, run.record(5, path=[0, 1, 2], attempt=2))
    assert web.json("/api/v1/runs/ranges/map")["checkpoint"] == [0, 1, 2, 5]
    assert web.json("/api/v1/runs/ranges/map?superseded=true")["checkpoint"] == list(range(6))
    assert web.json("/api/v1/runs/ranges/map?superseded=true&start=2&stop=5")["checkpoint"] == [2, 3, 4]
    assert web.json("/api/v1/runs/ranges")["superseded"] == 2
    assert web.json("/api/v1/runs/ranges/layers")["checkpoint"] == [0, 1, 2, 5]


def test_npz_is_what_the_command_exports(
    web: Web, team_client: Client, shared_server: ServerProcess, token: str, tmp_path: Path
) -> None:
    push_all(team_client, SyntheticRun("exported", num_checkpoints=7))
    out = tmp_path / "map.npz"
    command = ["export", "exported", "--relative-to", "2", "--server", shared_server.addresses["grpc"]]
    done = CliRunner().invoke(main, [*command, "--out", str(out)], env={"TRAJMON_TOKEN": token})
    assert done.exit_code == 0, done.output
    answer = web.get("/api/v1/runs/exported/map?relative_to=2&format=npz")
    assert answer.headers["content-disposition"] == 'attachment; filename="exported.npz"'
    with np.load(out) as expected, np.load(io.BytesIO(answer.body)) as got:
        assert sorted(got) == sorted(expected)
        for name in expected:
            assert got[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(got[name], expected[name])


def test_reduced_map_says_so(web: Web, team_client: Client) -> None:
    run = SyntheticRun("reduced", num_checkpoints=23)
    push_all(team_client, run)
    whole = cosines(run.parameters.reshape(23, -1))
    answer = web.get("/api/v1/runs/reduced/map?size=8")
    told = answer.json
    assert answer.headers["trajmon-reduced"] == "23->8"
    assert told["shape"] == [8, 8]
    blocks = told["reduced"]["blocks"]
    assert (told["reduced"]["from"], told["reduced"]["to"], told["reduced"]["block"]) == (23, 8, 3)
    assert blocks[0] == [0, 2]
    assert blocks[-1] == [21, 22]
    assert told["checkpoint"] == [first for first, _ in blocks]
    for i, (a, b) in enumerate(blocks):
        for j, (c, d) in enumerate(blocks):
            expected = whole[a : b + 1, c : d + 1].mean()
            assert told["map"][i][j] == pytest.approx(expected, abs=1e-12)
    assert told["mean"] == pytest.approx(whole.mean(), abs=1e-12)
    assert web.get("/api/v1/runs/reduced/map?size=8&format=npz").status == 200
    with np.load(io.BytesIO(web.get("/api/v1/runs/reduced/map?size=8&format=npz").body)) as found:
        assert found["map"].shape == (23, 23)


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml")])
def test_pictures(web: Web, team_client: Client, form: str, start: bytes) -> None:
    push_all(team_client, SyntheticRun("picture", num_checkpoints=5))
    for more in ("", "&scale=fitted", "&relative_to=0", "&kernel=rbf", "&start=5", "&start=4", "&size=2"):
        answer = web.get(f"/api/v1/runs/picture/map?format={form}{more}")
        assert answer.status == 200
        assert answer.headers["content-type"] == {"png": "image/png", "svg": "image/svg+xml"}[form]
        assert answer.body.startswith(start)
    again = web.get(f"/api/v1/runs/picture/map?format={form}&size=2")
    assert again.body == answer.body


@pytest.mark.parametrize("count", [0, 1])
def test_runs_with_no_checkpoint_and_with_one(web: Web, team_client: Client, count: int) -> None:
    run = SyntheticRun("short", num_checkpoints=1)
    push_all(team_client, run, count)
    base = "/api/v1/runs/short"
    told = web.json(f"{base}/map")
    assert told["map"] == [[1.0]][:count]
    assert told["mean"] == (1.0 if count else None)
    _, (entries,) = read_float32(web.get(f"{base}/map?format=f32").body)
    assert entries.shape == (count, count)
    assert web.json(f"{base}/hallmarks")["checkpoint"] == list(range(count))
    assert len(web.get(f"{base}/hallmarks?format=csv").text.splitlines()) == 1 + count
    assert pa.ipc.open_stream(web.get(f"{base}/hallmarks?format=arrow").body).read_all().num_rows == count
    assert web.json(f"{base}/layers")["shape"] == [3, count, count]
    assert web.json(f"{base}/null")["map"] == []
    assert len(web.json(f"{base}/spectrum")["map"]["eigenvalues"]) == count
    if count:
        assert web.json(f"{base}/map?relative_to=0")["map"] == []
    else:
        assert web.get(f"{base}/map?relative_to=0").reason == "INVALID_REQUEST"


def test_layer_that_is_nan_throughout(web: Web, team_client: Client) -> None:
    run = SyntheticRun("nan", num_checkpoints=4)
    epoch = open_run(team_client, run).writer_epoch
    for checkpoint in range(4):
        row = run.row(checkpoint)
        row.gram[1] = row.products[1] = np.nan
        row.status[1] = LayerStatus.NON_FINITE
        push(team_client, run, epoch, record.encode(row))
    base = "/api/v1/runs/nan"
    told = web.json(f"{base}/map?scope=layer:layer1.weight")
    assert told["map"] == [[None] * 4] * 4
    assert told["mean"] is None
    (entries,) = read_float32(web.get(f"{base}/map?scope=layer:layer1.weight&format=f32").body)[1]
    assert np.isnan(entries).all()
    assert web.get(f"{base}/map?scope=layer:layer1.weight&format=png").status == 200
    curves = web.json(f"{base}/hallmarks?scope=layer:layer1.weight")["hallmarks"]
    assert curves["mds"] == [None] * 4
    layers = web.json(f"{base}/layers")
    assert layers["layers"][1]["hallmarks"] == dict.fromkeys(layers["layers"][1]["hallmarks"])
    assert layers["layers"][0]["hallmarks"]["mds"] is not None
    assert layers["maps"][1] == [[None] * 4] * 4
    assert web.json(f"{base}/spectrum?scope=layer:layer1.weight")["map"] == {
        "eigenvalues": [],
        "effective_rank": None,
        "error": 0.0,
    }
    assert web.json(base)["non_finite"][0] == {"checkpoint": 0, "layers": ["layer1.weight"]}


def test_hallmarks_in_every_form(web: Web, team_client: Client) -> None:
    push_all(team_client, SyntheticRun("curves", num_checkpoints=600 // 20))
    expected = get_hallmarks(team_client, "curves", "group:first")
    base = "/api/v1/runs/curves/hallmarks?scope=group:first"
    told = web.json(base)
    assert told["errors"] == {}
    flat = {name: told[name] for name in ("checkpoint", "step", "mode", "epoch", "learning_rate")}
    flat |= {f"metric:{name}": values for name, values in told["metrics"].items()} | told["hallmarks"]
    flat["time_unix_seconds"] = told["time_unix_seconds"]
    answer = web.get(f"{base}&format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="curves.csv"'
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    table = pa.ipc.open_stream(web.get(f"{base}&format=arrow").body).read_all()
    assert set(flat) == set(expected) == set(table.column_names) == set(lines[0])
    for name, values in expected.items():
        # gRPC adds up the same entries in another order.
        np.testing.assert_allclose(as_array(flat[name]), values.astype(float), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(table[name].to_numpy(), as_array(flat[name]))
        cells = np.array([float(line[name] or "nan") for line in lines])
        np.testing.assert_array_equal(cells, as_array(flat[name]))


def test_layers_agree_with_their_own_hallmarks_and_maps(web: Web, team_client: Client) -> None:
    run = SyntheticRun("layers", num_checkpoints=60)
    push_all(team_client, run, 40)
    web.json("/api/v1/runs/layers/layers")  # the sums go on from here
    epoch = open_run(team_client, run).writer_epoch
    for checkpoint in range(40, 60):
        push(team_client, run, epoch, run.record(checkpoint))
    told = web.json("/api/v1/runs/layers/layers?size=10")
    assert (told["total"], told["shape"], told["left_out"]) == (60, [3, 10, 10], "")
    chosen = told["checkpoint"]
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 59, 10)
    assert set(np.diff(chosen)) <= {6, 7}
    for index, layer in enumerate(told["layers"]):
        series = get_hallmarks(team_client, "layers", f"layer:{layer['name']}")
        for name, value in layer["hallmarks"].items():
            assert value == pytest.approx(series[name][-1], rel=1e-12), name
        whole = cosines(run.parameters[:, index])
        np.testing.assert_allclose(as_array(told["maps"][index]), whole[np.ix_(chosen, chosen)], atol=1e-6)
    head, (maps,) = read_float32(web.get("/api/v1/runs/layers/layers?size=10&format=f32").body)
    assert head["layers"] == told["layers"]
    np.testing.assert_array_equal(maps, as_array(told["maps"]).astype(np.float32))


def test_spectrum(web: Web, team_client: Client) -> None:
    run = SyntheticRun("spectrum", num_checkpoints=12)
    push_all(team_client, run)
    told = web.json("/api/v1/runs/spectrum/spectrum?start=2")
    points = run.parameters.reshape(12, -1)[2:]
    for name, matrix in (("map", cosines(points)), ("gram", points @ points.T)):
        expected = np.sort(np.linalg.eigvalsh(matrix))[::-1]
        np.testing.assert_allclose(told[name]["eigenvalues"], np.maximum(expected, 0), atol=1e-9)
        shares = expected[expected > 1e-9] / expected.sum()
        assert told[name]["effective_rank"] == pytest.approx(
            np.exp(-(shares * np.log(shares)).sum()), rel=1e-6
        )
        assert told[name]["error"] == 0.0
    assert told["checkpoint"] == list(range(2, 12))


def test_random_walk_null(web: Web, team_client: Client) -> None:
    run = SyntheticRun("walk", num_checkpoints=5)
    epoch = open_run(team_client, run).writer_epoch
    rates = [0.4, 0.4, 0.2, 0.1, None]
    for checkpoint, rate in enumerate(rates):
        row = run.row(checkpoint)
        row.header.info.step = [0, 10, 20, 60, 70][checkpoint]
        if rate is None:
            row.header.info.ClearField("learning_rate")
        else:
            row.header.info.learning_rate = rate
        push(team_client, run, epoch, record.encode(row))
    told = web.json("/api/v1/runs/walk/null")
    # H grows by the square of the rate at each step between two checkpoints.
    h = np.cumsum([10 * 0.4**2, 10 * 0.2**2, 40 * 0.1**2])
    expected = np.full((4, 4), np.nan)
    expected[:3, :3] = np.sqrt(np.minimum.outer(h, h) / np.maximum.outer(h, h))
    np.testing.assert_allclose(as_array(told["map"]), expected, rtol=1e-12)
    assert told["undefined_because"] == "the learning rate was not recorded at every checkpoint"
    assert told["checkpoint"] == [1, 2, 3, 4]
    assert told["relative_to"] == 0
    assert web.json("/api/v1/runs/walk")["schedule"] == "stepwise"
    assert [phase["start"] for phase in web.json("/api/v1/runs/walk")["phases"]] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("map?scope=layer:none", 404, "has no layer 'none'; it has: layer0.weight"),
        ("map?scope=group:x", 404, "has no group 'x'; it has: network, first"),
        ("map?scope=nonsense", 400, "scope 'nonsense' is not one of"),
        ("map?relative_to=99", 400, "checkpoint 99 is not among those of the map (0 to 7)"),
        ("map?relative_to=-1", 400, "relative_to: '-1' is not a whole number"),
        ("map?relative_to=1&kernel=rbf", 400, "rbf maps are taken about the origin"),
        ("map?kernel=cosine", 400, "'cosine' is not one of linear, rbf, polynomial"),
        ("map?format=bmp", 400, "'bmp' is not one of json, f32, png, svg, npz"),
        ("map?start=5&stop=2", 400, "5 is beyond stop 2"),
        ("map?size=1025", 400, "is not a whole number from 1 to 1024"),
        ("map?superseded=1", 400, "'1' is neither true nor false"),
        ("map?start=99999999999999999999", 400, "is not a whole number"),
        ("hallmarks?scope=layer:none", 404, "has no layer 'none'"),
        ("hallmarks?format=parquet", 400, "'parquet' is not one of json, csv, arrow"),
        ("layers?size=49", 400, "is not a whole number from 2 to 48"),
        ("layers?size=1", 400, "is not a whole number from 2 to 48"),
        ("spectrum?scope=%00", 400, "is not one of: network"),
        ("null?format=png", 400, "'png' is not one of json, f32"),
    ],
)
def test_refusals(web: Web, team_client: Client, query: str, status: int, text: str) -> None:
    push_all(team_client, SyntheticRun("refused"))
    answer = web.get(f"/api/v1/runs/refused/{query}")
    assert answer.status == status
    assert answer.reason in ("INVALID_REQUEST", "NO_SUCH_SCOPE")
    assert text in answer.json["detail"]


def test_head_has_the_headers_and_no_body(web: Web, team_client: Client) -> None:
    push_all(team_client, SyntheticRun("head"))
    for path in (
        "map",
        "map?format=f32",
        "map?format=npz",
        "hallmarks",
        "layers",
        "events",
        "zarr/zarr.json",
    ):
        answer = web.get(f"/api/v1/runs/head/{path}", "HEAD")
        assert (answer.status, answer.body) == (200, b"")


def test_readers_at_once_get_what_they_asked_for(web: Web, team_client: Client) -> None:
    run = SyntheticRun("busy", num_checkpoints=100)
    epoch = push_all(team_client, run, 50)
    wrong: list[Any] = []

    def read(form: str) -> None:
        for _ in range(5):
            answer = web.get(f"/api/v1/runs/busy/map?format={form}")
            if answer.status != 200:
                wrong.append(answer)

    threads = [threading.Thread(target=read, args=(form,)) for form in ("json", "f32", "npz", "png")]
    for thread in threads:
        thread.start()
    for checkpoint in range(50, 100):
        push(team_client, run, epoch, run.record(checkpoint))
    for thread in threads:
        thread.join()
    assert wrong == []
    assert web.json("/api/v1/runs/busy/map")["shape"] == [100, 100]
