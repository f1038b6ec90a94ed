"""A plain training loop, as a user would have it: nothing in here knows of the monitor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from trajmon.demo.network import SmallResNet

__all__ = ["Epoch", "Training"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch brought."""

    number: int
    """From 1."""
    step: int
    """Optimizer steps so far."""
    loss: float
    """Mean training loss of the epoch."""
    accuracy: float
    """On the test images, 0 to 1."""


class Training:
    """SGD with momentum and weight decay; the learning rate drops by 10 after a half and after three quarters.

    Training images are shifted by up to a pixel and noisy, or ten epochs would learn all there is to learn.
    """

    def __init__(self, epochs: int, seed: int = 0, batch_size: int = 64) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.model = SmallResNet()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, milestones=[epochs // 2, epochs * 3 // 4], gamma=0.1
        )
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(images), generator=self._generator)
        self._test, self._train = order[:360], order[360:]
        self._images, self._labels = images, labels

    def run(self) -> Iterator[Epoch]:
        """Train; yields after each epoch."""
        step = 0
        for number in range(1, self.epochs + 1):
            self.model.train()
            losses = []
            order = self._train[torch.randperm(len(self._train), generator=self._generator)]
            for batch in torch.split(order, self.batch_size):
                loss = nn.functional.cross_entropy(self.model(self._augmented(batch)), self._labels[batch])
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()
                losses.append(loss.detach())
                step += 1
            yield Epoch(number, step, torch.stack(losses).mean().item(), self._accuracy())
            self._schedule.step()

    def _augmented(self, batch: Tensor) -> Tensor:
        shift = torch.randint(-1, 2, (2,), generator=self._generator).tolist()
        noise = 0.3 * torch.randn(len(batch), 1, 8, 8, generator=self._generator)
        return torch.roll(self._images[batch], shift, dims=(2, 3)) + noise

    @torch.no_grad()
    def _accuracy(self) -> float:
        self.model.eval()
        predicted: Tensor = self.model(self._images[self._test]).argmax(dim=1)
        return (predicted == self._labels[self._test]).float().mean().item()
