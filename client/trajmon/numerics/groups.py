"""Which layers belong together: by kind of module, by depth, and as the user says.

Default groups, none of them empty, at most :data:`trajmon.numerics.grouping.MAX_DEFAULT_GROUPS`:

* ``network``, every layer; ``norm``, those of normalisation layers; ``non_norm``, the others;
* of those others, each to the first kind that fits: ``attention`` (with ``attention.qkv``, its query, key and
  value projections), ``mlp`` (a transformer's), ``embedding``, ``head``, ``conv``, ``linear``;
* ``block.00``, ``block.01``, …: the numbered modules at the shallowest depth that has two or more of them with
  parameters, counted through (a ResNet's ``layer1.0``, ``layer1.1``, ``layer2.0``). Too many of them are
  merged with their neighbours: ``block.00-02``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from torch import nn

from trajmon.numerics.grouping import Traits, groups_of
from trajmon.numerics.layout import Group
from trajmon.numerics.modules import Owned, is_norm_module

__all__ = ["default_groups", "describe"]

_ATTENTION: Final = re.compile(r"attention|attn", re.IGNORECASE)
_QKV: Final = re.compile(
    r"(q|k|v|qkv|kv|q_?proj|k_?proj|v_?proj|qkv_?proj|query|key|value|query_key_value|c_attn|in_proj(_weight|_bias)?"
    r"|to_(q|k|v|qkv|kv)|w(q|k|v|qkv)|(q|k|v)_lin|(q|k|v)_proj_weight)",
    re.IGNORECASE,
)
_MLP_PATH: Final = re.compile(r"mlp|ffn?|feed_?forward|intermediate|experts?", re.IGNORECASE)
_MLP_CLASS: Final = re.compile(r"mlp|ffn|feed_?forward|(intermediate|output)$", re.IGNORECASE)
_EMBEDDING: Final = re.compile(r"embed", re.IGNORECASE)
_HEAD: Final = re.compile(r"(lm_|classification_)?heads?|classifier|score|fc", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"\d+")
_LAYER_LISTS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ENDS_IN_NUMBER: Final = re.compile(r"\d$")


def describe(source: Owned) -> Traits:
    """The traits of a parameter, from the modules that hold it."""
    path = source.name.split(".")
    blocks = []
    for depth, (container, child) in enumerate(zip(source.owners[:-1], path, strict=False)):
        listed = isinstance(container, _LAYER_LISTS) and _ENDS_IN_NUMBER.search(child)
        if listed or _NUMBERED.fullmatch(child):
            blocks.append((depth, ".".join(path[: depth + 1])))
    return Traits(_kinds(source), tuple(blocks))


def default_groups(sources: Sequence[Owned], layers_of: Sequence[tuple[int, ...]]) -> tuple[Group, ...]:
    """Groups of a model. `sources`: its parameters; `layers_of`: the layer indices that each of them gave."""
    return groups_of([describe(source) for source in sources], layers_of)


def _kinds(source: Owned) -> tuple[str, ...]:
    owner = source.owners[-1]
    if is_norm_module(owner):
        return ("norm",)
    # The root is left out: a network called MLP is not all one transformer's MLP.
    classes = [type(module).__name__ for module in source.owners[1:]]
    path = source.name.split(".")
    if any(map(_ATTENTION.search, [*path, *classes])):
        qkv = any(map(_QKV.fullmatch, path))
        return ("non_norm", "attention", "attention.qkv") if qkv else ("non_norm", "attention")
    in_torch_transformer = len(path) > 2 and isinstance(
        source.owners[-2], nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
    )
    if (
        in_torch_transformer
        or any(map(_MLP_PATH.fullmatch, path[:-1]))
        or any(map(_MLP_CLASS.search, classes))
    ):
        return ("non_norm", "mlp")
    if any(map(_EMBEDDING.search, [path[-1], *classes])):
        return ("non_norm", "embedding")
    if isinstance(owner, nn.modules.conv._ConvNd):
        return ("non_norm", "conv")
    if isinstance(owner, nn.Linear | nn.Bilinear) or type(owner).__name__ == "Conv1D":
        return ("non_norm", "head") if _HEAD.fullmatch(path[0]) else ("non_norm", "linear")
    return ("non_norm",)
