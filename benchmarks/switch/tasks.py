"""What is learnt, from data that every installation has: handwritten digits, Python's own sources, sums modulo p."""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

__all__ = ["Batch", "Digits", "Modular", "Score", "Task", "Text"]


class Batch(NamedTuple):
    """Of one step."""

    inputs: Tensor
    targets: Tensor


class Score(NamedTuple):
    """On what was held out; NaN both where the network's outputs are not finite."""

    metric: float
    """Higher is better: accuracy from 0 to 1, or minus the loss."""
    loss: float
    """Mean cross entropy, nats."""


class Data(Protocol):
    """A task that has been made ready."""

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Of one interval between checkpoints; all that is random comes from the generator."""

    def held_out(self) -> Batch:
        """The same at each call."""


def cross_entropy(network: nn.Module, batch: Batch) -> Tensor:
    """Mean over all targets; nats."""
    return nn.functional.cross_entropy(network(batch.inputs).flatten(0, -2), batch.targets.flatten())


@torch.no_grad()
def accuracy_and_loss(network: nn.Module, batch: Batch) -> tuple[float, float]:
    """Both NaN if the outputs are not finite; leaves the network in training mode."""
    network.eval()
    logits = network(batch.inputs).flatten(0, -2)
    network.train()
    targets = batch.targets.flatten()
    loss = nn.functional.cross_entropy(logits, targets).item()
    if not math.isfinite(loss):
        return math.nan, math.nan
    return (logits.argmax(dim=-1) == targets).double().mean().item(), loss


@cache
def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    return images, torch.tensor(digits.target)


class _DigitsData:
    def __init__(self, task: Digits) -> None:
        fixed = torch.Generator().manual_seed(task.data_seed)
        images, labels = _digits()
        order = torch.randperm(len(images), generator=fixed)
        test, train = order[:600], order[600:]
        self._task = task
        self._images, self._labels = images[train], labels[train].clone()
        wrong = torch.rand(len(train), generator=fixed) < task.wrong_labels
        self._labels[wrong] = torch.randint(10, (int(wrong.sum()),), generator=fixed)
        # Each test image twice, with noise of its own: halves what chance adds to the accuracy.
        clean = images[test].repeat(2, 1, 1, 1)
        noise = task.noise * torch.randn(clean.shape, generator=fixed)
        self._test = Batch(clean + noise, labels[test].repeat(2))

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for _ in range(self._task.epochs):
            order = torch.randperm(len(self._images), generator=generator)
            # The last, smaller batch is left out: batch norms do not like a batch of a few.
            for chosen in torch.split(order, self._task.batch)[: len(order) // self._task.batch]:
                images = self._images[chosen]
                if self._task.fresh_noise:
                    images = images + self._task.noise * torch.randn(images.shape, generator=generator)
                yield Batch(images, self._labels[chosen])

    def held_out(self) -> Batch:
        return self._test


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits of scikit-learn, 8x8, under noise: 1197 to learn from, 600 held out (each twice)."""

    noise: float = 0.6
    """Standard deviation; the ink is 1."""
    fresh_noise: bool = True
    """Training images get new noise each time; otherwise none."""
    wrong_labels: float = 0.0
    """Share of the training images whose label is drawn by chance, once."""
    batch: int = 63
    epochs: int = 1
    """In one interval between checkpoints."""
    data_seed: int = 0

    def ready(self) -> Data:
        """With its data loaded."""
        return _DigitsData(self)

    def score(self, network: nn.Module, held_out: Batch) -> Score:
        """Accuracy and loss."""
        return Score(*accuracy_and_loss(network, held_out))

    def origin(self) -> dict[str, Any]:
        """Where the data come from."""
        return {"data": "sklearn.datasets.load_digits"}


_SOURCES = ("argparse.py", "ast.py", "inspect.py", "pathlib.py", "statistics.py", "typing.py")


@cache
def _source_text() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in _SOURCES)


class _TextData:
    def __init__(self, task: Text) -> None:
        self._task = task
        codes = torch.tensor(list(_source_text().encode("ascii", errors="replace")))
        # Printable characters are 1 to 95, all else is 0.
        codes = torch.where((codes >= 32) & (codes < 127), codes - 31, 0)
        cut = len(codes) * 9 // 10
        self._train, test = codes[:cut], codes[cut:]
        starts = torch.linspace(0, len(test) - task.context - 1, 96).long()
        self._test = self._windows(test, starts)

    def _windows(self, codes: Tensor, starts: Tensor) -> Batch:
        places = starts[:, None] + torch.arange(self._task.context + 1)
        return Batch(codes[places[:, :-1]], codes[places[:, 1:]])

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        highest = len(self._train) - self._task.context
        for _ in range(self._task.steps):
            yield self._windows(self._train, torch.randint(highest, (self._task.batch,), generator=generator))

    def held_out(self) -> Batch:
        return self._test


@dataclass(frozen=True, slots=True)
class Text:
    """The next character of Python's own standard library; the last tenth is held out."""

    context: int = 48
    batch: int = 16
    steps: int = 25
    """In one interval between checkpoints."""

    def ready(self) -> Data:
        """With its data loaded."""
        return _TextData(self)

    def score(self, network: nn.Module, held_out: Batch) -> Score:
        """Minus the loss, and the loss."""
        _, loss = accuracy_and_loss(network, held_out)
        return Score(-loss, loss)

    def origin(self) -> dict[str, Any]:
        """Where the data come from: it differs between versions of Python."""
        digest = hashlib.sha256(_source_text().encode()).hexdigest()
        return {"data": "standard library: " + " ".join(_SOURCES), "sha256": digest}


class _ModularData:
    def __init__(self, task: Modular) -> None:
        p = task.modulus
        self._steps = task.steps
        first, second = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
        answers = (first + second if task.operation == "sum" else first * second) % p
        order = torch.randperm(p * p, generator=torch.Generator().manual_seed(task.data_seed))
        cut = int(task.share * p * p)
        pairs = torch.stack([first, second], dim=1)
        self._train = Batch(pairs[order[:cut]], answers[order[:cut]])
        self._test = Batch(pairs[order[cut:]], answers[order[cut:]])
        self._batch = min(task.batch, cut)

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for _ in range(self._steps):
            chosen = torch.randperm(len(self._train.inputs), generator=generator)[: self._batch]
            yield Batch(self._train.inputs[chosen], self._train.targets[chosen])

    def held_out(self) -> Batch:
        return self._test


@dataclass(frozen=True, slots=True)
class Modular:
    """Sum or product of two numbers modulo a prime, from a share of all pairs; the others are held out."""

    modulus: int = 31
    operation: Literal["sum", "product"] = "sum"
    share: float = 0.6
    batch: int = 256
    steps: int = 150
    """In one interval between checkpoints."""
    data_seed: int = 0

    def ready(self) -> Data:
        """With its data made."""
        return _ModularData(self)

    def score(self, network: nn.Module, held_out: Batch) -> Score:
        """Accuracy and loss."""
        return Score(*accuracy_and_loss(network, held_out))

    def origin(self) -> dict[str, Any]:
        """Where the data come from."""
        return {"data": "all pairs below the modulus"}


Task = Digits | Text | Modular
