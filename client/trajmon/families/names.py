"""What the families call their projections.

A pattern names one or more whole components of a dotted path; whatever comes behind them (``weight``, ``bias``,
a LoRA adapter) belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from trajmon.families.fused import Fused

__all__ = ["GROUPS", "GroupPatterns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPatterns:
    """Regular expressions for module paths, by what the modules do. Empty: the family has none, or fuses it."""

    q: str = ""
    """Query projections; those that are fused come from the views."""
    k: str = ""
    v: str = ""
    out: str = ""
    """What follows attention."""
    gate: str = ""
    """The factor that goes through the activation, in a gated MLP."""
    up: str = ""
    """What else reads an MLP's input."""
    down: str = ""
    """What writes an MLP's output."""
    experts: str = ""
    router: str = ""
    """What chooses the experts."""
    embedding: str = ""
    head: str = ""
    others: Mapping[str, str] | None = None
    """Groups of no other family, by name."""

    def groups(self, fused: Sequence[Fused]) -> dict[str, tuple[str, ...]]:
        """Patterns by group name, for a family that takes these tensors apart."""
        patterns: dict[str, tuple[str, ...]] = {}
        for part, path in (("q", self.q), ("k", self.k), ("v", self.v)):
            patterns[f"attention.{part}"] = (*_paths(path), *_parts(fused, part))
        patterns["attention.out"] = _paths(self.out)
        gate = (*_paths(self.gate), *_parts(fused, "gate"))
        up = (*_paths(self.up), *_parts(fused, "up"))
        patterns |= {"mlp.in": (*gate, *up), "mlp.down": _paths(self.down)}
        if gate:
            patterns |= {"mlp.gate": gate, "mlp.up": up}
        patterns |= {
            "experts": _paths(self.experts),
            "router": _paths(self.router),
            "embedding": _paths(self.embedding),
            "head": _paths(self.head),
        }
        patterns |= {name: _paths(path) for name, path in (self.others or {}).items()}
        return {name: each for name, each in patterns.items() if each}


def _paths(path: str) -> tuple[str, ...]:
    return (rf"^(?:.*\.)?(?:{path})(?:\.|$)",) if path else ()


def _parts(fused: Sequence[Fused], part: str) -> tuple[str, ...]:
    return tuple(
        f"{each.view.pattern.removesuffix('$')}\\.{part}$" for each in fused if part in each.view.names
    )


# Not inside a numbered module: a ResNet has conv1 at its root and in every block.
_TOP: Final = r"(?<!\d\.)"
_EXPERT: Final = r"(?:mlp|block_sparse_moe)\.(?:experts\.(?:\d+\.)?|shared_experts?\.)?"

_TO_4H: Final = r"mlp\.dense_h_to_4h"
_FROM_4H: Final = r"mlp\.dense_4h_to_h"
_HEADS: Final = r"lm_head|embed_out|classifier|score|qa_outputs"
_BERT_HEADS: Final = (
    r"(?:cls\.)?predictions\.(?:decoder|bias|transform\.dense|dense)|cls\.seq_relationship|pooler\.dense"
    r"|lm_head\.(?:decoder|bias|dense)|generator_predictions\.dense|generator_lm_head|classifier|qa_outputs"
)

_LLAMA: Final = GroupPatterns(
    q=r"self_attn\.q_proj",
    k=r"self_attn\.k_proj",
    v=r"self_attn\.v_proj",
    out=r"self_attn\.o_proj",
    gate=rf"{_EXPERT}(?:gate_proj|w1)",
    up=rf"{_EXPERT}(?:up_proj|w3|c_fc)",
    down=rf"{_EXPERT}(?:down_proj|w2|c_proj)",
    experts=r"experts|shared_experts?",
    router=r"(?:mlp|block_sparse_moe)\.(?:gate|shared_expert_gate|router)",
    embedding=r"embed_tokens",
    head=_HEADS,
)

