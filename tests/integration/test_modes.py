"""Trainings that keep few snapshots, or two: what the server shows is right within the errors that it states."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import trajmon
from support.calls import get_hallmarks, get_map, get_run
from support.server import Client, ServerProcess
from support.sharded import wait_for
from support.training import one_thread
from trajmon.rundir import RunDir
from trajmon.snapshots.keeping import is_kept
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.sketch import default_bins
from trajmon_protos.sketch_record import spec_message
from trajmon_protos.v1 import ingest_pb2

pytestmark = pytest.mark.long

CLOSE_SECONDS = 60.0
CHECKPOINTS = 30
FEATURES, WIDTH, CLASSES = 64, 256, 10
SPEC = trajmon.SketchSpec(bins=1021)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home").start()
    yield started
    started.stop()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.grpc_address, server.token) as connected:
        yield connected


@dataclass
class Recorded:
    """A training that has ended."""

    recorder: trajmon.Recorder
    kept: NDArray[np.float64]
    """[T, parameters]"""
    run_dir: RunDir

    @property
    def map(self) -> NDArray[np.float64]:
        return cosines(self.kept)

    def relative_map(self, tau: int) -> NDArray[np.float64]:
        return cosines(np.delete(self.kept - self.kept[tau], tau, axis=0))


def cosines(points: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    product: NDArray[np.float64] = unit @ unit.T
    return product


def train(server: ServerProcess, run: str, seed: int = 0, in_step: bool = False, **options: Any) -> Recorded:
    """A small network on noisy points, a checkpoint each five steps; `in_step`: waits for the agent each time."""
    generator = torch.Generator().manual_seed(seed)
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(FEATURES, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES),
        )  # fmt: skip
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(7))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        kept = []

        def flat() -> NDArray[np.float64]:
            values: NDArray[np.float64] = (
                torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy()
            )
            return values

        settings: dict[str, Any] = {"server": server.grpc_address, "home": server.home, "strict": True}
        with trajmon.watch(model, run=run, optimizer=optimizer, **settings, **options) as recorder:
            kept.append(flat())
            for step in range(1, 5 * (CHECKPOINTS - 1) + 1):
                labels = torch.randint(CLASSES, (32,), generator=generator)
                points = centres[labels] + 2.0 * torch.randn(32, FEATURES, generator=generator)
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(model(points), labels))
                optimizer.step()
                if step % 5 == 0:
                    recorder.checkpoint(step=step)
                    kept.append(flat())
                    if in_step:
                        wait_for(lambda: recorder.status.pending == 0, "the agent")
            recorder.close(CLOSE_SECONDS)
        assert recorder.status.pending == 0
    return Recorded(recorder, np.stack(kept), RunDir.of(server.home, run))


def within(shown: NDArray[np.float64], error: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
    """Exact where it says so, and as far off as it says elsewhere."""
    off = np.abs(shown - truth)
    exact = error == 0.0
    assert off[exact].max() < 1e-9
    estimated = ~exact
    assert estimated.any()
    assert np.mean(off[estimated] <= 3.0 * error[estimated] + 1e-9) > 0.97


def stored(recorded: Recorded) -> list[int]:
    """Numbers of the snapshots that have their data."""
    store = SnapshotStore(recorded.run_dir.snapshots, "", 0, writer="test")
    return [number for number in store.numbers() if store.header(number).kept]


@pytest.mark.parametrize(("mode", "keep"), [("anchored", 6), ("sketch", 2)])
def test_few_snapshots_are_kept_and_the_rest_is_estimated(
    server: ServerProcess, client: Client, mode: Any, keep: int
) -> None:
    options: dict[str, Any] = {"snapshots_kept": keep} if mode == "anchored" else {}
    recorded = train(server, f"mode-{mode}", mode=mode, sketch=SPEC, **options)
    newest = CHECKPOINTS - 1
    assert stored(recorded) == [n for n in range(CHECKPOINTS) if is_kept(n, newest, mode, keep)]

    answer = get_map(client, f"mode-{mode}")
    within(answer["map"], answer["error"], recorded.map)
    assert np.sqrt(np.mean((answer["map"] - recorded.map) ** 2)) < (1e-3 if mode == "anchored" else 5e-3)
    assert (np.diagonal(answer["error"]) == 0.0).all()
    np.testing.assert_allclose(
        np.diagonal(answer["gram"]), np.square(np.linalg.norm(recorded.kept, axis=1)), rtol=1e-12
    )
    # Neighbours are exact in every mode: the last two snapshots are always there.
    assert (np.diagonal(answer["error"], offset=1) == 0.0).all()

    relative = get_map(client, f"mode-{mode}", relative_to=0)
    within(relative["map"], relative["error"], recorded.relative_map(0))
    middle = get_map(client, f"mode-{mode}", relative_to=13)
    within(middle["map"], middle["error"], recorded.relative_map(13))

    hallmarks = get_hallmarks(client, f"mode-{mode}")
    truth = recorded.map.mean()
    assert 0.0 < hallmarks["error:mds"][-1] < 0.02
    assert abs(hallmarks["mds"][-1] - truth) < 3.0 * hallmarks["error:mds"][-1]
    steps = np.diff(recorded.kept, axis=0)
    np.testing.assert_allclose(hallmarks["update_norm"][1:], np.linalg.norm(steps, axis=1), rtol=1e-9)
    assert "error:update_angle_degrees" not in hallmarks

    reply = get_run(client, f"mode-{mode}")
    assert reply.summary.sketch == spec_message(SPEC)
    assert reply.agent.snapshots_kept == keep
    assert reply.summary.snapshot_mode == ingest_pb2.SnapshotMode.Value(f"SNAPSHOT_MODE_{mode.upper()}")
    # What training hears says its error too.
    heard = recorded.recorder.hallmarks["network"]
    assert heard["error:mds"] == pytest.approx(hallmarks["error:mds"][-1], rel=1e-9)


def test_a_run_near_its_budget_falls_over_and_says_so(
    server: ServerProcess, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    nbytes = 4 * (FEATURES * WIDTH + WIDTH * WIDTH + WIDTH * CLASSES + 4 * WIDTH + CLASSES) + 8192
    with caplog.at_level(logging.WARNING, "trajmon"):
        recorded = train(server, "falls-over", in_step=True, snapshot_budget_bytes=10 * nbytes)
    (said,) = [record.getMessage() for record in caplog.records if "nearly used up" in record.getMessage()]
    assert "from here on at most" in said
    assert "anchored" in said
    assert recorded.recorder.status.mode == "anchored"
    assert recorded.recorder.status.skipped == 0
    assert len(stored(recorded)) < 10
    used = SnapshotStore(recorded.run_dir.snapshots, "", 0, writer="test").used_bytes()
    assert used <= 10 * nbytes
    answer = get_map(client, "falls-over")
    assert answer["map"].shape == (CHECKPOINTS, CHECKPOINTS)
    assert not np.isnan(answer["map"]).any()
    # What was recorded before the fall is exact among itself.
    assert (answer["error"][:7, :7] == 0.0).all()
    within(answer["map"], answer["error"], recorded.map)


def test_exact_runs_have_no_errors_with_sketches_or_without(server: ServerProcess, client: Client) -> None:
    for run, sketch in (("plain", False), ("sketched", True)):
        recorded = train(server, run, sketch=sketch)
        answer = get_map(client, run)
        assert "error" not in answer
        np.testing.assert_allclose(answer["map"], recorded.map, atol=1e-10)
        assert not any(name.startswith("error:") for name in get_hallmarks(client, run))
        assert get_run(client, run).summary.HasField("sketch") == sketch
        assert len(stored(recorded)) == CHECKPOINTS
    numels = [64 * 256, 256, 256, 256, 256 * 256, 256, 2560, 10]
    assert get_run(client, "sketched").summary.sketch.bins == default_bins(numels)


def test_the_server_starts_again_and_estimates_the_same(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home").start()
    try:
        train(server, "again", mode="anchored", snapshots_kept=5, sketch=SPEC)
        with Client(server.grpc_address, server.token) as client:
            before = get_map(client, "again"), get_hallmarks(client, "again")
        server.kill()
        server.start()
        with Client(server.grpc_address, server.token) as client:
            after = get_map(client, "again"), get_hallmarks(client, "again")
    finally:
        server.stop()
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "some"}, "mode='some'"),
        ({"mode": "anchored", "snapshots_kept": 3}, "snapshots_kept=3 is not at least 4"),
        ({"snapshots_kept": 8}, 'needs mode="anchored"'),
        ({"mode": "anchored", "snapshot_budget_bytes": 1_000_000}, "keeps at least 4 snapshots"),
    ],
)
def test_modes_that_cannot_be(
    server: ServerProcess, tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    model = nn.Linear(512, 512)
    with pytest.raises(trajmon.errors.RefusedError, match=text.replace("(", r"\(")):
        trajmon.watch(model, run="refused", server=server.grpc_address, home=tmp_path, strict=True, **options)


def test_a_run_goes_on_with_its_own_sketches_alone(server: ServerProcess, tmp_path: Path) -> None:
    model = nn.Linear(64, 64)
    where: dict[str, Any] = {"run": "own", "server": server.grpc_address, "home": tmp_path, "strict": True}
    with trajmon.watch(model, sketch=trajmon.SketchSpec(bins=251), **where) as recorder:
        recorder.checkpoint(step=1)
    with pytest.raises(
        trajmon.errors.OtherSketchError, match=r"251 bins, seed 0, sketch= asks for .*1021 bins"
    ):
        trajmon.watch(model, sketch=SPEC, resume="must", **where)
