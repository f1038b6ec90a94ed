"""A small convolutional network with batch norms that learns handwritten digits, recorded from its initialization on.

The recipe is that of the paper's ResNet50: SGD with momentum and weight decay, and a learning rate that drops to a
tenth twice. Weight decay shrinks a network with batch norms, and gradients turn it; both follow from learning rate,
weight decay and steps together. A run here has hundreds of times fewer steps, so its weight decay is larger by as much:
:func:`matched_weight_decay`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from benchmarks.paper.workshop import Watch
from benchmarks.switch.networks import PlainConv, ResNet
from benchmarks.switch.tasks import Batch, Data, Digits, cross_entropy
from torch import Tensor, nn

__all__ = [
    "CIFAR_PULL",
    "IMAGENET_PULL",
    "DigitsTraining",
    "Learner",
    "endless",
    "matched_weight_decay",
    "sam_step",
]

IMAGENET_PULL = 0.1 * 1e-4 * 90 * 5005
"""Learning rate × weight decay × steps of the paper's ResNet50: 0.1, 1e-4, 90 epochs of 5005 batches of 256."""
CIFAR_PULL = 0.1 * 1e-4 * 160 * 391
"""The same of a network on CIFAR-10: 0.1, 1e-4, 160 epochs of 391 batches of 128."""


def matched_weight_decay(pull: float, rate: float, steps: int) -> float:
    """The weight decay with which so few steps at this peak rate have the same product of the three.

    >>> matched_weight_decay(4.5, rate=0.1, steps=1800)
    0.025
    """
    return round(pull / (rate * steps), 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsTraining:
    """All that decides a run."""

    network: ResNet | PlainConv
    rate: float
    """Peak learning rate."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 32
    checkpoints: int = 90
    """Beside the initialization."""
    steps: int = 20
    """Between two checkpoints."""
    drops: tuple[float, ...] = (1 / 3, 2 / 3)
    """Shares of the run after which the learning rate falls to a tenth: after 30 and 60 of 90, as in the paper."""
    noise: float = 0.5
    """Standard deviation of what is added to the images, drawn anew at each step; the ink is 1."""
    wrong_labels: float = 0.0
    """Share of the training images whose label is drawn by chance."""
    sam_radius: float = 0.0
    """How far sharpness-aware minimisation looks; 0: plain SGD."""
    seed: int = 0

    def recipe(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "network_class": type(self.network).__name__}

    @property
    def drops_at(self) -> tuple[int, ...]:
        """Checkpoints at which the learning rate falls."""
        return tuple(round(share * self.checkpoints) for share in self.drops)

    def rate_after(self, checkpoint: int) -> float:
        """Learning rate of the steps that follow a checkpoint, counted from 0."""
        return self.rate * 0.1 ** sum(checkpoint >= at for at in self.drops_at)

    def task(self) -> Digits:
        """What is learnt."""
        return Digits(
            noise=self.noise,
            fresh_noise=self.noise > 0,
            wrong_labels=self.wrong_labels,
            batch=self.batch,
        )

    def train(self, watch: Watch) -> dict[str, float]:
        """Under watch, to the end; accuracy on what is held out, from 0 to 1, and the last training loss in nats."""
        learner = Learner(self)
        loss = 0.0
        with watch(learner.network, optimizer=learner.optimizer) as recorder:
            for checkpoint in range(1, self.checkpoints + 1):
                loss = learner.advance()
                recorder.checkpoint(step=checkpoint * self.steps, metrics={"loss": loss})
        return {"accuracy": learner.accuracy(), "loss": loss}


class Learner:
    """A training between two of its checkpoints. The same settings give the same bits on one thread."""

    def __init__(self, training: DigitsTraining) -> None:
        self.training = training
        self.checkpoint = 0
        torch.manual_seed(training.seed)
        self.network = training.network.build()
        self.network.train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=training.rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        self._task = training.task()
        data = self._task.ready()
        self._held_out = data.held_out()
        self._batches = endless(data, torch.Generator().manual_seed(training.seed))

    def advance(self) -> float:
        """Train to the next checkpoint; mean training loss on the way."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate_after(self.checkpoint)
        losses = []
        for _ in range(self.training.steps):
            batch = next(self._batches)
            loss = cross_entropy(self.network, batch)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            if self.training.sam_radius > 0:
                sam_step(self.network, batch, self.training.sam_radius)
            self.optimizer.step()
            losses.append(loss.detach())
        self.checkpoint += 1
        return torch.stack(losses).mean().item()

    def accuracy(self) -> float:
        """On what is held out; changes nothing."""
        return self._task.score(self.network, self._held_out).metric


def endless(data: Data, generator: torch.Generator) -> Iterator[Batch]:
    """Epoch after epoch, so that an interval between checkpoints need not be one."""
    while True:
        yield from data.batches(generator)


def sam_step(network: nn.Module, batch: Batch, radius: float) -> None:
    """Replace gradients by those of the place `radius` uphill along them (Foret et al. 2021); parameters stay."""
    held = [(parameter, parameter.grad) for parameter in network.parameters() if parameter.grad is not None]
    lengths: list[Tensor] = [gradient.norm() for _, gradient in held]
    scale = radius / (torch.stack(lengths).norm() + 1e-12)
    before = [parameter.detach().clone() for parameter, _ in held]
    with torch.no_grad():
        for parameter, gradient in held:
            parameter.add_(scale * gradient)
    network.zero_grad()
    torch.autograd.backward(cross_entropy(network, batch))
    with torch.no_grad():
        for (parameter, _), value in zip(held, before, strict=True):
            parameter.copy_(value)
