"""Files of the switch benchmark: exact Grams, resumed to the same bytes, read by the server's replay."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.switch.gram import gram_of_states
from benchmarks.switch.making import StoppedError, make
from benchmarks.switch.recipes import Recipe
from benchmarks.switch.recording import is_made_by
from benchmarks.switch.workshop import Busy, Workshop

from support.switch_runs import TINY, full_run
from trajmon_server.replay import replay

ROOT = Path(__file__).parents[2]
MLP = next(recipe for recipe in TINY if recipe.name == "mlp")
GPT = next(recipe for recipe in TINY if recipe.name == "gpt")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings of two recipes, made without interruption."""
    folder = tmp_path_factory.mktemp("made")
    for recipe in (MLP, GPT):
        make(recipe, folder / f"{recipe.name}.npz", folder / "work")
    assert list((folder / "work").iterdir()) == []
    return folder


@pytest.mark.parametrize("recipe", [MLP, TINY[0]], ids=lambda recipe: recipe.name)
def test_gram_is_that_of_the_parameters(recipe: Recipe) -> None:
    """Against sums that are rounded once, of products that are exact in float64."""
    states = [state["network"] for state in full_run(recipe)]
    network = recipe.network.build()
    gram, names = gram_of_states(network, states)
    assert names == [name for name, _ in network.named_parameters()]
    assert gram.shape == (len(names), len(states), len(states))
    for layer, name in enumerate(names):
        tensors = [state[name].double().flatten().numpy() for state in states]
        for i, j in ((0, 0), (0, 3), (5, 2), (6, 6)):
            exact = math.fsum(tensors[i] * tensors[j])
            scale = math.sqrt(math.fsum(tensors[i] ** 2) * math.fsum(tensors[j] ** 2))
            assert abs(gram[layer, i, j] - exact) <= 1e-13 * scale
        assert np.array_equal(gram[layer], gram[layer].T)


def test_gram_of_a_broken_checkpoint_is_undefined_there_alone() -> None:
    states = [state["network"] for state in full_run(MLP)]
    name = next(iter(dict(MLP.network.build().named_parameters())))
    states[3][name] = torch.full_like(states[3][name], math.nan)
    gram, names = gram_of_states(MLP.network.build(), states)
    undefined = np.isnan(gram)
    others = [t for t in range(len(states)) if t != 3]
    assert undefined[names.index(name), 3].all()
    assert undefined[names.index(name), :, 3].all()
    assert not undefined[names.index(name)][np.ix_(others, others)].any()
    assert not np.delete(undefined, names.index(name), axis=0).any()


def test_what_a_recording_holds(made: Path) -> None:
    for recipe, metric_name in ((MLP, "accuracy"), (GPT, "minus_loss")):
        run = dict(np.load(made / f"{recipe.name}.npz", allow_pickle=False))
        layers, count, points = len(run["names"]), recipe.intervals + 1, len(run["switch_points"])
        shapes = {
            "gram": (layers, count, count),
            "step": (count,),
            "lr": (count - 1,),
            "metric": (count,),
            "loss": (count,),
            "train_loss": (count,),
            "norm_only_final": (points,),
            "norm_only_loss": (points,),
            "norm_only_tail": (points, 3),
        }
        assert {key: run[key].shape for key in shapes} == shapes
        assert all(run[key].dtype == np.float64 for key in shapes.keys() - {"step"})
        assert np.array_equal(np.unique(run["switch_points"]), run["switch_points"])
        assert (run["norm_only_tail"][:, -1] == run["norm_only_final"]).all()
        assert float(run["full_final"]) == run["metric"][-1]
        assert str(run["metric_name"]) == metric_name
        final = float(run["full_final"])
        assert float(run["delta"]) == (0.01 if metric_name == "accuracy" else 0.01 * abs(final))
        if metric_name == "minus_loss":
            assert np.array_equal(run["metric"], -run["loss"])
        assert math.isnan(run["train_loss"][0])
        assert np.isfinite(run["train_loss"][1:]).all()
        assert run["lr"].tolist() == [recipe.learning_rate(t) for t in range(recipe.intervals)]
        network = recipe.network.build()
        assert int(run["n_params"]) == sum(p.numel() for p in network.parameters())
        norm = [p.numel() for name, p in network.named_parameters() if is_norm_name(network, name)]
        assert int(run["n_norm"]) == sum(norm)
        provenance = json.loads(str(run["provenance"]))
        assert provenance["recipe"]["name"] == recipe.name
        assert provenance["torch"] == torch.__version__
        assert {"trajmon", "command", "data", "python"} <= provenance.keys()


