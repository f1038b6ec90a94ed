"""Runs with more checkpoints than one map may have: read strip by strip, shown reduced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.calls import get_map, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web, read_float32

COUNT, LIMIT = 150, 100


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    environment = {"TRAJMON_SERVER_LIMITS__MAX_MAP_CHECKPOINTS": str(LIMIT)}
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home", environment=environment).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture(scope="module")
def run(small_server: ServerProcess) -> SyntheticRun:
    made = SyntheticRun("long", num_checkpoints=COUNT)
    with Client(small_server.addresses["grpc"], small_server.token) as client:
        push_all(client, made)
    return made


@pytest.fixture
def web(small_server: ServerProcess, run: SyntheticRun) -> Web:
    return Web(small_server.addresses["http"], small_server.token)


def cosines(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: np.ndarray = unit @ unit.T
    return product


@pytest.mark.parametrize("scope", ["network", "layer:layer2.weight"])
@pytest.mark.parametrize("tau", [None, 0, 77, COUNT - 1])
def test_long_map(web: Web, run: SyntheticRun, scope: str, tau: int | None) -> None:
    layers = slice(None) if scope == "network" else slice(2, 3)
    points = run.parameters[:, layers].reshape(COUNT, -1)
    numbers = np.arange(COUNT)
    if tau is not None:
        numbers = np.delete(numbers, tau)
        points = points[numbers] - points[tau]
    whole = cosines(points)
    query = f"scope={scope}&size=20" + ("" if tau is None else f"&relative_to={tau}")
    told = web.json(f"/api/v1/runs/long/map?{query}")
    size = told["reduced"]["block"]
    assert size == 8
    assert told["reduced"]["from"] == len(numbers)
    assert told["shape"] == [19, 19]
    for i in range(19):
        first, last = told["reduced"]["blocks"][i]
        assert [first, last] == [numbers[i * size], numbers[min((i + 1) * size, len(numbers)) - 1]]
        for j in range(19):
            block = whole[i * size : (i + 1) * size, j * size : (j + 1) * size]
            assert told["map"][i][j] == pytest.approx(block.mean(), abs=1e-10), (i, j)
    assert told["mean"] == pytest.approx(whole.mean(), abs=1e-10)
    head, (entries,) = read_float32(web.get(f"/api/v1/runs/long/map?{query}&format=f32").body)
    assert head["reduced"] == told["reduced"]
    np.testing.assert_array_equal(entries, np.array(told["map"], dtype=np.float32))


def test_long_hallmarks_are_those_of_the_last_row(web: Web, run: SyntheticRun) -> None:
    curves = web.json("/api/v1/runs/long/hallmarks")
    assert curves["checkpoint"] == list(range(COUNT))
    latest = web.json("/api/v1/runs/long")["hallmarks"]["network"]
    last = {name: values[-1] for name, values in curves["hallmarks"].items()}
    # The same entries, added up in another order.
    assert last == pytest.approx(latest, rel=1e-12)
    whole = cosines(run.parameters.reshape(COUNT, -1))
    for t in (0, 70, COUNT - 1):
        assert curves["hallmarks"]["mds"][t] == pytest.approx(whole[: t + 1, : t + 1].mean(), abs=1e-12)


@pytest.mark.parametrize("scope", ["network", "layer:layer1.weight"])
def test_fewer_points_are_some_of_all(web: Web, scope: str) -> None:
    base = f"/api/v1/runs/long/hallmarks?scope={scope}"
    whole, few = web.json(base), web.json(f"{base}&max_points=16")
    positions = [*range(0, COUNT, 10), COUNT - 1]
    assert whole["reduced"] is None
    assert few["reduced"] == {"from": COUNT, "to": 16, "every": 10, "path": [[0, COUNT - 1]]}
    assert few["checkpoint"] == positions
    for group in ("hallmarks", "metrics"):
        assert few[group].keys() == whole[group].keys()
        for name, values in whole[group].items():
            assert few[group][name] == [values[position] for position in positions], name
    answer = web.get(f"{base}&max_points=16&format=csv")
    assert answer.headers["trajmon-reduced"] == f"{COUNT}->16"
    assert len(answer.text.splitlines()) == 1 + 16
    assert "trajmon-reduced" not in web.get(f"{base}&max_points={COUNT}").headers


def test_a_part_is_what_it_is_in_one_piece(web: Web, small_server: ServerProcess) -> None:
    with Client(small_server.addresses["grpc"], small_server.token) as client:
        expected = get_map(client, "long", start=30, stop=90)["map"]
    told = web.json("/api/v1/runs/long/map?start=30&stop=90")
    np.testing.assert_array_equal(np.array(told["map"]), expected)
    assert told["reduced"] is None


@pytest.mark.parametrize("query", ["format=npz", "kernel=rbf"])
def test_what_only_goes_in_one_piece(web: Web, query: str) -> None:
    answer = web.get(f"/api/v1/runs/long/map?{query}")
    assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
    assert "one answer has at most 100; ask for a part with start and stop" in answer.json["detail"]


def test_a_checkpoint_that_a_long_map_does_not_have(web: Web) -> None:
    answer = web.get(f"/api/v1/runs/long/map?relative_to={COUNT}")
    assert "is not among those of the map (0 to 149)" in answer.json["detail"]
