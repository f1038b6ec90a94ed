"""A GPT-NeoX of any width and depth that learns the next character of Python's own standard library.

The model is transformers' GPTNeoXForCausalLM: attention and MLP side by side, rotary positions, LayerNorm with
biases, no weights tied. Parameters begin as Pythia's do: standard deviation sqrt(2 / (5 width)), and
2 / (depth sqrt(width)) for what writes into the residual stream. Text and order of the windows are the same for every
model of one seed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from benchmarks.paper.workshop import Watch
from benchmarks.switch.tasks import Text
from torch import Tensor, nn

__all__ = ["VOCABULARY", "TextTraining", "build_model", "falling_rate"]

VOCABULARY = 96
"""Printable characters, and one sign for all else."""
_LOWEST_FACTOR = 0.1
_WRITERS = ("attention.dense.weight", "dense_4h_to_h.weight")


@dataclass(frozen=True, slots=True)
class TextTraining:
    """One training: AdamW, linear warm-up, then a cosine down to a tenth of the peak rate."""

    width: int
    depth: int
    heads: int
    peak_rate: float
    intervals: int = 38
    """Between checkpoints."""
    steps: int = 12
    """In an interval."""
    warm_up: int = 2
    """Intervals."""
    batch: int = 8
    context: int = 48
    weight_decay: float = 0.1
    seed: int = 0

    @classmethod
    def total_steps(cls) -> int:
        """Of a training whose length is not set."""
        standard = cls(width=16, depth=1, heads=1, peak_rate=0.0)
        return standard.intervals * standard.steps

    def recipe(self) -> dict[str, Any]:
        """All that decides the outcome."""
        return {**asdict(self), **Text().origin(), "transformers": _transformers_version()}

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm, total = self.warm_up * self.steps, self.intervals * self.steps
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        falling = 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (total - warm)))
        return self.peak_rate * (_LOWEST_FACTOR + (1.0 - _LOWEST_FACTOR) * falling)

    def train(self, watch: Watch) -> dict[str, float]:
        """Under watch; the held-out loss at the beginning and the end in nats a character, and the parameters."""
        torch.manual_seed(self.seed)
        model = build_model(self.width, self.depth, self.heads, self.context)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.peak_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
        )
        task = Text(self.context, self.batch, self.steps).ready()
        held_out = task.held_out()
        generator = torch.Generator().manual_seed(self.seed)
        first = _held_out_loss(model, *held_out)
        recorder = watch(model, optimizer=optimizer, family="gpt_neox")
        step, last = 0, first
        with recorder:
            for _ in range(self.intervals):
                for inputs, targets in task.batches(generator):
                    for group in optimizer.param_groups:
                        group["lr"] = self.rate(step)
                    loss = _cross_entropy(model, inputs, targets)
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    step += 1
                last = _held_out_loss(model, *held_out)
                recorder.checkpoint(step=step, metrics={"loss": last})
        size = sum(parameter.numel() for parameter in model.parameters())
        return {"first_loss": first, "loss": last, "parameters": size}


def falling_rate(width: int) -> float:
    """Peak rate that falls as 1 / width, nearly as those of Pythia do from 70M to 12B (512 to 5120, 1e-3 to 1.2e-4).

    >>> falling_rate(64)
    0.005
    """
    return 0.32 / width


def build_model(width: int, depth: int, heads: int, context: int) -> nn.Module:
    """With fresh random parameters."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=context,
        initializer_range=math.sqrt(2.0 / (5.0 * width)),
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cache=False,
    )
    model: nn.Module = GPTNeoXForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(_WRITERS):
            nn.init.normal_(parameter, std=2.0 / (depth * math.sqrt(width)))
    return model


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    logits = model(input_ids=inputs).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def _held_out_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    model.eval()
    loss = _cross_entropy(model, inputs, targets).item()
    model.train()
    return loss


def _transformers_version() -> str:
    from importlib.metadata import version

    return version("transformers")