GROUPS: Final[Mapping[str, GroupPatterns]] = {
    "albert": GroupPatterns(
        q=r"attention\.query",
        k=r"attention\.key",
        v=r"attention\.value",
        out=r"attention\.dense",
        up=r"albert_layers\.\d+\.ffn",
        down=r"albert_layers\.\d+\.ffn_output",
        embedding=r"embeddings\.(?:word|position|token_type)_embeddings|embedding_hidden_mapping_in",
        head=rf"{_BERT_HEADS}|pooler",
    ),
    "bart": GroupPatterns(
        q=r"(?:self_attn|encoder_attn)\.q_proj",
        k=r"(?:self_attn|encoder_attn)\.k_proj",
        v=r"(?:self_attn|encoder_attn)\.v_proj",
        out=r"(?:self_attn|encoder_attn)\.out_proj",
        up=r"layers\.\d+\.fc1",
        down=r"layers\.\d+\.fc2",
        embedding=r"shared|embed_tokens|embed_positions|encoder\.conv[12]",
        head=r"lm_head|proj_out|classification_head|qa_outputs",
        others={"mlp": r"layers\.\d+\.fc[12]"},
    ),
    "bert": GroupPatterns(
        q=r"attention\.self\.query",
        k=r"attention\.self\.key",
        v=r"attention\.self\.value",
        out=r"attention\.output\.dense",
        up=r"intermediate\.dense",
        down=r"\d+\.output\.dense",
        embedding=r"embeddings\.(?:word|position|token_type)_embeddings|embeddings_project",
        head=_BERT_HEADS,
    ),
    "bloom": GroupPatterns(
        out=r"self_attention\.dense", up=_TO_4H, down=_FROM_4H, embedding=r"word_embeddings", head=_HEADS
    ),
    "clip": GroupPatterns(
        q=r"self_attn\.q_proj",
        k=r"self_attn\.k_proj",
        v=r"self_attn\.v_proj",
        out=r"self_attn\.out_proj|head\.attention\.out_proj",
        up=r"mlp\.fc1",
        down=r"mlp\.fc2",
        embedding=r"embeddings",
        head=r"text_projection|visual_projection|classifier",
    ),
    "deepseek": replace(
        _LLAMA,
        q=r"self_attn\.(?:q_proj|q_a_proj|q_b_proj)",
        k="",
        v="",
        # Keys and values come out of one low-rank factor, in unequal parts.
        others={"attention.kv": r"self_attn\.(?:kv_a_proj_with_mqa|kv_b_proj)"},
    ),
    "distilbert": GroupPatterns(
        q=r"attention\.q_lin",
        k=r"attention\.k_lin",
        v=r"attention\.v_lin",
        out=r"attention\.out_lin",
        up=r"ffn\.lin1",
        down=r"ffn\.lin2",
        embedding=r"(?:word|position)_embeddings",
        head=r"vocab_transform|vocab_projector|pre_classifier|classifier|qa_outputs",
    ),
    "gpt2": GroupPatterns(
        q=r"crossattention\.q_attn",
        out=r"(?:attn|crossattention)\.c_proj",
        up=r"mlp\.c_fc",
        down=r"mlp\.c_proj",
        embedding=r"wte|wpe|tokens_embed|positions_embed",
        head=_HEADS,
    ),
    "gpt_neo": GroupPatterns(
        q=r"attention\.q_proj",
        k=r"attention\.k_proj",
        v=r"attention\.v_proj",
        out=r"attention\.out_proj",
        up=r"mlp\.c_fc",
        down=r"mlp\.c_proj",
        embedding=r"wte|wpe",
        head=_HEADS,
    ),
    "gpt_neox": GroupPatterns(
        out=r"attention\.(?:dense|dense_bias)", up=_TO_4H, down=_FROM_4H, embedding=r"embed_in", head=_HEADS
    ),
    "gptj": GroupPatterns(
        q=r"attn\.q_proj",
        k=r"attn\.k_proj",
        v=r"attn\.v_proj",
        out=r"attn\.out_proj",
        up=r"mlp\.fc_in",
        down=r"mlp\.fc_out",
        embedding=r"wte",
        head=_HEADS,
    ),
    "llama": _LLAMA,
    "modernbert": GroupPatterns(
        out=r"attn\.Wo",
        up=r"mlp\.Wi",
        down=r"mlp\.Wo",
        embedding=r"tok_embeddings",
        head=r"head\.dense|decoder|classifier",
    ),
    "mpt": GroupPatterns(
        out=r"attn\.out_proj", up=r"ffn\.up_proj", down=r"ffn\.down_proj", embedding=r"wte", head=_HEADS
    ),
    "opt": GroupPatterns(
        q=r"self_attn\.q_proj",
        k=r"self_attn\.k_proj",
        v=r"self_attn\.v_proj",
        out=r"self_attn\.out_proj",
        up=r"layers\.\d+\.fc1",
        down=r"layers\.\d+\.fc2",
        embedding=r"embed_tokens|embed_positions|project_in",
        head=rf"{_HEADS}|project_out",
        others={"mlp": r"layers\.\d+\.fc[12]"},
    ),
    "persimmon": GroupPatterns(
        out=r"self_attn\.dense", up=_TO_4H, down=_FROM_4H, embedding=r"embed_tokens", head=_HEADS
    ),
    "phi": GroupPatterns(
        q=r"self_attn\.q_proj",
        k=r"self_attn\.k_proj",
        v=r"self_attn\.v_proj",
        out=r"self_attn\.dense",
        up=r"mlp\.fc1",
        down=r"mlp\.fc2",
        embedding=r"embed_tokens",
        head=_HEADS,
    ),
    "resnet": GroupPatterns(
        head=rf"{_TOP}(?:fc|linear|head|classifier)",
        others={
            "stem": rf"{_TOP}(?:conv1|bn1|embedder)",
            **{f"stage.{number}": rf"layer{number}|encoder\.stages\.{number - 1}" for number in range(1, 5)},
            "shortcut": r"downsample|shortcut",
        },
    ),
    "t5": GroupPatterns(
        q=r"(?:SelfAttention|EncDecAttention)\.q",
        k=r"(?:SelfAttention|EncDecAttention)\.k",
        v=r"(?:SelfAttention|EncDecAttention)\.v",
        out=r"(?:SelfAttention|EncDecAttention)\.o",
        gate=r"DenseReluDense\.wi_0",
        up=r"DenseReluDense\.(?:wi_1|wi)",
        down=r"DenseReluDense\.wo",
        embedding=r"shared|embed_tokens",
        head=_HEADS,
        others={"mlp": "DenseReluDense"},
    ),
    "timm_vit": GroupPatterns(
        out=r"attn\.proj",
        up=r"mlp\.fc1",
        down=r"mlp\.fc2",
        embedding=r"patch_embed|cls_token|pos_embed|reg_token",
        head=rf"{_TOP}(?:head|head_dist)",
    ),
    "torch_transformer": GroupPatterns(
        q=r"q_proj_weight",
        k=r"k_proj_weight",
        v=r"v_proj_weight",
        # Its name is the same in every MultiheadAttention; a user's own out_proj lies elsewhere.
        out=r"(?:self_attn|multihead_attn|self_attention|attention|attn|mha)\.out_proj",
        up=r"layers\.\d+\.linear1|encoder_layer_\d+\.mlp\.0",
        down=r"layers\.\d+\.linear2|encoder_layer_\d+\.mlp\.3",
    ),
    "vit": GroupPatterns(
        q=r"attention\.(?:q_proj|(?:attention\.)?query)",
        k=r"attention\.(?:k_proj|(?:attention\.)?key)",
        v=r"attention\.(?:v_proj|(?:attention\.)?value)",
        out=r"attention\.(?:o_proj|output\.dense)",
        up=r"mlp\.fc1|mlp\.weights_in|intermediate\.dense",
        down=r"mlp\.fc2|mlp\.weights_out|\d+\.output\.dense",
        embedding=r"embeddings",
        head=_HEADS,
    ),
}
