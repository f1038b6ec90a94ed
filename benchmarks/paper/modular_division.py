"""Division modulo a prime, and the small decoder that learns it: the task on which grokking was found.

Tokens are ``a ÷ b =``; what follows is a · b⁻¹ modulo p. A share of all pairs is learnt from, the others are held out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from benchmarks.paper.workshop import Watch
from torch import Tensor, nn

__all__ = ["Decoder", "Division", "pairs_and_answers"]

_TOKENS = 4
_WARM_UP_STEPS = 10


def pairs_and_answers(modulus: int) -> tuple[Tensor, Tensor]:
    """All ``a ÷ b =`` with b other than 0, [p (p - 1), 4], and what they give, [p (p - 1)]. The modulus is prime.

    >>> tokens, answers = pairs_and_answers(5)
    >>> tokens[8].tolist(), int(answers[8])   # 3 ÷ 2 = 4, for 4 · 2 is 3 modulo 5
    ([3, 5, 2, 6], 4)
    """
    dividend = torch.arange(modulus).repeat(modulus - 1)
    divisor = torch.arange(1, modulus).repeat_interleave(modulus)
    inverse = torch.tensor([0, *(pow(value, -1, modulus) for value in range(1, modulus))])
    signs = [torch.full_like(dividend, modulus), torch.full_like(dividend, modulus + 1)]
    tokens = torch.stack([dividend, signs[0], divisor, signs[1]], dim=1)
    return tokens, dividend * inverse[divisor] % modulus


class _Layer(nn.Module):
    """Attention and MLP, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, *, is_last: bool) -> Tensor:
        """[N, T, D] -> [N, T, D]; of the last layer only what stands at the last token, [N, 1, D]."""
        count, length, width = hidden.shape
        parts = self.qkv(self.norm1(hidden)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if is_last:
            query, hidden = query[:, :, -1:], hidden[:, -1:]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=not is_last)
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(count, -1, width))
        deeper: Tensor = hidden + self.down(nn.functional.gelu(self.up(self.norm2(hidden))))
        return deeper


class Decoder(nn.Module):
    """A causal decoder; embeddings begin with standard deviation 1, as torch's do."""

    def __init__(self, modulus: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(modulus + 2, width)
        self.place = nn.Embedding(_TOKENS, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, modulus + 2, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, 4] -> logits of what follows, [N, p + 2]."""
        hidden = self.embedding(tokens) + self.place.weight
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, is_last=number == len(self.layers))
        logits: Tensor = self.head(self.norm(hidden))[:, -1]
        return logits


@dataclass(frozen=True, slots=True)
class Division:
    """One training: AdamW with a short warm-up, then a constant rate."""

    modulus: int = 59
    share: float = 0.6
    """Of the pairs, to learn from."""
    batch: int = 512
    """Drawn with replacement."""
    width: int = 128
    depth: int = 1
    heads: int = 4
    rate: float = 1e-3
    weight_decay: float = 0.5
    intervals: int = 60
    """Between checkpoints."""
    steps: int = 75
    """In an interval."""
    seed: int = 0

    def recipe(self) -> dict[str, Any]:
        """All that decides the outcome."""
        return asdict(self)

    def train(self, watch: Watch) -> dict[str, float]:
        """Under watch; each checkpoint has the metrics `train_accuracy` and `test_accuracy`, from 0 to 1."""
        torch.manual_seed(self.seed)
        model = Decoder(self.modulus, self.width, self.depth, self.heads)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.rate, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )
        tokens, answers = pairs_and_answers(self.modulus)
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(self.seed))
        cut = int(self.share * len(tokens))
        learnt, held_out = order[:cut], order[cut:]
        generator = torch.Generator().manual_seed(self.seed)
        metrics = {"train_accuracy": 0.0, "test_accuracy": 0.0}
        step = 0
        with watch(model, optimizer=optimizer, family=None) as recorder:
            for _ in range(self.intervals):
                for _ in range(self.steps):
                    for group in optimizer.param_groups:
                        group["lr"] = self.rate * min(1.0, (step + 1) / _WARM_UP_STEPS)
                    # In float64: in float32 the loss of what is memorised rounds to 0, and Adam then divides
                    # rounding errors by rounding errors.
                    chosen = learnt[torch.randint(cut, (self.batch,), generator=generator)]
                    logits = model(tokens[chosen]).double()
                    loss = nn.functional.cross_entropy(logits, answers[chosen])
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    step += 1
                metrics = {
                    "train_accuracy": _accuracy(model, tokens[learnt], answers[learnt]),
                    "test_accuracy": _accuracy(model, tokens[held_out], answers[held_out]),
                }
                recorder.checkpoint(step=step, metrics=metrics)
        return metrics


@torch.no_grad()
def _accuracy(model: nn.Module, tokens: Tensor, answers: Tensor) -> float:
    return float((model(tokens).argmax(dim=1) == answers).double().mean())
