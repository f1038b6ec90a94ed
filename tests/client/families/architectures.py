"""Tiny models of the families, built from their configurations, and ways to look into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
import transformers
from torch import nn

from trajmon.families import presets_for
from trajmon.numerics.model import ModelPlan, plan_model
from trajmon.numerics.modules import owned_parameters
from trajmon.numerics.views import View, match_views, split

BASE: Final = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT: Final = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 64,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_IMAGE: Final = {**BASE, "image_size": 8, "patch_size": 4}
_FALCON: Final = {**BASE, "bias": True, "ffn_hidden_size": 24}
_MOE: Final = {**BASE, "num_key_value_heads": 2, "num_experts_per_tok": 2}

# Test name: (model_type, configuration). Sizes of all axes differ where they can, so that none stands for another.
DECODERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "bloom": ("bloom", {**BASE, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", {**_GPT, "rotary_dim": 4, "tie_word_embeddings": False}),
    "falcon one to one": ("falcon", {**_FALCON, "multi_query": False, "alibi": True}),
    "falcon grouped one to one": (
        "falcon",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 4},
    ),
    "falcon grouped": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon multi-query": ("falcon", {**_FALCON, "multi_query": True}),
    "gemma2": ("gemma2", {**BASE, "num_key_value_heads": 2, "head_dim": 4}),
    "glm": ("glm", {**BASE, "num_key_value_heads": 2, "head_dim": 4}),
    "gpt2": ("gpt2", _GPT),
    "gpt_bigcode multi-query": ("gpt_bigcode", {**_GPT, "multi_query": True}),
    "gpt_bigcode one to one": ("gpt_bigcode", {**_GPT, "multi_query": False}),
    "gpt_neo": (
        "gpt_neo",
        {
            **BASE,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global"], 2]],
            "max_position_embeddings": 32,
        },
    ),
    "gpt_neox": ("gpt_neox", {**BASE, "attention_bias": True}),
    "gpt_neox without bias": ("gpt_neox", {**BASE, "attention_bias": False, "num_attention_heads": 2}),
    "gpt_neox_japanese": ("gpt_neox_japanese", {**BASE, "intermediate_multiple_size": 2}),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 4}),
    "llama": ("llama", {**BASE, "num_key_value_heads": 2}),
    "llama with bias": ("llama", {**BASE, "attention_bias": True, "head_dim": 6}),
    "mistral": ("mistral", {**BASE, "num_key_value_heads": 1}),
    "mixtral": ("mixtral", {**_MOE, "num_local_experts": 3}),
    "mpt": ("mpt", {"d_model": 16, "n_heads": 4, "n_layers": 2, "vocab_size": 64, "max_seq_len": 32}),
    "olmoe": ("olmoe", {**_MOE, "num_experts": 3}),
    "opt": (
        "opt",
        {**BASE, "ffn_dim": 24, "word_embed_proj_dim": 8, "max_position_embeddings": 32},
    ),
    "persimmon": ("persimmon", BASE),
    "phi": ("phi", BASE),
    "phi3": ("phi3", {**BASE, "num_key_value_heads": 2, "head_dim": 4}),
    "phi3 one to one": ("phi3", {**BASE, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {**BASE, "num_key_value_heads": 2}),
    "qwen2_moe": (
        "qwen2_moe",
        {**_MOE, "num_experts": 3, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 12},
    ),
    "qwen3": ("qwen3", {**BASE, "num_key_value_heads": 2, "head_dim": 6}),
    "stablelm": ("stablelm", {**BASE, "num_key_value_heads": 2, "use_qkv_bias": True}),
}
ENCODERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "albert": ("albert", {**BASE, "embedding_size": 8}),
    "bert": ("bert", BASE),
    "clip": ("clip_vision_model", _IMAGE),
    "dinov2": ("dinov2", {**_IMAGE, "mlp_ratio": 2}),
    "distilbert": (
        "distilbert",
        {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "vocab_size": 64},
    ),
    "modernbert": (
        "modernbert",
        {**BASE, "cls_token_id": 1, "sep_token_id": 2, "tie_word_embeddings": False},
    ),
    "roberta": ("roberta", BASE),
    "vit": ("vit", _IMAGE),
}
# Their factories carry no types.
_HEADS: Final[tuple[Any, ...]] = (
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForImageClassification,
    transformers.AutoModel,
)


def build(model_type: str, config: Mapping[str, Any], *, seed: int = 0) -> Any:
    """A model with random values everywhere, biases and scales too; in evaluation mode."""
    made = transformers.AutoConfig.for_model(model_type, **config)
    order = _HEADS[1:] if model_type in ("albert", "bart", "bert", "modernbert", "roberta") else _HEADS
    head = next(auto for auto in order if type(made) in auto._model_mapping)
    model = head.from_config(made, attn_implementation="eager").eval()
    randomize(model, seed)
    return model


def randomize(model: nn.Module, seed: int) -> None:
    """Other values for all parameters, none of them 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.01)


def planned(model: nn.Module) -> tuple[tuple[View, ...], ModelPlan]:
    """The views of the model's family, and the plan with them and the family's groups."""
    views, groups = presets_for(model)
    return views, plan_model(model, views=views, groups=groups)


def group(plan: ModelPlan, name: str) -> list[str]:
    """Names of the layers of a group."""
    (found,) = (each for each in plan.layout.groups if each.name == name)
    return [plan.layout.layers[index].name for index in found.layers]


def edit(
    model: nn.Module,
    views: tuple[View, ...],
    layers: Iterable[str],
    change: Callable[[torch.Tensor], object],
) -> None:
    """Change these layers in place, and nothing else, where they lie in the model."""
    wanted = set(layers)
    parameters = {owned.name: owned.parameter.data for owned in owned_parameters(model)}
    taken = match_views(views, list(parameters))
    for name, data in parameters.items():
        if name in wanted:
            wanted.remove(name)
            change(data)
        for part in split(taken[name], name, tuple(data.shape)) if name in taken else ():
            if part.name in wanted:
                wanted.remove(part.name)
                change(data.view(part.whole).narrow(part.axis, part.start, part.shape[part.axis]))
    assert not wanted


def tokens() -> torch.Tensor:
    """One sequence, [1, 5]; no token that stands for padding."""
    return torch.tensor([[5, 9, 33, 17, 60]])
