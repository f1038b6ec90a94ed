"""Real trainings under watch, in this process: what the server shows is what the parameters give."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from support.training import digest, make_model, make_optimizer, one_thread, parameters, train_step
from support.truth import Truth
from trajmon_protos.v1 import ingest_pb2, types_pb2

STEPS, EVERY = 48, 4
CLOSE_SECONDS = 60.0

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all of these trainings: each has a run of its own."""
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home").start()
    yield started
    started.stop()


@dataclass
class Watched:
    """A training that has ended, with what the test itself kept of it."""

    model: nn.Module
    recorder: trajmon.Recorder
    steps: list[int] = field(default_factory=list)
    kept: list[dict[str, Array]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def truth(self) -> Truth:
        return Truth.of(
            {name: np.stack([values[name] for values in self.kept]) for name in self.kept[0]}, self.steps
        )


def train(
    server: ServerProcess,
    run: str,
    model: nn.Module | None = None,
    each_checkpoint: Callable[[int, trajmon.Recorder], None] = lambda step, recorder: None,
    **options: Any,
) -> Watched:
    """Train under watch with checkpoints at 0, EVERY, ..., STEPS, until the server has everything."""
    model = make_model(seed=0) if model is None else model
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=STEPS // 2, gamma=0.1)
    settings: dict[str, Any] = {"server": server.grpc_address, "home": server.home, "strict": True, **options}
    with one_thread(), trajmon.watch(model, run=run, optimizer=optimizer, **settings) as recorder:
        watched = Watched(model, recorder, [0], [parameters(model)], [math.nan])
        for step in range(1, STEPS + 1):
            loss = train_step(model, optimizer, 0, step)
            if step % EVERY == 0:
                each_checkpoint(step, recorder)
                recorder.checkpoint(step=step, epoch=step / 12, metrics={"loss": loss})
                watched.steps.append(step)
                watched.kept.append(parameters(model))
                watched.losses.append(loss)
            schedule.step()
        recorder.close(timeout=CLOSE_SECONDS)
    assert recorder.status.pending == 0, recorder.status
    return watched


def angle_degrees(left: Array, right: Array) -> float:
    """Between two vectors, exact also near 0 and 180 degrees (Kahan)."""
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    return math.degrees(2 * math.atan2(np.linalg.norm(left - right), np.linalg.norm(left + right)))


def cosines(vectors: Array) -> Array:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    product: Array = unit @ unit.T
    return product


def assert_scope(client: Client, watched: Watched, run: str, scope: str, layers: list[str]) -> None:
    """Gram, maps and hallmarks of a scope are those of the parameters of its layers."""
    truth, steps = watched.truth, watched.steps
    flat = truth.at(steps, layers)
    shown = get_map(client, run, scope)
    assert shown["step"].tolist() == steps
    assert shown["checkpoint"].tolist() == list(range(len(steps)))
    truth.assert_gram(shown["gram"], steps, layers)
    np.testing.assert_allclose(shown["map"], cosines(flat), rtol=0, atol=1e-12)
    moved = flat[1:] - flat[0]
    relative = get_map(client, run, scope, relative_to=0)
    np.testing.assert_allclose(relative["map"], cosines(moved), rtol=0, atol=1e-8)
    hallmarks = get_hallmarks(client, run, scope)
    numbers = range(len(steps))
    expected = {
        "mds": [cosines(flat[: n + 1]).mean() for n in numbers],
        "relative_mds": [math.nan, *(cosines(moved[: n + 1]).mean() for n in numbers[:-1])],
        "parameter_norm": np.linalg.norm(flat, axis=1),
        "distance_from_initialization": np.linalg.norm(flat - flat[0], axis=1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(hallmarks[name], np.array(values), rtol=1e-9, err_msg=name)
    updates = np.diff(flat, axis=0)
    angles = [math.nan] * 2 + [angle_degrees(a, b) for a, b in itertools.pairwise(updates)]
    np.testing.assert_allclose(hallmarks["update_angle_degrees"], np.array(angles), rtol=0, atol=1e-6)
    start = [math.nan] + [angle_degrees(vector, moved[0]) for vector in moved]
    np.testing.assert_allclose(
        hallmarks["apex_angle_initialization_degrees"], np.array(start), rtol=0, atol=1e-5
    )


def test_a_watched_training_ends_with_the_weights_of_an_unwatched_one(server: ServerProcess) -> None:
    unwatched = make_model(seed=0)
    optimizer = make_optimizer(unwatched)
    with one_thread():
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=STEPS // 2, gamma=0.1)
        for step in range(1, STEPS + 1):
            train_step(unwatched, optimizer, 0, step)
            schedule.step()
    assert digest(train(server, "watched").model) == digest(unwatched)


def test_random_generators_of_the_training_are_left_alone(server: ServerProcess) -> None:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 # trainings still draw from it
    before = torch.get_rng_state(), random.getstate(), legacy
    model = make_model(seed=0)
    with trajmon.watch(model, run="generators", server=server.grpc_address, home=server.home) as recorder:
        for step in range(1, 4):
            recorder.checkpoint(step=step)
            assert recorder.advice.state
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    np.testing.assert_equal(before[2], np.random.get_state(legacy=False))  # noqa: NPY002 # the same


def test_maps_and_hallmarks_are_those_of_the_parameters(server: ServerProcess, client: Client) -> None:
    watched = train(server, "exact")
    names = list(watched.kept[0])
    norm = [name for name in names if name.startswith(("1.", "4."))]
    assert_scope(client, watched, "exact", "network", names)
    assert_scope(client, watched, "exact", "group:norm", norm)
    assert_scope(client, watched, "exact", "group:non_norm", [name for name in names if name not in norm])
    # A layer that starts at zero has no direction there: of those, the Gram alone.
    for name in names:
        gram = get_map(client, "exact", f"layer:{name}")["gram"]
        watched.truth.assert_gram(gram, watched.steps, [name])
    assert_scope(client, watched, "exact", "layer:3.weight", ["3.weight"])


def test_steps_epochs_rates_and_metrics_arrive(server: ServerProcess, client: Client) -> None:
    watched = train(server, "described", tags=["digits", "sgd"])
    hallmarks = get_hallmarks(client, "described")
    assert hallmarks["step"].tolist() == watched.steps
    expected_epochs = np.array([math.nan, *(step / 12 for step in watched.steps[1:])])
    np.testing.assert_array_equal(hallmarks["epoch"], expected_epochs)
    np.testing.assert_array_equal(hallmarks["metric:loss"], np.array(watched.losses))
    # The schedule drops the rate at half of the steps; that step itself is still taken with the old one.
    rates = [0.05 if step <= STEPS // 2 else 0.005 for step in watched.steps]
    np.testing.assert_allclose(hallmarks["learning_rate"], rates, rtol=1e-12)
    answer = get_run(client, "described")
    assert list(answer.summary.tags) == ["digits", "sgd"]
    assert answer.summary.phase == ingest_pb2.RUN_PHASE_FINISHED
    assert (answer.agent.checkpoints_recorded, answer.agent.checkpoints_skipped) == (13, 0)
    assert all(0 < detail.info.stall_seconds < 60 for detail in answer.checkpoints)


def test_advice_and_hallmarks_come_back_to_the_training(server: ServerProcess) -> None:
    heard: list[tuple[str, float]] = []

    def listen(step: int, recorder: trajmon.Recorder) -> None:
        deadline = time.monotonic() + 60
        while step == STEPS and not heard and time.monotonic() < deadline:
            if recorder.hallmarks.get("network", {}).get("mds"):
                heard.append((recorder.advice.state, recorder.hallmarks["network"]["mds"]))
            time.sleep(0.01)

    watched = train(server, "heard", each_checkpoint=listen)
    assert heard
    assert heard[0][0] in ("explore", "candidate", "switch", "resume", "unknown")
    recorder, last = watched.recorder, len(watched.steps) - 1
    flat = watched.truth.at(watched.steps)
    assert recorder.hallmarks["network"]["mds"] == pytest.approx(cosines(flat).mean(), rel=1e-12)
    assert set(recorder.hallmarks) >= {"network", "norm", "non_norm"}
    assert recorder.advice.checkpoint == last
    assert recorder.advice.policy
    assert recorder.advice.reason
    assert recorder.advice.switch == (recorder.advice.state == "switch")


def test_nan_in_one_layer_marks_that_layer_and_no_other(server: ServerProcess, client: Client) -> None:
    model = make_model(seed=0)
    optimizer = make_optimizer(model)
    bias = model[6].bias
    assert isinstance(bias, nn.Parameter)
    sound = [name for name, _ in model.named_parameters() if name != "6.bias"]
    watched = Watched(model, trajmon.watch(model, run="nan", server=server.grpc_address, home=server.home))
    with watched.recorder as recorder, one_thread():
        watched.steps.append(0)
        watched.kept.append(parameters(model))
        for step in range(1, 7):
            train_step(model, optimizer, 0, step)
            healthy = bias.detach().clone()
            if step in (3, 4):
                with torch.no_grad():
                    bias[1] = math.nan if step == 3 else math.inf
            assert recorder.checkpoint(step=step) == step
            watched.steps.append(step)
            watched.kept.append(parameters(model))
            with torch.no_grad():
                bias.copy_(healthy)
        recorder.close(timeout=CLOSE_SECONDS)
    assert recorder.status.pending == 0
    details = get_run(client, "nan").checkpoints
    marked = [list(detail.non_finite_layers) for detail in details]
    assert marked == [[], [], [], ["6.bias"], ["6.bias"], [], []]
    truth = watched.truth
    for name in sound:
        gram = get_map(client, "nan", f"layer:{name}")["gram"]
        truth.assert_gram(gram, watched.steps, [name])
    known = [0, 1, 2, 5, 6]
    shown = get_map(client, "nan", "layer:6.bias")["gram"]
    truth.assert_gram(shown[np.ix_(known, known)], known, ["6.bias"])
    hidden = np.ones((7, 7), dtype=bool)
    hidden[np.ix_(known, known)] = False
    assert np.isnan(shown[hidden]).all()
    network = get_map(client, "nan")["gram"]
    truth.assert_gram(network[np.ix_(known, known)], known)
    assert np.isnan(network[hidden]).all()
    assert recorder.advice.state == "unknown" or recorder.advice.checkpoint == 6


def test_views_and_groups_of_the_user(server: ServerProcess, client: Client) -> None:
    class Attention(nn.Module):
        """Query, key and value in one weight."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(12, 24, bias=False)
            self.out = nn.Linear(8, 5)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            query, key, value = self.qkv(inputs).chunk(3, dim=1)
            answer: torch.Tensor = self.out(torch.tanh(query * key) * value)
            return answer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention()
    view = trajmon.View(r"^qkv\.weight$", None, axis=0, names=("q", "k", "v"))
    watched = train(
        server, "views", model, views=[view], groups={"queries": r"\.q$", "ends": ["^out", r"\.v$"]}
    )
    whole = np.stack([values["qkv.weight"] for values in watched.kept])
    parts = {f"qkv.weight.{name}": part for name, part in zip("qkv", np.split(whole, 3, axis=1), strict=True)}
    for values, *slices in zip(watched.kept, *parts.values(), strict=True):
        del values["qkv.weight"]
        values |= dict(zip(parts, slices, strict=True))
    layout = get_run(client, "views").layout
    assert [layer.name for layer in layout.layers] == [*parts, "out.weight", "out.bias"]
    assert [list(layer.shape) for layer in layout.layers[:3]] == [[8, 12]] * 3
    groups = {group.name: list(group.layers) for group in layout.groups}
    assert (groups["queries"], groups["ends"]) == ([0], [2, 3, 4])
    for name in parts:
        assert_scope(client, watched, "views", f"layer:{name}", [name])
    assert_scope(client, watched, "views", "group:queries", ["qkv.weight.q"])
    assert_scope(client, watched, "views", "group:ends", ["qkv.weight.v", "out.weight", "out.bias"])
    assert_scope(client, watched, "views", "network", list(watched.kept[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_precisions(server: ServerProcess, client: Client, dtype: torch.dtype) -> None:
    run = str(dtype)
    watched = train(server, run, make_model(seed=0).to(dtype))
    layout = get_run(client, run).layout
    assert {layer.dtype for layer in layout.layers} == {str(dtype).removeprefix("torch.")}
    gram = get_map(client, run)["gram"]
    watched.truth.assert_gram(gram, watched.steps)
    assert_scope(client, watched, run, "layer:3.weight", ["3.weight"])


def cli(server: ServerProcess, *arguments: str) -> str:
    """What a command of the client prints."""
    done = subprocess.run(
        [sys.executable, "-m", "trajmon", *arguments],
        env={**os.environ, "TRAJMON_HOME": str(server.home), "TRAJMON_SERVER": server.grpc_address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_show_the_run(server: ServerProcess, tmp_path: Path) -> None:
    watched = train(server, "shown", tags=["mine"])
    (summary,) = [run for run in json.loads(cli(server, "runs", "--json")) if run["name"] == "shown"]
    assert (summary["name"], summary["checkpoints"], summary["tags"]) == ("shown", 13, ["mine"])
    flat = watched.truth.at(watched.steps)
    hallmarks = json.loads(cli(server, "hallmarks", "shown", "--json"))
    assert hallmarks["step"] == watched.steps
    assert hallmarks["update_angle_degrees"][:2] == [None, None]
    assert hallmarks["mds"][-1] == pytest.approx(cosines(flat).mean(), rel=1e-12)
    cli(server, "export", "shown", "--scope", "layer:0.weight", "--out", str(tmp_path / "map.npz"))
    with np.load(tmp_path / "map.npz") as exported:
        assert exported["step"].tolist() == watched.steps
        assert str(exported["scope"]) == "layer:0.weight"
        watched.truth.assert_gram(exported["gram"], watched.steps, ["0.weight"])
        layer = watched.truth.at(watched.steps, ["0.weight"])
        np.testing.assert_allclose(exported["map"], cosines(layer), rtol=0, atol=1e-12)
    text = cli(server, "show", "shown", "--out", str(tmp_path / "shown.png"))
    assert "shown" in text
    assert "13 checkpoints" in text
    assert (tmp_path / "shown.png").read_bytes().startswith(b"\x89PNG")


def test_a_layout_crosses_the_wire_unchanged(server: ServerProcess, client: Client) -> None:
    model = make_model(seed=0)
    with trajmon.watch(
        model, run="layout", server=server.grpc_address, home=server.home, strict=True
    ) as recorder:
        recorder.close(timeout=CLOSE_SECONDS)
    layout = get_run(client, "layout").layout
    expected = [
        types_pb2.Layer(name=name, shape=list(value.shape), dtype="float32")
        for name, value in model.named_parameters()
    ]
    assert list(layout.layers) == expected
    assert get_run(client, "layout").summary.parameters == sum(p.numel() for p in model.parameters())
