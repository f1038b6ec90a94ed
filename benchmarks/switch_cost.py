"""What the switch to norm-only training saves and costs, on a GPT-2 of 8 layers under AdamW.

* Optimizer state freed.
* Step time before and after; a hard freeze computes no weight gradients, a soft one does.
* The switch itself and the guard's work in each step.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import transformers

from trajmon.switch import switch_back, switch_to_norm_only
from trajmon.switch.report import SwitchReport
from trajmon.switch.wrapping import Freeze

STEPS = 15
FREED_LIMIT_PERCENT = "99+"


class Training:
    """Forward, backward, step on the same tokens."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {
            "n_layer": 8,
            "n_embd": 256,
            "n_head": 8,
            "vocab_size": 8000,
            "n_positions": 128,
        }
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        self.model = transformers.GPT2LMHeadModel(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(0, 8000, (4, 64))

    def step(self) -> float:
        """Seconds that it took."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(self.tokens, labels=self.tokens).loss.backward()
        self.optimizer.step()
        return time.perf_counter() - started

    def seconds(self) -> float:
        """Median, after one step that settles things."""
        self.step()
        return statistics.median(self.step() for _ in range(STEPS))


def guard_seconds(training: Training) -> float:
    """What the hook takes in a step when there is nothing to clear, as under a hard freeze."""
    (hook,) = training.optimizer._optimizer_step_pre_hooks.values()
    rounds = 1000
    started = time.perf_counter()
    for _ in range(rounds):
        hook(training.optimizer, (training.optimizer,), {})
    return (time.perf_counter() - started) / rounds


def run() -> list[dict[str, Any]]:
    """Figures with keys name, value, unit, limit, ok."""
    training = Training()
    figures: list[dict[str, Any]] = []
    full = training.seconds()
    figures.append(_figure("full step", 1e3 * full, "ms"))
    modes: list[Freeze] = ["hard", "soft"]
    for mode in modes:
        started = time.perf_counter()
        report = switch_to_norm_only(training.model, training.optimizer, mode=mode)
        took = time.perf_counter() - started
        if mode == "hard":
            figures += _freed(report)
            figures.append(_figure("guard in each step", 1e6 * guard_seconds(training), "us"))
        after = training.seconds()
        figures.append(_figure(f"the switch, {mode}", 1e3 * took, "ms"))
        figures.append(_figure(f"norm-only step, {mode}", 1e3 * after, "ms"))
        figures.append(_figure(f"norm-only step, {mode}, of the full one", 100 * after / full, "%"))
        switch_back(training.model, training.optimizer)
        training.step()
    return figures


def _freed(report: SwitchReport) -> list[dict[str, Any]]:
    before, after = report.optimizer_bytes_before, report.optimizer_bytes_after
    freed = 100 * (1 - after / before)
    return [
        _figure("parameters trained after the switch", 100 * report.trainable_fraction, "%"),
        _figure("optimizer state before", before / 1e6, "MB"),
        _figure("optimizer state after", after / 1e6, "MB"),
        {
            "name": "optimizer state freed",
            "value": freed,
            "unit": "%",
            "limit": FREED_LIMIT_PERCENT,
            "ok": freed >= 99,
        },
    ]


def _figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "limit": None, "ok": True}


if __name__ == "__main__":
    for figure in run():
        print(figure)
