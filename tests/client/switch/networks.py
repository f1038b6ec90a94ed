"""Small real networks and trainings for the tests of the switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trajmon.switch import switch_to_norm_only
from trajmon.switch.wrapping import walk


class Net(nn.Module):
    """Convolution, batch norm, layer norm, and a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm1d(width)
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        # Not batch norm at once: it would take the stem's bias away.
        x = self.bn(torch.relu(self.stem(x))).square().mean(2)
        answer: Tensor = self.head(self.ln(x))
        return answer


NORM = ["bn.weight", "bn.bias", "ln.weight", "ln.bias"]
OTHERS = ["stem.weight", "stem.bias", "head.weight", "head.bias"]


def network(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters by name without wrappers."""
    return {
        f"{path}.{name}": parameter.detach().clone()
        for path, module in walk(model)
        for name, parameter in module._parameters.items()
        if parameter is not None
    }


def moved(before: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Names of the parameters whose bits changed."""
    after = values(model)
    return [name for name in before if not torch.equal(before[name], after[name])]


def batch(step: int) -> Tensor:
    """The same data for the same step, without the global generator."""
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, step: int) -> Tensor:
    x = batch(step)
    loss: Tensor = (model(x) - x.mean(2)[:, :2]).square().mean()
    return loss


def train(
    model: nn.Module,
    optimizer: Any,
    steps: range,
    *,
    set_to_none: bool = True,
    after_backward: Callable[[], object] = lambda: None,
    after_step: Callable[[], object] = lambda: None,
) -> list[float]:
    """The plain loop; the losses."""
    losses = []
    for step in steps:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = loss_of(model, step)
        loss.backward()  # type: ignore[no-untyped-call] # torch states no types here
        after_backward()
        optimizer.step()
        after_step()
        losses.append(loss.item())
    return losses


def check_freeze(model: nn.Module, optimizer: Any, **options: Any) -> None:
    """Train 6 steps, switch, train 50: norm parameters move, the others keep every bit."""
    train(model, optimizer, range(6), **options)
    report = switch_to_norm_only(model, optimizer)
    assert report.training_mode == "norm_only"
    before = values(model)
    train(model, optimizer, range(6, 56), **options)
    assert moved(before, model) == NORM
