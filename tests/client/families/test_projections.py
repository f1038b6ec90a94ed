"""What the families call query, key and value is that, by the models' own forward passes.

The models say what they computed: a decoder in the keys and values of its cache, an encoder in what it hands to
the attention function. A group is switched off by setting its layers to zero, each at its place in the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.bert.modeling_bert import eager_attention_forward

from client.families.architectures import (  # noqa: TID251 # tests/client, on the path of the tests
    DECODERS,
    ENCODERS,
    build,
    edit,
    group,
    planned,
    tokens,
)
from trajmon.families import presets_for
from trajmon.numerics.model import plan_model
from trajmon.numerics.modules import owned_parameters

PROJECTIONS = ("attention.q", "attention.k", "attention.v")


def without(model: Any, name: str) -> Any:
    """A copy of the model with this group's layers set to zero."""
    changed = copy.deepcopy(model)
    views, plan = planned(changed)
    edit(changed, views, group(plan, name), torch.Tensor.zero_)
    return changed


def cached(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values of the first block, and the logits."""
    with torch.no_grad():
        answer = model(input_ids=tokens(), use_cache=True)
    layer = answer.past_key_values.layers[0]
    return layer.keys, layer.values, answer.logits


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_without_its_keys_caches_none_and_without_its_values_none(name: str) -> None:
    model = build(*DECODERS[name])
    keys, values, logits = cached(model)
    assert keys.abs().min() > 0
    assert values.abs().min() > 0

    no_keys, same_values, _ = cached(without(model, "attention.k"))
    # A model that normalises its keys adds that layer's bias to nothing.
    silent = model.model.layers[0].self_attn.k_layernorm.bias if name == "persimmon" else torch.zeros(1)
    assert torch.equal(no_keys[:, :, 0], silent.expand_as(no_keys[:, :, 0]))
    assert torch.equal(same_values, values)

    same_keys, no_values, _ = cached(without(model, "attention.v"))
    assert not no_values.any()
    assert torch.equal(same_keys, keys)

    # What is left are the queries: they touch neither, and the answer depends on them.
    same_keys, same_values, other_logits = cached(without(model, "attention.q"))
    assert torch.equal(same_keys, keys)
    assert torch.equal(same_values, values)
    assert not torch.equal(other_logits, logits)


@pytest.fixture
def handed_over() -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """Queries, keys and values of every call of the attention function named ``seen``."""
    calls: list[tuple[torch.Tensor, ...]] = []

    def seen(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        calls.append((query, key, value))
        return eager_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("seen", seen)
    AttentionMaskInterface.register("seen", eager_mask)
    yield calls
    AttentionInterface._global_mapping.pop("seen")
    AttentionMaskInterface._global_mapping.pop("seen")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_without_a_projection_hands_over_none(
    name: str, handed_over: list[tuple[torch.Tensor, ...]]
) -> None:
    model_type, config = ENCODERS[name]
    model = build(model_type, config)
    inputs = {"pixel_values": torch.ones(1, 3, 8, 8)} if "image_size" in config else {"input_ids": tokens()}

    def first_call(of: Any) -> tuple[torch.Tensor, ...]:
        of.set_attn_implementation("seen")
        handed_over.clear()
        with torch.no_grad():
            of(**inputs)
        return handed_over[0]

    whole = first_call(model)
    for position, projection in enumerate(PROJECTIONS):
        assert whole[position].any()
        missing = first_call(without(model, projection))
        for other in range(3):
            if other == position:
                assert not missing[other].any()
            else:
                assert torch.equal(missing[other], whole[other])


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("t5", {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 1, "num_heads": 4, "vocab_size": 64}),
        (
            "bart",
            {
                "d_model": 16,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 24,
                "decoder_ffn_dim": 24,
                "vocab_size": 64,
                "max_position_embeddings": 32,
                "pad_token_id": 0,
                "decoder_start_token_id": 2,
            },
        ),
    ],
)
def test_cross_attention_belongs_to_the_same_groups(model_type: str, config: dict[str, Any]) -> None:
    model = build(model_type, config)

    def caches(of: Any) -> list[Any]:
        with torch.no_grad():
            kept = of(input_ids=tokens(), decoder_input_ids=tokens(), use_cache=True).past_key_values
        return [kept.self_attention_cache.layers[0], kept.cross_attention_cache.layers[0]]

    for cache in caches(model):
        assert cache.keys.any()
        assert cache.values.any()
    for cache in caches(without(model, "attention.k")):
        assert not cache.keys.any()
        assert cache.values.any()
    for cache in caches(without(model, "attention.v")):
        assert cache.keys.any()
        assert not cache.values.any()


def test_gpt2_with_cross_attention_takes_keys_and_values_apart() -> None:
    config = {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 64, "add_cross_attention": True}
    model = build("gpt2", {**config, "bos_token_id": 1, "eos_token_id": 2})

    def cross(of: Any) -> Any:
        with torch.no_grad():
            answer = of(input_ids=tokens(), encoder_hidden_states=torch.ones(1, 3, 16), use_cache=True)
        return answer.past_key_values.cross_attention_cache.layers[0]

    whole = cross(model)
    no_keys, no_values = cross(without(model, "attention.k")), cross(without(model, "attention.v"))
    assert not no_keys.keys.any()
    assert torch.equal(no_keys.values, whole.values)
    # The values of the block's self-attention are gone, too, but not the keys that are made of other states.
    assert not no_values.values.any()
    assert torch.equal(no_values.keys, whole.keys)
    _, plan = planned(model)
    assert "transformer.h.0.crossattention.q_attn.weight" in group(plan, "attention.q")


def test_torchs_own_attention_is_taken_apart() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    torch.manual_seed(0)
    model = Network()
    nn.init.normal_(model.attention.in_proj_bias)
    x = torch.randn(1, 5, 8)

    def weights(of: Any) -> torch.Tensor:
        probabilities: torch.Tensor = of.attention(x, x, x, need_weights=True)[1]
        return probabilities.detach()

    def without_weight(part: str) -> Any:
        changed = copy.deepcopy(model)
        edit(changed, planned(changed)[0], [f"attention.in_proj_weight.{part}"], torch.Tensor.zero_)
        return changed

    # Keys that are all the same bias attract alike. Queries that are all the same all look the same way.
    by_key, by_query = weights(without_weight("k")), weights(without_weight("q"))
    torch.testing.assert_close(by_key, torch.full_like(by_key, 0.2))
    torch.testing.assert_close(by_query, by_query[:, :1].expand_as(by_query))
    assert (by_query - 0.2).abs().max() > 0.01
    assert torch.equal(weights(without_weight("v")), weights(model))


class TimmAttention(nn.Module):
    """Attention with timm's names and its way to split: [batch, token, 3, head, dim]."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


class NanoAttention(nn.Module):
    """Attention with GPT-2's names over a Linear: q, k, v one by one along the output."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = nn.Linear(8, 24)
        self.c_proj = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = self.c_attn(x).split(8, dim=2)
        return query, key, value


@pytest.mark.parametrize(("attention", "family"), [(TimmAttention, "timm_vit"), (NanoAttention, "nanogpt")])
def test_families_that_are_known_by_name_only(attention: type[nn.Module], family: str) -> None:
    model = nn.ModuleDict({"attn": attention()})
    assert presets_for(model) == ((), {})
    views, groups = presets_for(model, family)
    x = torch.randn(1, 5, 8)
    whole = model["attn"](x)
    plan = plan_model(model, views=views, groups=groups)
    for position, projection in enumerate(PROJECTIONS):
        changed = copy.deepcopy(model)
        edit(changed, views, group(plan, projection), torch.Tensor.zero_)
        for other, values in enumerate(changed["attn"](x)):
            assert not values.any() if other == position else torch.equal(values, whole[other])


@pytest.mark.parametrize("name", ["glm", "mixtral", "olmoe", "phi3 one to one", "qwen2_moe"])
def test_a_fused_gate_is_not_its_up_projection(name: str) -> None:
    model = build(*DECODERS[name])

    def output_of_mlp(of: Any) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = of.model.layers[0].mlp.register_forward_hook(lambda _m, _i, output: seen.append(output))
        with torch.no_grad():
            of(input_ids=tokens())
        hook.remove()
        return seen[0]

    def negated(projection: str) -> torch.Tensor:
        changed = copy.deepcopy(model)
        views, plan = planned(changed)
        edit(changed, views, group(plan, projection), torch.Tensor.neg_)
        return output_of_mlp(changed)

    # The gate goes through the activation, which is not odd; the other factor does not.
    assert torch.equal(negated("mlp.up"), -output_of_mlp(model))
    assert not torch.allclose(negated("mlp.gate"), -output_of_mlp(model))


def test_the_router_of_a_mixture_decides_between_the_experts() -> None:
    model = build(*DECODERS["mixtral"])
    _, plan = planned(model)
    assert group(plan, "router") == [f"model.layers.{block}.mlp.gate.weight" for block in range(2)]
    with torch.no_grad():
        logits = without(model, "router")(input_ids=tokens(), output_router_logits=True).router_logits
    assert all(not each.any() and each.shape[-1] == 3 for each in logits)
    assert group(plan, "experts") == [
        f"model.layers.{block}.mlp.experts.{part}"
        for block in range(2)
        for part in ("gate_up_proj.gate", "gate_up_proj.up", "down_proj")
    ]


def test_the_parts_of_interleaved_heads_have_the_shape_and_values_of_the_heads() -> None:
    model = build(*DECODERS["gpt_neox"])
    _, plan = planned(model)
    buffer = torch.zeros(plan.layout.nbytes, dtype=torch.uint8)
    plan.copy_into(model, buffer)
    names = [layer.name for layer in plan.layout.layers]
    fused = "gpt_neox.layers.1.attention.query_key_value.weight"
    weight = model.get_parameter(fused)
    for position, part in enumerate("qkv"):
        index = names.index(f"{fused}.{part}")
        layer, start = plan.layout.layers[index], plan.layout.offsets_bytes[index]
        assert layer.shape == (4, 1, 4, 16)
        stored = buffer[start : start + layer.nbytes].view(torch.float32).view(4, 4, 16)
        for head in range(4):
            first = head * 12 + position * 4
            assert torch.equal(stored[head], weight[first : first + 4])


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_inner_products_of_parts_add_up_to_those_of_the_whole(name: str) -> None:
    model_type, config = (DECODERS | ENCODERS)[name]  # type: ignore[operator] # both are dicts
    models = [build(model_type, config, seed=seed) for seed in (1, 2)]
    _, plan = planned(models[0])
    buffers = [torch.zeros(plan.layout.nbytes, dtype=torch.uint8) for _ in models]
    for model, buffer in zip(models, buffers, strict=True):
        plan.copy_into(model, buffer)
    sums: dict[str, float] = {}
    wholes = [
        {owned.name: owned.parameter.detach().double() for owned in owned_parameters(model)}
        for model in models
    ]
    for layer, start in zip(plan.layout.layers, plan.layout.offsets_bytes, strict=True):
        x, y = (buffer[start : start + layer.nbytes].view(torch.float32).double() for buffer in buffers)
        whole = layer.name if layer.name in wholes[0] else layer.name.rpartition(".")[0]
        sums[whole] = sums.get(whole, 0.0) + float(x @ y)
    assert sums.keys() == {owned.name for owned in owned_parameters(models[0])} - {
        alias for aliases in plan.aliases.values() for alias in aliases
    }
    for whole, total in sums.items():
        x, y = (each[whole].flatten() for each in wholes)
        assert total == pytest.approx(float(x @ y), rel=1e-12, abs=1e-12)
