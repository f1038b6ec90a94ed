"""A checkpoint saved after the switch resumes, bit for bit, into a fresh model and a fresh full optimizer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from client.switch.networks import (  # noqa: TID251 # tests/client, on the path of the tests
    NORM,
    OTHERS,
    Net,
    moved,
    network,
    train,
    values,
)
from trajmon.errors import SwitchError
from trajmon.switch import is_switched, restore_switch, switch_back, switch_state, switch_to_norm_only

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """As trainings make them: norm scalars and biases without weight decay."""
    return [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]


def saved_training(path: Path, name: str, **options: Any) -> dict[str, torch.Tensor]:
    """Train, switch, train, save; train on, and give what came of it."""
    model = network()
    optimizer = OPTIMIZERS[name](groups(model))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    train(model, optimizer, range(5), after_step=scheduler.step)
    switch_to_norm_only(model, optimizer, **options)
    train(model, optimizer, range(5, 10), after_step=scheduler.step)
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "switch": json.dumps(switch_state(model)),
        },
        path,
    )
    train(model, optimizer, range(10, 20), after_step=scheduler.step)
    return values(model)


@pytest.mark.parametrize("order", ["switch first", "optimizer first"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_bit_for_bit(tmp_path: Path, name: str, order: str) -> None:
    expected = saved_training(tmp_path / "checkpoint.pt", name, keep=r"head\.bias", mode="soft")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model = network(seed=1)
    optimizer = OPTIMIZERS[name](groups(model))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    model.load_state_dict(saved["model"])
    if order == "optimizer first":
        optimizer.load_state_dict(saved["optimizer"])
    report = restore_switch(model, optimizer, json.loads(saved["switch"]))
    if order == "switch first":
        optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    assert report is not None
    assert (report.mode, list(report.frozen_names)) == ("soft", ["stem.weight", "stem.bias", "head.weight"])
    train(model, optimizer, range(10, 20), after_step=scheduler.step)
    assert moved(expected, model) == []
    # A new switch right after a load, when the optimizer knows of norm parameters only, and the way back.
    switch_back(model, optimizer)
    assert switch_to_norm_only(model, optimizer).trainable_after == 48
    switch_back(model, optimizer)
    before = values(model)
    train(model, optimizer, range(20, 23))
    assert set(moved(before, model)) == {*NORM, *OTHERS}


def test_a_switch_after_a_load_without_its_state(tmp_path: Path) -> None:
    saved_training(tmp_path / "checkpoint.pt", "adamw")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model = network(seed=1)
    optimizer = OPTIMIZERS["adamw"](groups(model))
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert len(optimizer.state) == len(NORM)
    report = switch_to_norm_only(model, optimizer)
    assert report.optimizer_bytes_before == report.optimizer_bytes_after
    before = values(model)
    train(model, optimizer, range(10, 15))
    assert moved(before, model) == NORM


def test_an_older_full_checkpoint_in_a_switched_training() -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](groups(model))
    train(model, optimizer, range(5))
    full = optimizer.state_dict()
    switch_to_norm_only(model, optimizer)
    optimizer.load_state_dict(full)
    before = values(model)
    train(model, optimizer, range(5, 10))
    assert moved(before, model) == NORM


def test_distributed_checkpoint_state_dicts() -> None:
    model, again = network(), network(seed=1)
    optimizer, fresh = (OPTIMIZERS["adamw"](groups(one)) for one in (model, again))
    train(model, optimizer, range(5))
    switch_to_norm_only(model, optimizer)
    train(model, optimizer, range(5, 10))
    # Not the living tensors.
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    again.load_state_dict(model.state_dict())
    # It asks for the state of whatever requires a gradient: the freeze must come first.
    restore_switch(again, fresh, switch_state(model))
    set_optimizer_state_dict(again, fresh, state)
    for one, its in ((model, optimizer), (again, fresh)):
        train(one, its, range(10, 15))
    assert moved(values(model), again) == []


def test_a_state_travels_between_wrappers() -> None:
    model = nn.DataParallel(network())
    optimizer = OPTIMIZERS["adamw"](groups(model))
    switch_to_norm_only(model, optimizer, keep="head")
    state = switch_state(model)
    assert state["norm"] == NORM
    assert state["kept"] == ["head.weight", "head.bias"]
    bare = network()
    report = restore_switch(bare, OPTIMIZERS["adamw"](groups(bare)), state)
    assert report is not None
    assert report.frozen_names == ("stem.weight", "stem.bias")
    assert switch_state(bare) == state


def test_no_state_means_no_switch() -> None:
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    assert switch_state(model) == {}
    assert restore_switch(model, optimizer, {}) is None
    assert not is_switched(model)


def test_restore_into_a_model_that_is_switched_takes_the_new_optimizer() -> None:
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    switch_to_norm_only(model, optimizer)
    newer = OPTIMIZERS["adamw"](groups(model))
    report = restore_switch(model, newer, switch_state(model))
    assert report is not None
    assert report.already
    assert (len(optimizer._optimizer_step_pre_hooks), len(newer._optimizer_step_pre_hooks)) == (0, 1)


GOOD = {
    "version": 1,
    "mode": "auto",
    "norm": NORM,
    "kept": [],
    "include": [],
    "exclude": [],
    "keep": [],
}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({**GOOD, "version": 2}, "switch state of version 2; this one reads 1"),
        ({"version": 1}, "the switch state cannot be read: KeyError('include')"),
        (
            {**GOOD, "norm": None},
            "the switch state cannot be read: TypeError(\"'NoneType' object is not iterable\")",
        ),
        (
            {**GOOD, "norm": [*NORM, "gone.weight", "lost.bias"]},
            "2 of the parameters that were trained are not in this model; the first is 'gone.weight'",
        ),
    ],
    ids=["version", "keys", "types", "names"],
)
def test_a_state_that_does_not_fit_changes_nothing(state: dict[str, Any], text: str) -> None:
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    train(model, optimizer, range(2))
    with pytest.raises(SwitchError) as caught:
        restore_switch(model, optimizer, state)
    assert str(caught.value) == text
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(optimizer.state) == 8
    assert not is_switched(model)
    assert isinstance(model, Net)
