"""Queries over the wire, against direct computations from the parameters."""

from __future__ import annotations

import threading
import urllib.request
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest

from support.calls import get_hallmarks, get_map, get_run, open_run, push, push_all, refused, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, query_pb2


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture
def client(team_client: Client) -> Client:
    return team_client


def cosines(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: np.ndarray = unit @ unit.T
    return product


@pytest.mark.parametrize("scope", ["network", "group:first", "layer:layer1.weight"])
def test_map_and_gram_of_a_scope(client: Client, scope: str) -> None:
    run = SyntheticRun("map", num_checkpoints=12)
    push_all(client, run)
    answer = get_map(client, "map", scope)
    gram = run.gram(list(range(12)), scope)
    norms = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(answer["gram"], gram, rtol=1e-12)
    np.testing.assert_allclose(answer["map"], gram / np.outer(norms, norms), rtol=1e-12)
    np.testing.assert_array_equal(answer["checkpoint"], np.arange(12))
    np.testing.assert_array_equal(answer["step"], 10 * np.arange(12))


def test_map_is_right_across_sealed_strips(client: Client) -> None:
    run = SyntheticRun("long", num_checkpoints=150)
    push_all(client, run)
    for scope in ("network", "layer:layer2.weight"):
        answer = get_map(client, "long", scope)
        np.testing.assert_allclose(answer["gram"], run.gram(list(range(150)), scope), rtol=1e-12)


def test_relative_map_leaves_its_checkpoint_out(client: Client) -> None:
    run = SyntheticRun("relative", num_checkpoints=9)
    push_all(client, run)
    points = run.parameters.reshape(9, -1)
    for tau in (0, 4):
        answer = get_map(client, "relative", relative_to=tau)
        expected = cosines(np.delete(points - points[tau], tau, axis=0))
        np.testing.assert_allclose(answer["map"], expected, atol=1e-11)
        np.testing.assert_array_equal(answer["checkpoint"], np.delete(np.arange(9), tau))


def test_range_of_a_map(client: Client) -> None:
    run = SyntheticRun("range", num_checkpoints=9)
    push_all(client, run)
    answer = get_map(client, "range", start=2, stop=5)
    np.testing.assert_array_equal(answer["checkpoint"], [2, 3, 4])
    np.testing.assert_allclose(answer["gram"], run.gram([2, 3, 4]), rtol=1e-12)


def test_kernels(client: Client) -> None:
    run = SyntheticRun("kernel")
    push_all(client, run)
    for kernel in (query_pb2.KERNEL_RBF, query_pb2.KERNEL_POLYNOMIAL):
        entries = get_map(client, "kernel", kernel=kernel)["map"]
        assert np.isfinite(entries).all()
        np.testing.assert_allclose(np.diag(entries), 1.0, rtol=1e-12)


def test_hallmarks_over_checkpoints(client: Client) -> None:
    run = SyntheticRun("hallmarks", num_checkpoints=10)
    push_all(client, run)
    arrays = get_hallmarks(client, "hallmarks")
    points = run.parameters.reshape(10, -1)
    np.testing.assert_allclose(arrays["mds"][-1], cosines(points).mean(), rtol=1e-12)
    np.testing.assert_allclose(arrays["relative_mds"][-1], cosines(points[1:] - points[0]).mean(), rtol=1e-10)
    steps = np.diff(points, axis=0)
    angle = np.degrees(np.arccos(cosines(steps)[-1, -2]))
    np.testing.assert_allclose(arrays["update_angle_degrees"][-1], angle, rtol=1e-9)
    assert np.isnan(arrays["update_angle_degrees"][:2]).all()
    np.testing.assert_allclose(arrays["parameter_norm"], np.linalg.norm(points, axis=1), rtol=1e-12)
    np.testing.assert_allclose(arrays["metric:loss"], 1.0 / (1 + np.arange(10)))
    np.testing.assert_allclose(arrays["learning_rate"], 0.1)


def test_superseded_checkpoints_leave_the_map_and_can_be_shown(client: Client) -> None:
    run = SyntheticRun("resumed", num_checkpoints=9)
    push_all(client, run, stop=6)
    epoch = open_run(client, run, attempt=2).writer_epoch
    path = [0, 1, 2]
    for checkpoint in (6, 7, 8):
        push(client, run, epoch, run.record(checkpoint, path, attempt=2))
        path.append(checkpoint)
    answer = get_map(client, "resumed")
    np.testing.assert_array_equal(answer["checkpoint"], path)
    np.testing.assert_allclose(answer["gram"], run.gram(path), rtol=1e-12)
    everything = get_map(client, "resumed", include_superseded=True)
    np.testing.assert_allclose(everything["gram"], run.gram(list(range(9))), rtol=1e-12)
    details = get_run(client, "resumed")
    assert (details.summary.checkpoints, details.summary.superseded, details.summary.attempt) == (9, 3, 2)
    assert [a.checkpoint for a in details.checkpoints if a.superseded] == [3, 4, 5]
    points = run.parameters[path].reshape(len(path), -1)
    np.testing.assert_allclose(
        details.summary.mean_directional_similarity, cosines(points).mean(), rtol=1e-12
    )
    arrays = get_hallmarks(client, "resumed")
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(arrays["update_norm"][1:], np.linalg.norm(steps, axis=1), rtol=1e-9)


def test_a_superseded_checkpoint_cannot_be_continued(client: Client) -> None:
    run = SyntheticRun("dead-branch", num_checkpoints=9)
    push_all(client, run, stop=5)
    epoch = open_run(client, run, attempt=2).writer_epoch
    push(client, run, epoch, run.record(5, [0, 1], attempt=2))
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "checkpoint 3 is superseded or does not exist",
        lambda: push(client, run, epoch, run.record(6, [0, 1, 2, 3], attempt=2)),
    )
    np.testing.assert_array_equal(get_map(client, "dead-branch")["checkpoint"], [0, 1, 5])


