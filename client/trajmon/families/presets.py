"""The families by name: what each calls its projections, and which of them it fuses.

Free of torch: a folder of checkpoints has families, too. Patterns hold for the names in a module and for those
in published files, which differ for some families (a Mixtral expert is a slice of one tensor in memory and a
tensor of its own in a file).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from trajmon.families import fused
from trajmon.families.errors import FamilyError
from trajmon.families.fused import Fused
from trajmon.families.heads import Heads, heads_from
from trajmon.families.names import GROUPS, GroupPatterns
from trajmon.numerics.views import View

__all__ = ["MODEL_TYPES", "Family", "family_names", "family_of_config", "preset"]


@dataclass(frozen=True, slots=True)
class Family:
    """Views and groups of one kind of model. They may match nothing in a given one; fit them first."""

    name: str
    """As in :func:`family_names`; several joined by ``+`` for a model of several parts."""
    fused: tuple[Fused, ...]
    """Parameters that hold several projections."""
    groups: Mapping[str, tuple[str, ...]]
    """Patterns by group name, searched in layer names; the most telling groups first."""

    @property
    def views(self) -> tuple[View, ...]:
        """Of all parameters that hold several projections."""
        return tuple(each.view for each in self.fused)

    def under(self, prefix: str) -> Family:
        """The same for a model that is a part of a larger one, under this dotted path."""
        if not prefix:
            return self
        start = f"^{re.escape(prefix)}\\."
        inner = tuple(
            replace(each, view=replace(each.view, pattern=start + each.view.pattern.removeprefix("^")))
            for each in self.fused
        )
        groups = {
            name: tuple(start + pattern.removeprefix("^") for pattern in patterns)
            for name, patterns in self.groups.items()
        }
        return replace(self, fused=inner, groups=MappingProxyType(groups))


_Config = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Preset:
    patterns: GroupPatterns
    fused: Callable[[_Config, str], tuple[Fused, ...]]
    """From a configuration and the family's name; raises FamilyError where it lacks a number."""


def _nothing(config: _Config, family: str) -> tuple[Fused, ...]:
    return ()


def _per_head(path: str) -> Callable[[_Config, str], tuple[Fused, ...]]:
    return lambda config, family: fused.per_head(path, heads_from(config, family))


def _falcon(config: _Config, family: str) -> tuple[Fused, ...]:
    path = r"self_attention\.query_key_value"
    heads = heads_from(config, family)
    if config.get("new_decoder_architecture", False):
        return fused.per_group(path, heads)
    # The default is one key-value head for all queries; `num_kv_heads` means nothing here.
    multi_query = config.get("multi_query", True)
    heads = Heads(heads.query, 1 if multi_query else heads.query, heads.dim)
    return fused.blocks(path, heads) if multi_query else fused.per_head(path, heads)


def _gpt_bigcode(config: _Config, family: str) -> tuple[Fused, ...]:
    heads = heads_from(config, family)
    if config.get("multi_query", True):
        return fused.blocks(r"attn\.c_attn", Heads(heads.query, 1, heads.dim))
    return fused.per_head(r"attn\.c_attn", heads)


def _gpt2(config: _Config, family: str) -> tuple[Fused, ...]:
    return (
        *fused.columns(r"attn\.c_attn"),
        *fused.columns(r"crossattention\.c_attn", ("k", "v")),
    )


def _phi3(config: _Config, family: str) -> tuple[Fused, ...]:
    return (
        *fused.blocks(r"self_attn\.qkv_proj", heads_from(config, family)),
        *fused.gate_and_up(r"mlp\.gate_up_proj(?:\.base_layer)?\.weight", 0),
    )


def _experts(config: _Config, family: str) -> tuple[Fused, ...]:
    # [experts, gate and up, hidden]; in files each expert has its own tensors, already apart.
    return fused.gate_and_up(r"experts\.gate_up_proj", 1)


