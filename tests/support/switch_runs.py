"""Runs like those of the switch benchmark, in a second or two each."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks.switch.networks import Gpt, Mlp, Network, Pairs, PlainConv, ResNet, Vit
from benchmarks.switch.recipes import OptimizerChoice, Recipe
from benchmarks.switch.schedules import Schedule
from benchmarks.switch.tasks import Digits, Modular, Task, Text
from benchmarks.switch.training import State, Training

SGD = OptimizerChoice("sgd", 0.05, momentum=0.9, weight_decay=5e-4)
ADAMW = OptimizerChoice("adamw", 3e-3, weight_decay=0.1)
_DIGITS = Digits(batch=399)


def tiny(
    name: str,
    network: Network,
    task: Task,
    optimizer: OptimizerChoice,
    shape: Any = "cosine",
    intervals: int = 6,
) -> Recipe:
    """A recipe of few steps."""
    return Recipe(
        name=name,
        family="tiny",
        network=network,
        task=task,
        optimizer=optimizer,
        schedule=Schedule(shape, warm_up=1),
        seed=3,
        intervals=intervals,
    )


TINY = (
    tiny("batch_norm", ResNet(width=4), _DIGITS, SGD),
    tiny("batch_norm_adamw", PlainConv(width=4, norm="batch"), _DIGITS, ADAMW, "step"),
    tiny("group_norm", PlainConv(width=4), _DIGITS, OptimizerChoice("sgd", 0.1), "constant"),
    tiny("mlp", Mlp(width=16), Digits(batch=399, wrong_labels=0.3, epochs=2), SGD),
    tiny("mlp_scaled", Mlp(width=16, output_scale=30.0), _DIGITS, OptimizerChoice("sgd", 1e-3)),
    tiny("vit", Vit(dim=8), _DIGITS, ADAMW),
    tiny("gpt", Gpt(dim=8, context=12), Text(context=12, batch=4, steps=3), ADAMW),
    tiny("pairs", Pairs(modulus=7, dim=8), Modular(modulus=7, steps=4, batch=16), ADAMW),
    tiny("pairs_rms", Pairs(modulus=7, dim=8, norm="rms"), Modular(7, "product", steps=4), ADAMW),
)


def full_run(recipe: Recipe) -> list[State]:
    """The state at every checkpoint of an undisturbed run."""
    training = Training(recipe)
    states = [training.state()]
    while not training.is_over:
        training.advance()
        states.append(training.state())
    return states


def tensors(value: Any, where: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number in a nest of mappings and lists, by its place."""
    if isinstance(value, torch.Tensor):
        return {where: value}
    if isinstance(value, dict):
        return {
            key: one
            for name, inner in value.items()
            for key, one in tensors(inner, f"{where}/{name}").items()
        }
    if isinstance(value, list | tuple):
        return tensors(dict(enumerate(value)), where)
    return {where: torch.tensor(float(value))} if isinstance(value, int | float) else {}


def same_bits(one: Any, other: Any) -> bool:
    """Whether two nests hold the same tensors at the same places, bit for bit."""
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype
        and first[key].shape == second[key].shape
        and first[key].contiguous().numpy().tobytes() == second[key].contiguous().numpy().tobytes()
        for key in first
    )
