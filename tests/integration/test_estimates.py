"""Maps and hallmarks of runs with few snapshots, over the wire: right within the errors that come with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from support.calls import get_hallmarks, get_map, get_run, open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketched_rows import Kept, SketchedRun, anchored, last_two
from trajmon_protos.sketch_record import spec_message
from trajmon_protos.v1 import query_pb2
from trajmon_server.hallmarks import HALLMARKS

MODES = pytest.mark.parametrize("kept", [anchored, last_two])


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture
def client(team_client: Client) -> Client:
    return team_client


def push_sketched(client: Client, run: SketchedRun) -> None:
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(run.num_checkpoints):
        push(client, run, epoch, run.sketch_record(checkpoint))
        push(client, run, epoch, run.record(checkpoint))


def cosines(points: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: NDArray[np.float64] = unit @ unit.T
    return product


def assert_within(shown: NDArray[np.float64], error: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
    """Every entry within 6 of its standard errors, exact ones to the last digits, and errors not idle."""
    off = np.abs(shown - truth)
    exact = error == 0
    assert (off[exact] <= 1e-12 * np.maximum(np.abs(truth[exact]), 1.0)).all()
    assert (off[~exact] <= 6 * error[~exact]).all()
    assert off[~exact].max() >= 0.1 * error[~exact].max()


@MODES
@pytest.mark.parametrize("scope", ["network", "group:first", "layer:layer1.weight"])
def test_maps_of_a_scope(client: Client, kept: Kept, scope: str) -> None:
    run = SketchedRun("map", kept=kept)
    push_sketched(client, run)
    t = run.num_checkpoints
    numbers = list(range(t))
    gram = run.gram(numbers, scope)
    holes = np.array([[not kept(max(i, j), min(i, j)) for j in numbers] for i in numbers])
    answer = get_map(client, "map", scope)
    assert set(answer) == {"map", "gram", "checkpoint", "step", "mode", "error", "gram_error"}
    np.testing.assert_array_equal(answer["gram_error"] > 0, holes)
    np.testing.assert_array_equal(answer["error"] > 0, holes)
    assert_within(answer["gram"], answer["gram_error"], gram)
    lengths = np.sqrt(np.diag(gram))
    assert_within(answer["map"], answer["error"], gram / np.outer(lengths, lengths))


@MODES
@pytest.mark.parametrize("tau", [0, 5])
def test_relative_maps(client: Client, kept: Kept, tau: int) -> None:
    run = SketchedRun("relative", kept=kept)
    push_sketched(client, run)
    points = run.parameters.reshape(run.num_checkpoints, -1)
    answer = get_map(client, "relative", relative_to=tau)
    truth = cosines(np.delete(points - points[tau], tau, axis=0))
    assert answer["map"].shape == answer["error"].shape == answer["gram_error"].shape == truth.shape
    assert_within(answer["map"], answer["error"], truth)
    assert answer["error"].max() < 0.1


@pytest.mark.parametrize("kernel", [query_pb2.KERNEL_RBF, query_pb2.KERNEL_POLYNOMIAL])
def test_kernels(client: Client, kernel: query_pb2.Kernel.ValueType) -> None:
    run = SketchedRun("kernel", kept=anchored)
    push_sketched(client, run)
    exact = SyntheticRun("exact", layer_size=4000, num_checkpoints=14)
    exact.parameters = run.parameters
    push_all(client, exact)
    shown, truth = (get_map(client, name, kernel=kernel) for name in ("kernel", "exact"))
    assert "error" not in truth
    off = np.abs(shown["map"] - truth["map"])
    assert (off <= 4 * shown["error"] + 1e-12).all()
    assert off.max() >= 0.1 * shown["error"].max()


@MODES
def test_hallmarks_come_with_their_errors(client: Client, kept: Kept) -> None:
    run = SketchedRun("numbers", kept=kept)
    push_sketched(client, run)
    exact = SyntheticRun("exact", layer_size=4000, num_checkpoints=14)
    exact.parameters = run.parameters
    push_all(client, exact)
    shown, truth = get_hallmarks(client, "numbers"), get_hallmarks(client, "exact")
    assert not any(name.startswith("error:") for name in truth)
    errors = {name.removeprefix("error:"): array for name, array in shown.items() if "error:" in name}
    always = {"mds", "relative_mds", "length_weighted_mds", "windowed_mds"}
    assert always <= errors.keys()
    from_start = {"distance_from_initialization", "apex_angle_origin_degrees", "tortuosity"}
    assert from_start.isdisjoint(errors) == (kept is anchored)
    for name in HALLMARKS:
        error = errors.get(name, np.zeros(run.num_checkpoints))
        np.testing.assert_array_equal(np.isnan(shown[name]), np.isnan(truth[name]), err_msg=name)
        off = np.abs(shown[name] - truth[name])
        defined = ~np.isnan(off)
        tolerance = 1e-9 * np.maximum(np.abs(truth[name][defined]), 1.0)
        assert (off[defined] <= 6 * error[defined] + tolerance).all(), name


def test_the_latest_numbers_agree_with_the_last_of_the_series(client: Client) -> None:
    run = SketchedRun("latest")
    push_sketched(client, run)
    series = get_hallmarks(client, "latest", "group:first")
    details = get_run(client, "latest")
    group = next(found for found in details.hallmarks if found.group == "first")
    assert group.errors.keys() == {
        name.removeprefix("error:") for name, array in series.items() if "error:" in name and array[-1] > 0
    }
    for name, value in group.values.items():
        assert value == pytest.approx(series[name][-1], rel=1e-9, abs=1e-9)
    for name, error in group.errors.items():
        assert error == pytest.approx(series[f"error:{name}"][-1], rel=1e-6)
    network = next(found for found in details.hallmarks if found.group == "network")
    assert details.summary.mean_directional_similarity_error == network.errors["mds"] > 0
    assert details.summary.sketch == spec_message(run.spec)
    estimated = [known.estimated for known in details.checkpoints]
    assert estimated == [max(0, number - 2) for number in range(run.num_checkpoints)]


def test_a_run_without_sketches_sends_what_it_always_sent(client: Client) -> None:
    push_all(client, SyntheticRun("plain"))
    assert set(get_map(client, "plain")) == {"map", "gram", "checkpoint", "step", "mode"}
    assert set(get_map(client, "plain", relative_to=0)) == {"map", "gram", "checkpoint", "step", "mode"}
    details = get_run(client, "plain")
    assert not any(found.errors for found in details.hallmarks)
    assert not details.summary.HasField("sketch")
    assert details.summary.mean_directional_similarity_error == 0.0


def test_a_part_of_the_path_without_holes_is_exact(client: Client) -> None:
    run = SketchedRun("part")
    push_sketched(client, run)
    assert "error" not in get_map(client, "part", start=5, stop=8)
    assert "error" in get_map(client, "part", start=5, stop=9)
