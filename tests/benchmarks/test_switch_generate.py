"""The command that makes the runs, the list of them, and those that are checked in."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.switch.generate import DATA, chosen, generate, main, table
from benchmarks.switch.recipes import RECIPES, Recipe
from benchmarks.switch.tasks import Digits
from benchmarks.switch.workshop import Workshop
from rich.console import Console

from support.switch_runs import TINY
from trajmon.numerics.model import plan_model

ROOT = Path(__file__).parents[2]
MLP = next(recipe for recipe in TINY if recipe.name == "mlp")
GPT = next(recipe for recipe in TINY if recipe.name == "gpt")
CHECKED_IN = [recipe for recipe in RECIPES if (DATA / f"{recipe.name}.npz").exists()]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def screen() -> Console:
    return Console(file=io.StringIO(), width=140)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_runs_cover_what_the_benchmark_is_for() -> None:
    assert len(RECIPES) >= 24
    assert max(Counter(recipe.name for recipe in RECIPES).values()) == 1
    families = Counter(recipe.family for recipe in RECIPES)
    assert set(families) == {
        "bn_resnet", "layer_norm", "group_norm", "rms_gpt", "modular", "lazy", "label_noise"
    }  # fmt: skip
    assert min(families.values()) >= 4
    kinds = {(r.optimizer.kind, r.optimizer.momentum > 0, r.optimizer.weight_decay > 0) for r in RECIPES}
    assert kinds >= {
        ("sgd", True, True), ("sgd", True, False), ("sgd", False, True), ("sgd", False, False),
        ("adamw", False, True), ("adamw", False, False),
    }  # fmt: skip
    shapes = {(recipe.schedule.shape, recipe.schedule.warm_up > 0) for recipe in RECIPES}
    assert shapes >= {("constant", False), ("step", False), ("cosine", False), ("cosine", True)}
    assert any(isinstance(r.task, Digits) and r.task.wrong_labels > 0 for r in RECIPES)
    assert len({recipe.seed for recipe in RECIPES}) > 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_makes_a_small_network(recipe: Recipe) -> None:
    layers = plan_model(recipe.network.build()).layout.layers
    assert len(layers) <= 30
    assert json.loads(json.dumps(recipe.to_json())) == recipe.to_json()


def test_runs_are_chosen_by_a_part_of_the_name() -> None:
    assert chosen([]) == list(RECIPES)
    assert {recipe.family for recipe in chosen(["lazy", "modular"])} == {"lazy", "modular"}
    with pytest.raises(ValueError, match="no run has 'perceptron' in its name; see --list"):
        chosen(["lazy", "perceptron"])


def test_finished_runs_are_left_as_they_are(tmp_path: Path) -> None:
    console = screen()
    assert generate([MLP, GPT], tmp_path / "data", tmp_path / "work", console=console)
    assert "mlp: full 0." in text_of(console)
    assert "gpt: full -" in text_of(console)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    assert len(times) == 2
    (tmp_path / "data" / "gpt.npz").write_bytes(b"damaged")
    again = screen()
    assert generate([MLP, GPT], tmp_path / "data", tmp_path / "work", console=again)
    assert "mlp" not in text_of(again)
    assert "gpt: full -" in text_of(again)
    assert (tmp_path / "data" / "mlp.npz").stat().st_mtime_ns == times[tmp_path / "data" / "mlp.npz"]


def test_out_of_time_it_says_what_goes_on_next_time(tmp_path: Path) -> None:
    console = screen()
    assert not generate([MLP, GPT], tmp_path / "data", tmp_path / "work", minutes=0.0, console=console)
    assert text_of(console) == "mlp: stopped for now; the next call goes on with it\n"
    listed = screen()
    listed.print(table([MLP], tmp_path / "data"))
    assert "not made yet" in text_of(listed)


def test_a_run_that_another_process_makes_is_left_out(tmp_path: Path) -> None:
    console = screen()
    with Workshop(tmp_path / "work", MLP).open():
        assert not generate([MLP, GPT], tmp_path / "data", tmp_path / "work", console=console)
    assert "mlp: another process makes it; left out" in text_of(console)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["gpt.npz"]


def test_what_is_there_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not made yet") == len(RECIPES)


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["perceptron"])
    assert ended.value.code == 2
    assert "no run has 'perceptron' in its name; see --list" in capsys.readouterr().err


def test_the_command_says_by_its_status_that_runs_are_missing(tmp_path: Path) -> None:
    arguments = ["modular_sum", "--minutes", "0", "--data", str(tmp_path), "--work", str(tmp_path / "work")]
    stopped = subprocess.run(
        [sys.executable, "-m", "benchmarks.switch.generate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert stopped.returncode == 1
    assert "stopped for now" in stopped.stdout


def test_at_least_24_runs_are_checked_in() -> None:
    assert len(CHECKED_IN) >= 24
    assert {recipe.family for recipe in CHECKED_IN} == {recipe.family for recipe in RECIPES}
    assert {path.stem for path in DATA.glob("*.npz")} <= {recipe.name for recipe in RECIPES}
    assert sum(path.stat().st_size for path in DATA.glob("*.npz")) < 10e6


@pytest.mark.parametrize("recipe", CHECKED_IN, ids=lambda recipe: recipe.name)
def test_a_checked_in_run_is_what_its_recipe_says(recipe: Recipe) -> None:
    path = DATA / f"{recipe.name}.npz"
    assert path.stat().st_size < 250e3
    run = dict(np.load(path, allow_pickle=False))
    assert json.loads(str(run["provenance"]))["recipe"] == recipe.to_json()
    assert str(run["family"]) == recipe.family
    assert int(run["seed"]) == recipe.seed
    network = recipe.network.build()
    assert run["names"].tolist() == [name for name, _ in network.named_parameters()]
    assert len(run["switch_points"]) >= 8
    gram = run["gram"]
    assert gram.shape == (len(run["names"]), recipe.intervals + 1, recipe.intervals + 1)
    if np.isfinite(run["loss"]).all():
        # A Gram matrix has no negative eigenvalue beyond rounding.
        eigenvalues = np.linalg.eigvalsh(gram.sum(axis=0))
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]
    # The initialization is made again from the seed, and is what the recording begins with.
    torch.manual_seed(recipe.seed)
    first = [float((p.detach().double() ** 2).sum()) for p in recipe.network.build().parameters()]
    np.testing.assert_allclose(gram[:, 0, 0], first, rtol=1e-12)
