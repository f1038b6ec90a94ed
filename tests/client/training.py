"""A small real training that the recorder's tests watch, here and in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TESTS = Path(__file__).parents[1]

PROGRAM = """
import os, sys, time
sys.path.insert(0, {tests!r})
import torch, trajmon
from client.training import Training
training = Training()
recorder = trajmon.watch(training.model, run="run", optimizer=training.optimizer, server={server!r}, **{options!r})
"""


class Training:
    """Two layers with LayerNorm on random data, float32 and one float64 head; deterministic."""

    def __init__(self, seed: int = 0, width: int = 24) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(12, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.step = 0
        self.loss: Tensor = torch.tensor(0.0)

    def train(self, steps: int) -> None:
        """Go on by so many steps; draws its data from the global generator."""
        for _ in range(steps):
            inputs = torch.randn(16, 12)
            self.loss = (self.model(inputs) - inputs[:, :3].abs()).square().mean()
            self.optimizer.zero_grad()
            self.loss.backward()  # type: ignore[no-untyped-call] # torch's own
            self.optimizer.step()
            self.step += 1

    def parameters(self) -> dict[str, NDArray[np.float64]]:
        """A copy of the parameters, flat, in float64."""
        return {
            name: value.detach().double().reshape(-1).clone().numpy()
            for name, value in self.model.named_parameters()
        }

    def legs(self, count: int, steps: int = 5) -> Iterator[int]:
        """So many pieces of training, each followed by a place for a checkpoint; yields the step."""
        for _ in range(count):
            self.train(steps)
            yield self.step


def gram_of(history: list[dict[str, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """[layers, T, T], computed directly in float64."""
    stacked = [np.stack([point[name] for point in history]) for name in history[0]]
    return np.stack([a @ a.T for a in stacked])


def run_program(body: str, server: str | None, **options: object) -> subprocess.CompletedProcess[str]:
    """A training in a process of its own, watched as `recorder`; the time limit only guards against a hang."""
    program = PROGRAM.format(tests=str(TESTS), server=server, options=options) + body
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100
    )


def start_program(body: str, server: str | None, **options: object) -> subprocess.Popen[str]:
    """The same, going on; whoever starts it ends it."""
    program = PROGRAM.format(tests=str(TESTS), server=server, options=options) + body
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