_PRESETS: Final[Mapping[str, _Preset]] = {
    "albert": _Preset(GROUPS["albert"], _nothing),
    "bart": _Preset(GROUPS["bart"], _nothing),
    "bert": _Preset(GROUPS["bert"], _nothing),
    "bloom": _Preset(GROUPS["bloom"], _per_head(r"self_attention\.query_key_value")),
    # SigLIP pools with torch's own attention.
    "clip": _Preset(GROUPS["clip"], lambda config, family: fused.in_proj()),
    "codegen": _Preset(
        GROUPS["gptj"],
        lambda config, family: fused.quarters(r"attn\.qkv_proj", heads_from(config, family)),
    ),
    "deepseek": _Preset(GROUPS["deepseek"], _experts),
    "distilbert": _Preset(GROUPS["distilbert"], _nothing),
    "falcon": _Preset(GROUPS["bloom"], _falcon),
    "gpt2": _Preset(GROUPS["gpt2"], _gpt2),
    "gpt_bigcode": _Preset(GROUPS["gpt2"], _gpt_bigcode),
    "gpt_neo": _Preset(GROUPS["gpt_neo"], _nothing),
    "gpt_neox": _Preset(GROUPS["gpt_neox"], _per_head(r"attention\.query_key_value")),
    "gptj": _Preset(GROUPS["gptj"], _nothing),
    "llama": _Preset(GROUPS["llama"], _nothing),
    "mixtral": _Preset(GROUPS["llama"], _experts),
    "modernbert": _Preset(GROUPS["modernbert"], lambda config, family: fused.rows(r"attn\.Wqkv")),
    "mpt": _Preset(GROUPS["mpt"], lambda config, family: fused.rows(r"attn\.Wqkv")),
    "nanogpt": _Preset(GROUPS["gpt2"], lambda config, family: fused.rows(r"attn\.c_attn")),
    "opt": _Preset(GROUPS["opt"], _nothing),
    "persimmon": _Preset(GROUPS["persimmon"], _per_head(r"self_attn\.query_key_value")),
    "phi": _Preset(GROUPS["phi"], _nothing),
    "phi3": _Preset(GROUPS["llama"], _phi3),
    "resnet": _Preset(GROUPS["resnet"], _nothing),
    "t5": _Preset(GROUPS["t5"], _nothing),
    "timm_vit": _Preset(GROUPS["timm_vit"], lambda config, family: fused.rows(r"attn\.qkv")),
    "torch_transformer": _Preset(GROUPS["torch_transformer"], lambda config, family: fused.in_proj()),
    "vit": _Preset(GROUPS["vit"], _nothing),
}

_ALIKE: Final[Mapping[str, str]] = {
    "bart": "blenderbot m2m_100 marian mbart pegasus plbart whisper",
    "bert": "bert-generation camembert data2vec-text electra ernie roberta roberta-prelayernorm "
    "xlm-roberta xlm-roberta-xl",
    "clip": "clip_text_model clip_vision_model siglip siglip_text_model siglip_vision_model",
    "deepseek": "deepseek_v2 deepseek_v3",
    "gpt2": "decision_transformer imagegpt openai-gpt",
    "gpt_neox": "gpt_neox_japanese",
    "llama": "cohere cohere2 gemma gemma2 gemma3_text granite mistral ministral olmo olmo2 olmo3 qwen2 qwen3 "
    "smollm3 stablelm starcoder2",
    "mixtral": "olmoe qwen2_moe qwen3_moe",
    # Q, K, V apart, but the same MLP.
    "phi3": "glm glm4",
    "t5": "mt5 umt5",
    "vit": "deit dinov2 dinov2_with_registers vit_mae vit_msn",
}
MODEL_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {name: name for name in _PRESETS if name not in ("deepseek", "nanogpt", "timm_vit", "torch_transformer")}
    | {model_type: name for name, alike in _ALIKE.items() for model_type in alike.split()}
)
"""Families by the ``model_type`` of a Hugging Face configuration."""


def family_names() -> tuple[str, ...]:
    """All families, sorted.

    >>> {"gpt2", "gpt_neox", "llama", "mixtral", "resnet", "vit"} <= set(family_names())
    True
    """
    return tuple(sorted(_PRESETS))


def preset(name: str, config: Mapping[str, object] | None = None) -> Family:
    """A family by its name, with the numbers of a Hugging Face configuration where it needs any.

    Raises :class:`FamilyError` for a name that is none and for numbers that are not there.

    >>> neox = preset("gpt_neox", {"num_attention_heads": 8, "hidden_size": 512})
    >>> neox.views[0].reshape
    (8, 3, 64, -1)
    """
    found = _PRESETS.get(name)
    if found is None:
        raise FamilyError(f"there is no model family {name!r}; there are {', '.join(family_names())}")
    parts = found.fused(config or {}, name)
    return Family(name, parts, MappingProxyType(found.patterns.groups(parts)))


def family_of_config(config: Mapping[str, object]) -> Family | None:
    """The family of a model from its ``config.json``; None if its ``model_type`` is not known.

    Raises :class:`FamilyError` if it is known and the configuration lacks a number that the family needs.
    """
    model_type = config.get("model_type")
    name = MODEL_TYPES.get(model_type) if isinstance(model_type, str) else None
    return None if name is None else preset(name, config)
