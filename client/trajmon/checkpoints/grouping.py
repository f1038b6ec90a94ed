"""Groups of layers by their names and shapes alone, for parameters without modules.

The groups are those that a model's own modules give (trajmon.numerics.groups), as far as names tell:

* ``network``, ``norm``, ``non_norm``;
* of the others, each to the first that fits: ``attention`` (with ``attention.qkv``), ``mlp``, ``embedding``, ``head``,
  ``conv``;
* ``block.00``, ``block.01``, …: the numbered parts at the shallowest depth that has two or more of them.

A parameter counts as a norm's if it and all of its module's have at most one axis and the module is called as norms
are (``norm``, ``ln_1``, ``bn2``), or if the checkpoint holds running statistics for the module.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from trajmon.checkpoints.naming import natural_key
from trajmon.numerics.grouping import Traits, groups_of, user_groups
from trajmon.numerics.layout import Group

__all__ = ["groups_by_name", "name_kinds"]

_NORM: Final = re.compile(
    r".*norm(?!al).*|(.*[_.])?(ln|bn|gn)(_?[a-z0-9]*)?|(ln|bn|gn|rms)\d*|layer_?norm.*", re.IGNORECASE
)
_ATTENTION: Final = re.compile(r"attention|attn", re.IGNORECASE)
_QKV: Final = re.compile(
    r"(q|k|v|qkv|kv)(_?proj|_lin|_proj_weight)?|query|key|value|query_key_value|c_attn|in_proj(_weight|_bias)?"
    r"|to_(q|k|v|qkv|kv)|w(q|k|v|qkv)|qkv_?proj",
    re.IGNORECASE,
)
_MLP: Final = re.compile(
    r"mlp|ffn?|feed_?forward|intermediate|experts?|block_sparse_moe|DenseReluDense", re.IGNORECASE
)
_OUTPUT_DENSE: Final = re.compile(r"\.\d+\.output\.dense\.")
_EMBEDDING: Final = re.compile(r".*embed.*|wte|wpe", re.IGNORECASE)
_HEAD: Final = re.compile(
    r"(lm_|classification_)?heads?|classifier|score|fc|embed_out|output_projection", re.IGNORECASE
)


def name_kinds(name: str, shape: tuple[int, ...], siblings: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """The groups of a parameter besides ``network`` and the blocks.

    `siblings`: the shapes of all parameters of its module.

    >>> name_kinds("h.0.attn.c_attn.weight", (64, 192), [(64, 192), (192,)])
    ('non_norm', 'attention', 'attention.qkv')
    >>> name_kinds("h.0.ln_1.bias", (64,), [(64,), (64,)])
    ('norm',)
    """
    *path, _ = name.split(".")
    if len(shape) <= 1 and path and _NORM.fullmatch(path[-1]) and all(len(one) <= 1 for one in siblings):
        return ("norm",)
    parts = name.split(".")
    if any(map(_ATTENTION.search, parts)):
        return ("non_norm", "attention", *(("attention.qkv",) if any(map(_QKV.fullmatch, parts)) else ()))
    # The second half of BERT's: its layers call it layer.0.output.dense, and the first half intermediate.
    if any(map(_MLP.fullmatch, path)) or _OUTPUT_DENSE.search(name):
        return ("non_norm", "mlp")
    # Before embeddings: GPT-NeoX calls its head embed_out.
    if path and _HEAD.fullmatch(path[0]):
        return ("non_norm", "head")
    if any(map(_EMBEDDING.fullmatch, parts)):
        return ("non_norm", "embedding")
    if parts[-1] in ("weight", "bias") and any(3 <= len(one) <= 5 for one in siblings):
        return ("non_norm", "conv")
    return ("non_norm",)


def groups_by_name(
    parameters: Sequence[tuple[str, tuple[int, ...]]],
    layers_of: Sequence[tuple[int, ...]],
    declared: Mapping[str, str | Sequence[str]] | None = None,
    layer_names: Sequence[str] = (),
    norm_modules: frozenset[str] = frozenset(),
) -> tuple[Group, ...]:
    """The default groups, and the declared ones behind them.

    `parameters`: name and shape; `layers_of`: the layers that each gave; `declared`: patterns by group name,
    searched in `layer_names`; `norm_modules`: paths of modules that are known to be norms. Raises ModelError.
    """
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name, shape in parameters:
        shapes[name.rpartition(".")[0]].append(shape)
    traits = []
    for name, shape in parameters:
        module = name.rpartition(".")[0]
        kinds = ("norm",) if module in norm_modules else name_kinds(name, shape, shapes[module])
        traits.append(Traits(kinds, _numbered(name)))
    # By number: safetensors keeps its tensors by name, and there layer 10 comes before layer 2.
    found = groups_of(traits, layers_of, natural_key)
    return user_groups(declared or {}, layer_names, found)


def _numbered(name: str) -> tuple[tuple[int, str], ...]:
    """Depth and path of each numbered part of a name."""
    path = name.split(".")
    return tuple(
        (depth, ".".join(path[: depth + 1])) for depth, part in enumerate(path[:-1]) if part.isdecimal()
    )
