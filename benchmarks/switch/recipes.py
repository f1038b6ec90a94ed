"""The runs of the benchmark. A family is left out as a whole when a policy is judged on what it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from benchmarks.switch.networks import Gpt, Mlp, Network, Pairs, PlainConv, ResNet, Vit
from benchmarks.switch.schedules import Schedule
from benchmarks.switch.tasks import Digits, Modular, Task, Text
from torch import nn

__all__ = ["RECIPES", "OptimizerChoice", "Recipe"]


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """Torch's optimizer and its settings."""

    kind: Literal["sgd", "adamw"]
    rate: float
    """Peak learning rate."""
    momentum: float = 0.0
    """Of SGD."""
    weight_decay: float = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """For these parameters, in their order."""
        if self.kind == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        return torch.optim.AdamW(parameters, lr=self.rate, betas=(0.9, 0.98), weight_decay=self.weight_decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides a run; the same recipe gives the same bits on the same machine and versions."""

    name: str
    """Of its file."""
    family: str
    network: Network
    task: Task
    optimizer: OptimizerChoice
    schedule: Schedule
    seed: int = 0
    intervals: int = 40
    """Checkpoints beside the initialization."""

    def learning_rate(self, interval: int) -> float:
        """Of the interval that leads from checkpoint `interval` to the next."""
        return self.optimizer.rate * self.schedule.factor(interval, self.intervals)

    def to_json(self) -> dict[str, Any]:
        """Plain values; parts with the name of their class as ``kind``."""
        described: dict[str, Any] = asdict(self)
        for part in ("network", "task"):
            described[part] = {"class": type(getattr(self, part)).__name__, **described[part]}
        return described


def _sgd(rate: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> OptimizerChoice:
    return OptimizerChoice("sgd", rate, momentum, weight_decay)


def _adamw(rate: float, weight_decay: float) -> OptimizerChoice:
    return OptimizerChoice("adamw", rate, weight_decay=weight_decay)


_CONSTANT, _STEP, _COSINE = Schedule("constant"), Schedule("step"), Schedule("cosine")
_WARM_COSINE, _WARM_CONSTANT = Schedule("cosine", warm_up=4), Schedule("constant", warm_up=4)


def _of(
    family: str,
    name: str,
    network: Network,
    task: Task,
    optimizer: OptimizerChoice,
    schedule: Schedule,
    seed: int = 0,
) -> Recipe:
    return Recipe(
        name=f"{family}_{name}_{seed}",
        family=family,
        network=network,
        task=task,
        optimizer=optimizer,
        schedule=schedule,
        seed=seed,
    )


_NOISY = Digits(noise=0.8)

_BATCH_NORM = (
    _of("bn_resnet", "sgd_step", ResNet(), _NOISY, _sgd(0.1), _STEP),
    _of("bn_resnet", "sgd_cosine", ResNet(), _NOISY, _sgd(0.1), _COSINE),
    _of("bn_resnet", "sgd_nowd_constant", ResNet(), _NOISY, _sgd(0.05, weight_decay=0.0), _CONSTANT),
    _of("bn_resnet", "sgd_nomomentum_warmup", ResNet(), _NOISY, _sgd(0.3, momentum=0.0), _WARM_COSINE),
    _of("bn_resnet", "sgd_step", ResNet(), _NOISY, _sgd(0.1), _STEP, seed=1),
    _of("bn_resnet", "adamw_constant", PlainConv(norm="batch"), _NOISY, _adamw(3e-3, 0.05), _CONSTANT),
)
_LAYER_NORM = (
    _of(
        "layer_norm", "vit_adamw_warmup", Vit(), Digits(noise=0.4, epochs=2), _adamw(3e-3, 0.1), _WARM_COSINE
    ),
    _of(
        "layer_norm",
        "vit_adamw_nowd_constant",
        Vit(),
        Digits(noise=0.4, epochs=2),
        _adamw(2e-3, 0.0),
        _CONSTANT,
    ),
    _of("layer_norm", "mlp_sgd_cosine", Mlp(), Digits(epochs=2), _sgd(0.05), _COSINE),
    _of("layer_norm", "mlp_sgd_plain_step", Mlp(), Digits(epochs=2), _sgd(0.2, 0.0, 0.0), _STEP),
    _of("layer_norm", "mlp_adamw_constant", Mlp(), Digits(epochs=2), _adamw(1e-3, 0.1), _CONSTANT, seed=1),
)
_GROUP_NORM = (
    _of("group_norm", "sgd_step", PlainConv(), _NOISY, _sgd(0.05), _STEP),
    _of("group_norm", "sgd_nowd_constant", PlainConv(), _NOISY, _sgd(0.03, weight_decay=0.0), _CONSTANT),
    _of("group_norm", "adamw_cosine", PlainConv(), _NOISY, _adamw(3e-3, 0.1), _COSINE),
    _of(
        "group_norm", "resnet_sgd_warmup", ResNet(norm="group"), _NOISY, _sgd(0.2, momentum=0.0), _WARM_COSINE
    ),
)
_RMS_NORM = (
    _of("rms_gpt", "adamw_warmup", Gpt(), Text(), _adamw(5e-3, 0.1), _WARM_COSINE),
    _of("rms_gpt", "adamw_warmup", Gpt(), Text(), _adamw(5e-3, 0.1), _WARM_COSINE, seed=1),
    _of("rms_gpt", "adamw_nowd_constant", Gpt(), Text(), _adamw(2e-3, 0.0), _WARM_CONSTANT),
    _of("rms_gpt", "adamw_step", Gpt(), Text(), _adamw(3e-3, 0.1), _STEP),
    _of("rms_gpt", "sgd_cosine", Gpt(), Text(), _sgd(0.3, weight_decay=0.0), _WARM_COSINE),
)
_MODULAR = (
    _of("modular", "sum_adamw", Pairs(), Modular(), _adamw(2e-3, 1.0), _WARM_CONSTANT),
    _of("modular", "sum_adamw_slow", Pairs(), Modular(), _adamw(1e-3, 1.0), _WARM_CONSTANT, seed=1),
    _of(
        "modular",
        "product_adamw_rms",
        Pairs(norm="rms"),
        Modular(operation="product"),
        _adamw(2e-3, 1.0),
        _CONSTANT,
    ),
    _of("modular", "sum_adamw_cosine", Pairs(), Modular(), _adamw(2e-3, 1.0), _WARM_COSINE),
)
_LAZY = (
    _of("lazy", "resnet_rate", ResNet(), _NOISY, _sgd(1.5e-2, 0.0, 0.0), _STEP),
    _of("lazy", "resnet_rate_constant", ResNet(), _NOISY, _sgd(6e-3, 0.0, 0.0), _CONSTANT),
    _of(
        "lazy",
        "mlp_scale",
        Mlp(output_scale=30.0),
        Digits(noise=0.4, epochs=2),
        _sgd(3e-4, 0.0, 0.0),
        _CONSTANT,
    ),
    _of("lazy", "group_rate", PlainConv(), _NOISY, _sgd(1.5e-2, 0.0, 0.0), _COSINE),
)
_WRONG = Digits(noise=0.3, wrong_labels=0.3)
_LABEL_NOISE = (
    _of("label_noise", "resnet_sgd_step", ResNet(), _WRONG, _sgd(0.1), _STEP),
    _of(
        "label_noise",
        "vit_adamw_cosine",
        Vit(),
        Digits(noise=0.3, wrong_labels=0.3, epochs=2),
        _adamw(2e-3, 0.05),
        _COSINE,
    ),
    _of("label_noise", "group_sgd_constant", PlainConv(), _WRONG, _sgd(0.03), _CONSTANT),
    _of("label_noise", "mlp_sgd_step", Mlp(), Digits(noise=0.3, wrong_labels=0.5), _sgd(0.05), _STEP),
)

RECIPES: tuple[Recipe, ...] = (
    *_BATCH_NORM,
    *_LAYER_NORM,
    *_GROUP_NORM,
    *_RMS_NORM,
    *_MODULAR,
    *_LAZY,
    *_LABEL_NOISE,
)
