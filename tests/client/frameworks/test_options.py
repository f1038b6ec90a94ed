"""What the callbacks take, and how they name runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trajmon
from client.recording import free_port  # noqa: TID251 # tests/client, on the path of the tests
from trajmon._framework_options import Options, free_name, unique_name
from trajmon._frameworks import Follower
from trajmon.accelerate import prepare_recorder
from trajmon.errors import RefusedError
from trajmon.huggingface import TrajectoryCallback as ForHuggingFace
from trajmon.lightning import TrajectoryCallback as ForLightning
from trajmon.rundir import RunDescription, RunDir
from trajmon_protos.names import RUN_NAME


def away() -> str:
    """Where no server is; without an address one would be started."""
    return f"127.0.0.1:{free_port()}"


FORMS = 'give a number of steps, "step", "every 100 steps", "epoch", '


@pytest.mark.parametrize("callback", [ForLightning, ForHuggingFace, Options])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": "never"}, f"'never' is not a schedule; {FORMS}"),
        ({"every": 0}, "EverySteps: n is 0, not a whole number of at least 1"),
        ({"resume": "maybe"}, 'resume=\'maybe\' is not one of "never", "allow", "must"'),
        ({"copy": "later"}, 'copy=\'later\' is not one of "wait", "overlap"'),
        ({"on_advice": "obey"}, 'on_advice=\'obey\' is not one of "log", "callback", "switch"'),
        ({"on_advice": "callback"}, 'on_advice="callback" and advice_callback go together'),
        ({"advice_callback": print}, 'on_advice="callback" and advice_callback go together'),
        ({"plan": 3}, "plan is a int; a trajmon.Plan is expected"),
        ({"log_hallmarks": "network"}, "log_hallmarks='network' is not True, False or a list of groups"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    callback: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError) as refused:
        callback(**options)
    assert str(refused.value).startswith(text)


def test_groups_to_log() -> None:
    assert Options().logged_groups == ("network",)
    assert Options(log_hallmarks=False).logged_groups == ()
    assert Options(log_hallmarks=["norm", "mlp"]).logged_groups == ("norm", "mlp")


@pytest.mark.parametrize("word", ["ResNet", "my run/3", "…", "x" * 200, "-.-", "Größe"])
def test_made_names_are_names(word: str) -> None:
    names = {unique_name(word) for _ in range(20)}
    assert len(names) > 1
    assert all(RUN_NAME.fullmatch(name) for name in names)


def test_a_free_name_is_no_runs(tmp_path: Path) -> None:
    assert free_name(tmp_path, "run") == "run"
    for folder in ("run", "run-2~0123456789abcdef~00001", "x" * 64):
        (tmp_path / "client" / folder).mkdir(parents=True)
        (tmp_path / "client" / folder / "run.json").touch()
    assert free_name(tmp_path, "run") == "run-3", "whole, and in parts"
    assert free_name(tmp_path, "x" * 64) == "x" * 62 + "-2"
    assert free_name(tmp_path, "../../run") == "../../run", "for the recorder to refuse"


@pytest.mark.parametrize("taker", [ForLightning, ForHuggingFace, prepare_recorder])
def test_they_take_what_watch_takes(taker: Any) -> None:
    def defaults(function: Any) -> dict[str, object]:
        return {name: one.default for name, one in inspect.signature(function).parameters.items()}

    # The framework counts steps and ends; a run without a name gets one, and resumes go on with theirs.
    own = {"model", "optimizer", "run", "every", "first_step", "resume"}
    wanted = {name: value for name, value in defaults(trajmon.watch).items() if name not in own}
    assert {"family", "copy", "snapshot_dir", "memory_budget_bytes"} <= set(wanted)
    taken = defaults(taker)
    assert {name: taken.get(name, "not there") for name in wanted} == wanted
    options = {one.name: one.default for one in fields(Options)}
    assert {name: options[name] for name in wanted} == wanted


class Attention(nn.Module):
    """Built as nanoGPT names it: nothing but the name of the family tells what `c_attn` holds."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(6, 18, bias=False)
        self.c_proj = nn.Linear(6, 6, bias=False)


@pytest.mark.parametrize(
    ("make", "family", "parts"),
    [
        (lambda: nn.MultiheadAttention(6, 2, bias=False), "auto", 4),
        (lambda: nn.MultiheadAttention(6, 2, bias=False), None, 2),
        (lambda: nn.ModuleDict({"attn": Attention()}), "nanogpt", 4),
        (lambda: nn.ModuleDict({"attn": Attention()}), "auto", 2),
    ],
)
def test_family_and_folder_reach_the_run(
    make: Callable[[], nn.Module], family: str | None, parts: int, lonely_home: Path, tmp_path: Path
) -> None:
    model = make()
    options = Options(
        run="run",
        family=family,
        snapshot_dir=tmp_path / "fast",
        server=away(),
        close_timeout=0.0,
        strict=True,
    )
    follower = Follower(options)
    follower.start(model, [], step=0, word="model")
    follower.end()
    run = RunDescription.read(RunDir.of(lonely_home, "run"))
    assert len(run.layout.layers) == parts
    assert RunDir.of(lonely_home, "run").snapshots.resolve() == tmp_path / "fast" / "run"


def test_a_model_that_is_not_of_its_family_is_not_recorded(
    lonely_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(Options(run="run", family="resnet-ish", server=away(), close_timeout=0.0))
    follower.start(nn.Linear(2, 2), [], step=0, word="model")
    recorder = follower.recorder
    assert recorder is not None
    assert recorder.status.state == "refused"
    assert recorder.status.reason.startswith("there is no model family 'resnet-ish'; there are albert, ")
    assert "run 'run' is not recorded: there is no model family 'resnet-ish'" in caplog.text
    assert not (lonely_home / "client").exists()


def test_a_copy_beside_training_is_for_one_optimizer(
    lonely_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    for count, run in ((1, "one"), (2, "two")):
        follower = Follower(Options(run=run, copy="overlap", server=away(), close_timeout=0.0, strict=True))
        follower.start(model, optimizers[:count], step=0, word="model")
        follower.end()
    warned = [record.getMessage() for record in caplog.records if "overlap" in record.getMessage()]
    assert warned == ['run \'two\': copy="overlap" is for one optimizer, not 2; "wait" is used']


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"copy": "overlap"}, 'copy="overlap" needs optimizer=, whose next step must wait for the copy'),
        ({"memory_budget_bytes": -1}, "memory_budget_bytes=-1 is not at least 0"),
    ],
)
def test_what_watch_refuses_is_raised_if_wanted(
    options: dict[str, Any], text: str, lonely_home: Path
) -> None:
    follower = Follower(Options(run="run", server=away(), close_timeout=0.0, strict=True, **options))
    with pytest.raises(RefusedError) as refused:
        follower.start(nn.Linear(2, 2), [], step=0, word="model")
    assert str(refused.value) == text
    assert not (lonely_home / "client").exists()
