"""Steps are counted on the optimizer that really steps."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from trajmon._trigger import StepTrigger
from trajmon.schedules import parse_schedule


def test_steps_of_an_optimizer_that_accelerate_wraps_are_counted() -> None:
    model = nn.Linear(2, 2)
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    seen: list[int] = []
    trigger = StepTrigger(optimizer, parse_schedule(2), seen.append, 0)
    for _ in range(4):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    trigger.close()
    assert seen == [2, 4]