def test_list_of_runs_in_pages(client: Client) -> None:
    for index in range(5):
        push_all(client, SyntheticRun(f"run-{index}", seed=index), stop=index)
    names: list[str] = []
    token = ""
    while True:
        request = query_pb2.ListRunsRequest(page_size=2, page_token=token)
        page = client.query.ListRuns(request, metadata=client.metadata, timeout=20)
        names += [run.name for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"run-{index}" for index in reversed(range(5))]


def test_watch_tells_of_new_checkpoints_and_ends_with_the_run(client: Client) -> None:
    run = SyntheticRun("watched")
    epoch = push_all(client, run, stop=2)
    seen: list[int] = []
    first = threading.Event()

    def watch() -> None:
        request = query_pb2.WatchRunRequest(run="watched")
        for state in client.query.WatchRun(request, metadata=client.metadata, timeout=60):
            seen.append(state.summary.checkpoints)
            first.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert first.wait(20)
    push(client, run, epoch, run.record(2))
    report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    watcher.join(30)
    assert not watcher.is_alive()
    assert seen[0] == 2
    assert seen[-1] == 3


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (
            {"run": "nobody"},
            grpc.StatusCode.NOT_FOUND,
            "no run named 'nobody'; `trajmon runs` lists what there is",
        ),
        (
            {"scope": "layer:nothing"},
            grpc.StatusCode.NOT_FOUND,
            "has no layer 'nothing'; it has: layer0.weight",
        ),
        (
            {"scope": "group:nothing"},
            grpc.StatusCode.NOT_FOUND,
            "has no group 'nothing'; it has: network, first",
        ),
        (
            {"scope": "everything"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "is not one of: network, group:NAME, layer:NAME",
        ),
        (
            {"relative_to": 99},
            grpc.StatusCode.INVALID_ARGUMENT,
            "checkpoint 99 is not among those of the map (0 to 3)",
        ),
        ({"kernel": 9}, grpc.StatusCode.INVALID_ARGUMENT, "9 is not a known kernel"),
        (
            {"kernel": 2, "relative_to": 1},
            grpc.StatusCode.INVALID_ARGUMENT,
            "rbf maps are taken about the origin",
        ),
        ({"start": 5, "stop": 3}, grpc.StatusCode.INVALID_ARGUMENT, "5 is beyond stop 3"),
    ],
)
def test_a_wrong_map_query_says_what_is_wrong(
    client: Client, options: dict[str, object], code: grpc.StatusCode, text: str
) -> None:
    push_all(client, SyntheticRun("here"), stop=4)
    arguments = {"run": "here", **options}
    refused(code, None, text, lambda: get_map(client, **arguments))  # type: ignore[arg-type] # parametrised


def test_a_wrong_page_token_is_refused(client: Client) -> None:
    request = query_pb2.ListRunsRequest(page_token="../..")
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        None,
        "is not a token that this server gave",
        lambda: client.query.ListRuns(request, metadata=client.metadata, timeout=20),
    )


def test_maps_of_runs_with_few_checkpoints(client: Client) -> None:
    empty, single = SyntheticRun("empty"), SyntheticRun("single")
    push_all(client, empty, stop=0)
    push_all(client, single, stop=1)
    assert get_map(client, "empty")["map"].shape == (0, 0)
    np.testing.assert_allclose(get_map(client, "single")["map"], [[1.0]], rtol=1e-15)
    assert get_map(client, "single", relative_to=0)["map"].shape == (0, 0)
    assert get_hallmarks(client, "empty")["mds"].shape == (0,)
    assert not get_run(client, "empty").summary.HasField("mean_directional_similarity")


def test_every_method_has_an_access_rule_and_strangers_get_nothing(server: ServerProcess) -> None:
    from trajmon_protos.v1 import ingest_pb2, query_pb2
    from trajmon_server.rpc.rules import RULES

    served = {
        f"/{service.full_name}/{method.name}"
        for module in (ingest_pb2, query_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert served == {method for method in RULES if method.startswith("/trajmon_protos")}
    with Client(server.addresses["grpc"], "some-token-that-is-wrong") as stranger:
        for method in sorted(served):
            call: Any = stranger.channel.stream_stream(method)
            answers = call(iter([b""]), metadata=stranger.metadata, timeout=20)
            refused(grpc.StatusCode.UNAUTHENTICATED, None, "token is not valid", partial(list, answers))


def test_health_over_http_checks_the_host(server: ServerProcess) -> None:
    url = f"http://{server.addresses['http']}"
    with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
        assert answer.read() == b'{"ready":true}'
    foreign = urllib.request.Request(f"{url}/healthz", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign, timeout=10)


def test_a_map_about_the_first_checkpoint_of_a_range(client: Client) -> None:
    run = SyntheticRun("window", num_checkpoints=30)
    push_all(client, run)
    answer = get_map(client, "window", relative_to=20, start=20, stop=30)
    moved = run.parameters[21:30].reshape(9, -1) - run.parameters[20].reshape(1, -1)
    unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["map"], unit @ unit.T, atol=1e-9)
