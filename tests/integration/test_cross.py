"""Maps across two runs: from sketches right within the errors that they state, from snapshots exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

import trajmon
from integration.test_modes import SPEC, Recorded, train
from support.calls import get_map, open_run, push
from support.server import Client, ServerProcess
from support.sharded import wait_for
from support.sketched_rows import SketchedRun, anchored
from trajmon.cross.errors import NotComparableError
from trajmon.cross.exact import exact_map
from trajmon.cross.result import ARRAYS, CrossResult
from trajmon.query import InvalidRequestError, NotFoundError, QueryClient, QueryError
from trajmon.rundir import RunDescription

Floats = NDArray[np.float64]
CLOSE_SECONDS = 60.0
EVIL = "\x1b[31m../evil\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home").start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def trained(server: ServerProcess) -> tuple[Recorded, Recorded]:
    """Two trainings from one seed on other batches: `a` keeps few snapshots, `b` all."""
    first = train(server, "a", mode="anchored", snapshots_kept=8, sketch=SPEC)
    return first, train(server, "b", seed=1, sketch=SPEC)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[QueryClient]:
    with QueryClient(server.grpc_address, server.token) as connected:
        yield connected


def truth(a: Floats, b: Floats, from_initialization: bool) -> tuple[Floats, Floats]:
    """Cosines and distances out of parameters, [T, p] and [U, p]."""
    if from_initialization:
        a, b = a - a[0], b - b[0]
    with np.errstate(invalid="ignore"):
        cosines = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None, :]
    return cosines, np.linalg.norm(a[:, None] - b[None, :], axis=2)


def within(shown: Floats, error: Floats, truth: Floats) -> None:
    """Equal where it says that it is exact, and as far off as it says elsewhere."""
    off, estimated = np.abs(shown - truth), error > 0.0
    assert (off[~estimated] < 1e-9).all()
    assert estimated.mean() > 0.9
    assert np.mean(off[estimated] <= 3.0 * error[estimated] + 1e-9) > 0.97
    assert off[estimated].max() >= 0.1 * error[estimated].max()


def assert_within(result: CrossResult, cosines: Floats, distances: Floats) -> None:
    np.testing.assert_array_equal(np.isnan(result.map), np.isnan(cosines))
    np.testing.assert_array_equal(np.isnan(result.error), np.isnan(cosines))
    defined = ~np.isnan(cosines)
    within(result.map[defined], result.error[defined], cosines[defined])
    within(result.distance, result.distance_error, distances)


@pytest.mark.parametrize("from_initialization", [False, True])
def test_a_map_is_right_within_its_errors(
    trained: tuple[Recorded, Recorded], client: QueryClient, from_initialization: bool
) -> None:
    a, b = trained
    result = client.get_cross_map("a", "b", from_initialization=from_initialization)
    assert_within(result, *truth(a.kept, b.kept, from_initialization))
    assert not result.is_exact
    assert result.checkpoint.tolist() == result.other_checkpoint.tolist() == list(range(len(a.kept)))
    assert result.step.tolist() == [5 * n for n in range(len(a.kept))]
    # Turned round it is the same map.
    turned = client.get_cross_map("b", "a", from_initialization=from_initialization)
    np.testing.assert_allclose(turned.map, result.map.T, atol=1e-12)
    np.testing.assert_allclose(turned.distance_error, result.distance_error.T, rtol=1e-9, atol=1e-12)


def test_runs_from_one_seed_begin_at_one_point(
    trained: tuple[Recorded, Recorded], client: QueryClient
) -> None:
    result = client.get_cross_map("a", "b")
    assert (result.map[0, 0], result.error[0, 0]) == (1.0, 0.0)
    assert (result.distance[0, 0], result.distance_error[0, 0]) == (0.0, 0.0)
    assert 0.0 < result.error[0, 1] < 1e-3
    started = client.get_cross_map("a", "b", from_initialization=True)
    assert np.isnan(started.map[0]).all()
    assert np.isnan(started.map[:, 0]).all()
    assert (started.distance[0, 0], started.distance_error[0, 0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("scope", "columns"),
    [("layer:0.weight", slice(0, 64 * 256)), ("layer:0.bias", slice(64 * 256, 64 * 256 + 256))],
)
def test_a_scope(
    trained: tuple[Recorded, Recorded], client: QueryClient, server: ServerProcess, scope: str, columns: slice
) -> None:
    a, b = (each.kept[:, columns] for each in trained)
    result = client.get_cross_map("a", "b", scope)
    cosines, distances = truth(a, b, False)
    defined = ~np.isnan(result.map)
    off = np.abs(result.map - cosines)[defined]
    assert (off <= 4.0 * result.error[defined] + 1e-9).all()
    if scope == "layer:0.bias":
        # No wider than the sketch: nothing is lost but float32's last digits, already there.
        assert np.nanmax(result.error) < 1e-6
    exact = exact_map(server.home, "a", "b", scope).result
    kept = exact.checkpoint
    np.testing.assert_allclose(exact.map, cosines[kept], atol=1e-9)
    np.testing.assert_allclose(exact.distance, distances[kept], rtol=1e-9, atol=1e-12)


def test_a_group_and_its_members(trained: tuple[Recorded, Recorded], client: QueryClient) -> None:
    whole = client.get_cross_map("a", "b")
    np.testing.assert_array_equal(client.get_cross_map("a", "b", "group:network").map, whole.map)
    norm = client.get_cross_map("a", "b", "group:norm")
    start = 64 * 256 + 256
    a, b = (each.kept[:, start : start + 512] for each in trained)
    cosines, _ = truth(a, b, False)
    np.testing.assert_allclose(norm.map, cosines, atol=1e-6)


@pytest.mark.parametrize("from_initialization", [False, True])
def test_snapshots_give_the_exact_map(
    trained: tuple[Recorded, Recorded], server: ServerProcess, from_initialization: bool
) -> None:
    a, b = trained
    known = exact_map(server.home, "a", "b", from_initialization=from_initialization)
    result = known.result
    kept = result.checkpoint
    assert 4 <= len(kept) <= 8
    assert (known.run.on_path, known.run.not_kept) == (30, 30 - len(kept))
    assert (known.other.on_path, known.other.not_kept, known.other.unreadable) == (30, 0, 0)
    cosines, distances = truth(a.kept, b.kept, from_initialization)
    np.testing.assert_allclose(result.map, cosines[kept], atol=1e-9)
    np.testing.assert_allclose(result.distance, distances[kept], rtol=1e-9, atol=1e-12)
    assert result.distance[0, 0] == 0.0
    assert result.is_exact
    if not from_initialization:
        assert result.map[0, 0] == 1.0
    run_id = RunDescription.read(a.run_dir).run_id
    by_id = exact_map(server.home, run_id, "b", from_initialization=from_initialization).result
    np.testing.assert_array_equal(by_id.map, result.map)


def tiny(server: ServerProcess, run: str, width: int = 8, checkpoints: int = 1, **options: Any) -> None:
    model = nn.Linear(width, 4)
    where: dict[str, Any] = {"server": server.grpc_address, "home": server.home, "strict": True}
    with trajmon.watch(model, run=run, **where, **options) as recorder:
        for step in range(1, checkpoints):
            recorder.checkpoint(step=step)
        recorder.close(CLOSE_SECONDS)


@pytest.fixture(scope="module")
def odd(server: ServerProcess) -> None:
    """Runs that do not belong beside each other."""
    tiny(server, "one", sketch=SPEC)
    tiny(server, "another-one", sketch=SPEC)
    tiny(server, "other-bins", sketch=trajmon.SketchSpec(bins=251))
    tiny(server, "other-seed", sketch=trajmon.SketchSpec(bins=1021, seed=5))
    tiny(server, "other-layers", width=9, sketch=SPEC)
    tiny(server, "unsketched", checkpoints=2)
    tiny(server, "last-two", mode="sketch", checkpoints=5, sketch=SPEC)


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("other", "kind", "said"),
    [
        ("other-bins", InvalidRequestError, ["'one' is sketched with", "1021 bins", "'other-bins' with", "251 bins"]),
        ("other-seed", InvalidRequestError, ["'one' is sketched with", "seed 0", "'other-seed' with", "seed 5"]),
        ("other-layers", InvalidRequestError, ["'one' is 'weight' (4, 8), of run 'other-layers' 'weight' (4, 9)"]),
        ("unsketched", NotFoundError, ["run 'unsketched' has no sketches", "sketch=True"]),
        ("nowhere", NotFoundError, ["no run named 'nowhere'"]),
        (EVIL, NotFoundError, ["no run named"]),
        ("", QueryError, []),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(
    client: QueryClient, other: str, kind: type[QueryError], said: list[str]
) -> None:
    for pair in ((("one", other)), (other, "one")):
        with pytest.raises(kind) as caught:
            client.get_cross_map(*pair)
        if pair[0] == "one":
            assert [text for text in said if text not in str(caught.value)] == []


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("scope", "kind", "said"),
    [
        ("layer:nothing", NotFoundError, "has no layer 'nothing'"),
        ("group:nothing", NotFoundError, "has no group 'nothing'"),
        ("everything", InvalidRequestError, "is not one of"),
        (EVIL, InvalidRequestError, "is not one of"),
    ],
)
def test_scopes_that_there_are_not(
    client: QueryClient, server: ServerProcess, scope: str, kind: type[QueryError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        client.get_cross_map("one", "another-one", scope)
    with pytest.raises(NotComparableError, match=said):
        exact_map(server.home, "one", "another-one", scope)


@pytest.mark.usefixtures("odd")
def test_one_checkpoint_and_a_run_with_itself(client: QueryClient, server: ServerProcess) -> None:
    result = client.get_cross_map("one", "another-one")
    assert result.map.shape == (1, 1)
    exact = exact_map(server.home, "one", "another-one").result
    assert abs(result.map[0, 0] - exact.map[0, 0]) <= 3.0 * result.error[0, 0] + 1e-9
    own = client.get_cross_map("one", "one")
    assert (own.map[0, 0], own.error[0, 0], own.distance[0, 0]) == (1.0, 0.0, 0.0)
    assert np.isnan(client.get_cross_map("one", "another-one", from_initialization=True).map).all()


@pytest.mark.usefixtures("odd")
def test_an_initialization_that_is_gone_is_no_origin(server: ServerProcess) -> None:
    assert exact_map(server.home, "last-two", "one").result.checkpoint.tolist() == [3, 4]
    with pytest.raises(NotComparableError, match="checkpoint 0 of run 'last-two' is not on this machine"):
        exact_map(server.home, "last-two", "one", from_initialization=True)


def push_sketched(client: Client, run: SketchedRun) -> None:
    """Until the server has worked on all of it."""
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(run.num_checkpoints):
        push(client, run, epoch, run.sketch_record(checkpoint))
        push(client, run, epoch, run.record(checkpoint))
    wait_for(lambda: len(get_map(client, run.name)["checkpoint"]) == run.num_checkpoints, "the analysis")


def test_the_server_starts_again_and_answers_the_same(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home").start()

    def ask() -> list[CrossResult]:
        with QueryClient(server.grpc_address, server.token) as reader:
            return [reader.get_cross_map("x", "y", from_initialization=about) for about in (False, True)]

    try:
        with Client(server.grpc_address, server.token) as writer:
            for seed, run in enumerate(("x", "y")):
                push_sketched(writer, SketchedRun(run, seed=seed, kept=anchored))
        before = ask()
        server.kill()
        server.start()
        with Client(server.grpc_address, server.token) as reader:
            for run in ("x", "y"):
                wait_for(lambda run=run: len(get_map(reader, run)["checkpoint"]) == 14, "the analysis")  # type: ignore[misc]
        after = ask()
    finally:
        server.stop()
    for old, new in zip(before, after, strict=True):
        for name in ARRAYS:
            assert getattr(old, name).tobytes() == getattr(new, name).tobytes(), name


def test_runs_of_another_team_are_not_there(shared_server: ServerProcess, team_client: Client) -> None:
    push_sketched(team_client, SketchedRun("mine", num_checkpoints=3))
    (pair,) = team_client.metadata
    token = str(pair[1]).removeprefix("Bearer ")
    ask: Callable[[QueryClient], CrossResult] = lambda reader: reader.get_cross_map("mine", "mine")  # noqa: E731
    with QueryClient(shared_server.grpc_address, token) as reader:
        assert ask(reader).map.shape == (3, 3)
    with (
        QueryClient(shared_server.grpc_address, "token-of-the-team-number-199") as stranger,
        pytest.raises(NotFoundError),
    ):
        ask(stranger)
