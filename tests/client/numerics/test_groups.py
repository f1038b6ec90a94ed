"""Which layers belong together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trajmon.numerics.errors import ModelError
from trajmon.numerics.model import ModelPlan, is_norm_module, plan_model


def members(plan: ModelPlan, group: str) -> list[str]:
    layers = [entry.layers for entry in plan.layout.groups if entry.name == group]
    assert len(layers) == 1, f"{len(layers)} groups named {group}"
    return [plan.layout.layers[index].name for index in layers[0]]


def group_names(plan: ModelPlan) -> list[str]:
    return [group.name for group in plan.layout.groups]


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)


class ResNet(nn.Module):
    def __init__(self, *depths: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        for index, depth in enumerate(depths, 1):
            setattr(self, f"layer{index}", nn.Sequential(*(ResidualBlock(4) for _ in range(depth))))
        self.fc = nn.Linear(4, 10)


class RMSNorm(nn.Module):
    """A model's own normalisation layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))


class CausalSelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)


class TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width)
        self.ln_2 = RMSNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, width), "c_proj": nn.Linear(width, width)})


class GPT(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 4)
        self.wpe = nn.Embedding(5, 4)
        self.h = nn.ModuleList(TransformerBlock(4) for _ in range(depth))
        self.ln_f = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 11, bias=False)


def test_a_residual_network() -> None:
    plan = plan_model(ResNet(2, 1, 2))
    blocks = [f"block.0{index}" for index in range(5)]
    assert group_names(plan) == ["network", "norm", "non_norm", "head", "conv", *blocks]
    assert members(plan, "head") == ["fc.weight", "fc.bias"]
    assert members(plan, "block.02") == [
        f"layer2.0.{name}" for name in ("conv1.weight", "bn1.weight", "bn1.bias")
    ]
    assert members(plan, "norm")[:3] == ["bn1.weight", "bn1.bias", "layer1.0.bn1.weight"]
    assert len(members(plan, "conv")) == 6
    assert sorted(members(plan, "norm") + members(plan, "non_norm")) == sorted(members(plan, "network"))


def test_blocks_of_one_each_are_counted_through() -> None:
    plan = plan_model(ResNet(1, 1, 1))
    assert members(plan, "block.02")[0] == "layer3.0.conv1.weight"


def test_a_language_model() -> None:
    plan = plan_model(GPT(2))
    kinds = ["network", "norm", "non_norm", "attention", "attention.qkv", "mlp", "embedding", "head"]
    assert group_names(plan) == [*kinds, "block.00", "block.01"]
    assert members(plan, "attention.qkv") == [
        f"h.{i}.attn.c_attn.{p}" for i in (0, 1) for p in ("weight", "bias")
    ]
    assert len(members(plan, "attention")) == 8
    assert len(members(plan, "mlp")) == 8
    assert members(plan, "embedding") == ["wte.weight", "wpe.weight"]
    assert "h.0.ln_2.scale" in members(plan, "norm")


@pytest.mark.parametrize(
    ("depth", "last"), [(8, "block.07"), (9, "block.08"), (12, "block.10-11"), (120, "block.105-119")]
)
def test_many_blocks_are_merged_with_their_neighbours(depth: int, last: str) -> None:
    plan = plan_model(GPT(depth))
    assert len(plan.layout.groups) <= 16
    assert group_names(plan)[-1] == last
    blocks = [name for name in group_names(plan) if name.startswith("block.")]
    everything = [layer for name in blocks for layer in members(plan, name)]
    assert everything == [name for name in members(plan, "network") if name.startswith("h.")]


def test_torchs_own_transformer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    plan = plan_model(nn.TransformerEncoder(layer, 2))
    assert members(plan, "attention.qkv") == [
        f"layers.{i}.self_attn.in_proj_{p}" for i in (0, 1) for p in ("weight", "bias")
    ]
    assert members(plan, "mlp")[:4] == [f"layers.0.linear{i}.{p}" for i in (1, 2) for p in ("weight", "bias")]


def test_a_network_that_is_called_mlp_is_not_one_group() -> None:
    class MLP(nn.Sequential):
        pass

    plan = plan_model(MLP(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    assert group_names(plan) == ["network", "non_norm", "linear", "block.00", "block.01"]
    assert members(plan, "block.01") == ["2.weight", "2.bias"]


def test_a_single_layer_has_no_blocks() -> None:
    assert group_names(plan_model(nn.Linear(2, 2))) == ["network", "non_norm", "linear"]
    assert group_names(plan_model(nn.LayerNorm(2))) == ["network", "norm"]


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm2d(2, affine=True),
        nn.LayerNorm(2),
        nn.GroupNorm(1, 2),
        nn.RMSNorm(2),
        nn.LazyBatchNorm1d(),
        RMSNorm(3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_normalisation_layers(module: nn.Module) -> None:
    assert is_norm_module(module)


def named(name: str, **parts: Any) -> nn.Module:
    module: nn.Module = type(name, (nn.Module,), {})()
    for key, part in parts.items():
        setattr(module, key, part)
    return module


@pytest.mark.parametrize(
    "module",
    [
        named("PreLayerNormModel", dense=nn.Linear(2, 2)),
        named("LayerNormConvLayer", conv=nn.Conv1d(1, 1, 1), scale=nn.Parameter(torch.ones(1))),
        named("WeightNorm", w=nn.Parameter(torch.ones(2, 2))),
        named("NormalHead", w=nn.Parameter(torch.ones(2))),
        named("NormWithoutParameters"),
        type("NormedEmbedding", (nn.Embedding,), {})(3, 2),
        type("NormLinear", (nn.Linear,), {})(3, 2),
        nn.Linear(2, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_only_looks_like_normalisation(module: nn.Module) -> None:
    assert not is_norm_module(module)


def test_user_groups_by_pattern() -> None:
    plan = plan_model(
        ResNet(1, 1), groups={"stem": r"^(conv1|bn1)\.", "ends": ["^conv1", r"^fc\."], "conv": "conv"}
    )
    assert members(plan, "stem") == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert members(plan, "ends") == ["conv1.weight", "fc.weight", "fc.bias"]
    assert group_names(plan).count("conv") == 1


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (
            {"g": "("},
            "group 'g': '(' is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        ({"g": "nothing"}, "group 'g': 'nothing' matches none of the 2 layers"),
        ({"g": ["weight", "nothing"]}, "group 'g': 'nothing' matches none of the 2 layers"),
        ({"g": []}, "group 'g' has no patterns"),
        ({"": "weight"}, "group name '' is not 1 to 64 printable characters"),
        ({"a\nb": "weight"}, r"group name 'a\nb' is not 1 to 64 printable characters"),
        ({"norm": "weight"}, "group name 'norm' is taken: network, norm, non_norm always mean the same"),
        (
            {f"g{index}": "weight" for index in range(62)},
            "65 groups, the default ones included, are more than 64",
        ),
    ],
)
def test_bad_user_groups(groups: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError) as caught:
        plan_model(nn.Linear(2, 2), groups=groups)
    assert str(caught.value) == text
