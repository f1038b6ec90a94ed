"""Small networks, one for each way to normalise; at most 30 parameter tensors each, so that recordings stay small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Gpt", "Mlp", "Network", "Pairs", "PlainConv", "ResNet", "Vit"]


def _norm(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(4, channels)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = _norm(norm, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = _norm(norm, outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride == 2 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        hidden = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


@dataclass(frozen=True, slots=True)
class ResNet:
    """Stem, three residual blocks, linear head; for [N, 1, 8, 8]."""

    width: int = 12
    norm: Literal["batch", "group"] = "batch"

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        w = self.width
        return nn.Sequential(
            nn.Conv2d(1, w, 3, padding=1, bias=False),
            _norm(self.norm, w),
            nn.ReLU(),
            _Residual(w, w, self.norm),
            _Residual(w, 2 * w, self.norm),
            _Residual(2 * w, 4 * w, self.norm),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * w, 10),
        )


@dataclass(frozen=True, slots=True)
class PlainConv:
    """Four convolutions without shortcuts, then a linear head; for [N, 1, 8, 8]."""

    width: int = 16
    norm: Literal["batch", "group"] = "group"

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        layers: list[nn.Module] = []
        channels = 1
        for wider, stride in ((1, 1), (1, 2), (2, 1), (2, 2)):
            outside = self.width * wider
            layers += [
                nn.Conv2d(channels, outside, 3, stride, 1, bias=False),
                _norm(self.norm, outside),
                nn.ReLU(),
            ]
            channels = outside
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 4, 10))


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


@dataclass(frozen=True, slots=True)
class Mlp:
    """Linear layers with LayerNorm between; for [N, 1, 8, 8].

    With an output scale other than 1 the head starts at 0: the function then starts at 0 and is learnt by small moves
    of the parameters, the lazy regime of Chizat, Oyallon and Bach 2019.
    """

    width: int = 96
    depth: int = 3
    output_scale: float = 1.0

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        layers: list[nn.Module] = [nn.Flatten()]
        inside = 64
        for _ in range(self.depth):
            layers += [nn.Linear(inside, self.width, bias=False), nn.LayerNorm(self.width), nn.ReLU()]
            inside = self.width
        head = nn.Linear(inside, 10)
        if self.output_scale != 1.0:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return nn.Sequential(*layers, head, _Scale(self.output_scale))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        count, length, dim = tokens.shape
        parts = self.qkv(tokens).view(count, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(count, length, dim))
        return merged


class _Block(nn.Module):
    """Attention and a two-layer network, each after a norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, norm: type[nn.Module], *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attention = _Attention(dim, heads, causal=causal)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim, bias=False), nn.GELU(), nn.Linear(2 * dim, dim, bias=False)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        tokens = tokens + self.attention(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class _VitModule(nn.Module):
    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.place = nn.Parameter(0.02 * torch.randn(16, dim))
        self.blocks = nn.Sequential(*(_Block(dim, 2, nn.LayerNorm, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


@dataclass(frozen=True, slots=True)
class Vit:
    """A vision transformer with LayerNorm on 2x2 patches; for [N, 1, 8, 8]."""

    dim: int = 32
    depth: int = 2

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        return _VitModule(self.dim, self.depth)


class _GptModule(nn.Module):
    def __init__(self, vocabulary: int, dim: int, depth: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.place = nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*(_Block(dim, 2, nn.RMSNorm, causal=True) for _ in range(depth)))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        for table in (self.embedding, self.place):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T] -> logits [N, T, vocabulary]."""
        hidden = self.embedding(tokens) + self.place.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


@dataclass(frozen=True, slots=True)
class Gpt:
    """A causal character transformer with RMSNorm."""

    vocabulary: int = 96
    dim: int = 48
    depth: int = 2
    context: int = 48

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        return _GptModule(self.vocabulary, self.dim, self.depth, self.context)


class _PairsModule(nn.Module):
    def __init__(self, modulus: int, dim: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(modulus, dim)
        self.layers = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim, bias=False),
            norm(2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, dim, bias=False),
            norm(dim),
            nn.Linear(dim, modulus, bias=False),
        )

    def forward(self, pairs: Tensor) -> Tensor:
        """[N, 2] -> logits [N, modulus]."""
        logits: Tensor = self.layers(self.embedding(pairs).flatten(1))
        return logits


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two embedded numbers to one, for modular arithmetic."""

    modulus: int = 31
    dim: int = 64
    norm: Literal["layer", "rms"] = "layer"

    def build(self) -> nn.Module:
        """With fresh random parameters."""
        return _PairsModule(self.modulus, self.dim, nn.LayerNorm if self.norm == "layer" else nn.RMSNorm)


Network = ResNet | PlainConv | Mlp | Vit | Gpt | Pairs