def is_norm_name(network: torch.nn.Module, name: str) -> bool:
    kind = type(network.get_submodule(name.rpartition(".")[0])).__name__
    return kind in ("BatchNorm2d", "GroupNorm", "LayerNorm", "RMSNorm")


def test_the_servers_replay_reads_it(made: Path) -> None:
    for recipe in (MLP, GPT):
        told = list(replay(made / f"{recipe.name}.npz"))
        assert [one["index"] for one in told] == list(range(recipe.intervals + 1))
        assert told[-1]["hallmarks"]["mds"] is not None


@pytest.mark.parametrize("stop_after", [1, 4, 6, 8, 10])
def test_stopped_and_taken_up_it_gives_the_same_bytes(made: Path, tmp_path: Path, stop_after: int) -> None:
    path = tmp_path / "mlp.npz"
    asked = iter(range(1000))
    with pytest.raises(StoppedError):
        make(MLP, path, tmp_path / "work", go_on=lambda: next(asked) < stop_after)
    assert not path.exists()
    said: list[str] = []
    make(MLP, path, tmp_path / "work", told=lambda text, _: said.append(text))
    assert path.read_bytes() == (made / "mlp.npz").read_bytes()
    # What was done is not done again: of 6 intervals and the start, and of the outcomes.
    every = 7 + len(np.load(path)["switch_points"])
    assert len(said) == every - stop_after - (1 if stop_after < 7 else 0)


PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from support.switch_runs import TINY
from benchmarks.switch.making import make

steps = iter(range(1, 1000))
def stepped(*_):
    if next(steps) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
register_optimizer_step_post_hook(stepped)
recipe = next(recipe for recipe in TINY if recipe.name == "mlp")
make(recipe, Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("step", "states", "outcomes"),
    [
        # Of 6 intervals with 6 steps each; the first outcome, of the switch at 5, takes 6, the second 12.
        (20, 4, []),
        (47, 7, ["outcome-05.json"]),
    ],
)
def test_killed_within_an_interval_it_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, step: int, states: int, outcomes: list[str]
) -> None:
    path, work = tmp_path / "mlp.npz", tmp_path / "work"
    command = [sys.executable, "-c", PROGRAM, str(path), str(work), str(step)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    assert subprocess.run(command, env=environment, timeout=100, check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(work.glob("mlp/state-*.pt"))) == states
    assert [one.name for one in work.glob("mlp/outcome-*.json")] == outcomes
    make(MLP, path, work)
    assert path.read_bytes() == (made / "mlp.npz").read_bytes()


def test_what_another_recipe_left_is_thrown_away(made: Path, tmp_path: Path) -> None:
    path, work = tmp_path / "mlp.npz", tmp_path / "work"
    other = dataclasses.replace(MLP, seed=MLP.seed + 1)
    asked = iter(range(1000))
    with pytest.raises(StoppedError):
        make(other, path, work, go_on=lambda: next(asked) < 9)
    assert list(work.glob("mlp/outcome-*.json"))
    make(MLP, path, work)
    assert path.read_bytes() == (made / "mlp.npz").read_bytes()
    assert is_made_by(path, MLP)
    assert not is_made_by(path, other)


def test_two_do_not_make_the_same_run(tmp_path: Path) -> None:
    with Workshop(tmp_path, MLP).open(), pytest.raises(Busy, match="mlp: another process makes it"):
        make(MLP, tmp_path / "mlp.npz", tmp_path)
    make(GPT, tmp_path / "gpt.npz", tmp_path)


def test_files_that_are_no_recording_of_this_recipe(made: Path, tmp_path: Path) -> None:
    whole = (made / "mlp.npz").read_bytes()
    assert is_made_by(made / "mlp.npz", MLP)
    assert not is_made_by(made / "mlp.npz", GPT)
    assert not is_made_by(tmp_path / "missing.npz", MLP)
    without = tmp_path / "without.npz"
    np.savez(without, gram=np.zeros((1, 2, 2)))
    assert not is_made_by(without, MLP)
    strange = tmp_path / "strange.npz"
    for provenance in ("[]", "{", "{}"):
        np.savez(strange, provenance=np.array(provenance))
        assert not is_made_by(strange, MLP)
    damaged = tmp_path / "damaged.npz"
    for data in (b"", b"PK\x03\x04", whole[:-100], b"text"):
        damaged.write_bytes(data)
        assert not is_made_by(damaged, MLP)
