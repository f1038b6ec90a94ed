"""Which layers belong together: by kind of module, by depth, and as the user says.

Default groups, none of them empty, at most :data:`MAX_DEFAULT_GROUPS`:

* ``network``, every layer; ``norm``, those of normalisation layers; ``non_norm``, the others;
* of those others, each to the first kind that fits: ``attention`` (with ``attention.qkv``, its query, key and
  value projections), ``mlp`` (a transformer's), ``embedding``, ``head``, ``conv``, ``linear``;
* ``block.00``, ``block.01``, …: the numbered modules at the shallowest depth that has two or more of them with
  parameters, counted through (a ResNet's ``layer1.0``, ``layer1.1``, ``layer2.0``). Too many of them are
  merged with their neighbours: ``block.00-02``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from trajmon.numerics.errors import ModelError
from trajmon.numerics.layout import MAX_GROUPS, NETWORK, Group
from trajmon.numerics.modules import Owned, is_norm_module

__all__ = ["MAX_DEFAULT_GROUPS", "Traits", "default_groups", "describe", "groups_of", "user_groups"]

MAX_DEFAULT_GROUPS: Final = 16
MAX_NAME_LENGTH: Final = 64
_KINDS: Final = ("attention", "attention.qkv", "mlp", "embedding", "head", "conv", "linear")
_FIXED: Final = (NETWORK, "norm", "non_norm")

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


@dataclass(frozen=True, slots=True)
class Traits:
    """What decides a parameter's groups; plain values, so that one process can group what another holds."""

    kinds: tuple[str, ...]
    """Names of the groups besides ``network`` and the blocks."""
    blocks: tuple[tuple[int, str], ...]
    """Depth and path of each numbered module that the parameter lies in."""


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


def groups_of(traits: Sequence[Traits], layers_of: Sequence[tuple[int, ...]]) -> tuple[Group, ...]:
    """Groups of parameters with these traits."""
    members: dict[str, list[int]] = defaultdict(list)
    for source, layers in zip(traits, layers_of, strict=True):
        for name in (NETWORK, *source.kinds):
            members[name] += layers
    names = [name for name in (*_FIXED, *_KINDS) if members[name]]
    blocks = _blocks(traits, layers_of, MAX_DEFAULT_GROUPS - len(names))
    return (*(Group(name, tuple(members[name])) for name in names), *blocks)


def user_groups(
    declared: Mapping[str, str | Sequence[str]], layer_names: Sequence[str], defaults: Sequence[Group]
) -> tuple[Group, ...]:
    """The default groups and the declared ones behind them; a declared one replaces a default of its name.

    A layer belongs to a group if one of its patterns occurs in the layer's name. Raises :class:`ModelError`
    for a pattern that is none or matches nothing, a name that cannot be used, and too many groups.
    """
    made = {group.name: group for group in defaults}
    for name, patterns in declared.items():
        if name in _FIXED:
            raise ModelError(f"group name {name!r} is taken: {', '.join(_FIXED)} always mean the same")
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise ModelError(f"group name {name!r} is not 1 to {MAX_NAME_LENGTH} printable characters")
        chosen: set[int] = set()
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            matching = _matching(name, pattern, layer_names)
            if not matching:
                raise ModelError(f"group {name!r}: {pattern!r} matches none of the {len(layer_names)} layers")
            chosen |= matching
        if not chosen:
            raise ModelError(f"group {name!r} has no patterns")
        made[name] = Group(name, tuple(sorted(chosen)))
    if len(made) > MAX_GROUPS:
        raise ModelError(f"{len(made)} groups, the default ones included, are more than {MAX_GROUPS}")
    return tuple(made.values())


def _matching(name: str, pattern: str, layer_names: Sequence[str]) -> set[int]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"group {name!r}: {pattern!r} is not a regular expression: {error}") from error
    return {index for index, layer in enumerate(layer_names) if regex.search(layer)}


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


def _blocks(traits: Sequence[Traits], layers_of: Sequence[tuple[int, ...]], room: int) -> list[Group]:
    by_depth: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for source, layers in zip(traits, layers_of, strict=True):
        for depth, path in source.blocks:
            by_depth[depth][path] += layers
    numbered = [by_depth[depth] for depth in sorted(by_depth) if len(by_depth[depth]) >= 2]
    if not numbered:
        return []
    blocks = [sorted(layers) for layers in numbered[0].values() if layers]
    width = -(-len(blocks) // room)
    digits = max(2, len(str(len(blocks) - 1)))
    groups = []
    for start in range(0, len(blocks), width):
        last = min(start + width, len(blocks)) - 1
        number = f"{start:0{digits}d}" if last == start else f"{start:0{digits}d}-{last:0{digits}d}"
        merged = sorted(index for block in blocks[start : last + 1] for index in block)
        groups.append(Group(f"block.{number}", tuple(merged)))
    return groups
