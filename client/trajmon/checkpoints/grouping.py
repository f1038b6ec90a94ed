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
from trajmon.numerics.errors import ModelError
from trajmon.numerics.layout import MAX_GROUPS, NETWORK, Group

__all__ = ["groups_by_name", "name_kinds"]

_MAX_DEFAULT_GROUPS: Final = 16
_MAX_NAME_LENGTH: Final = 64
_FIXED: Final = (NETWORK, "norm", "non_norm")
_KINDS: Final = ("attention", "attention.qkv", "mlp", "embedding", "head", "conv")

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
    members: dict[str, list[int]] = defaultdict(list)
    for (name, shape), layers in zip(parameters, layers_of, strict=True):
        module = name.rpartition(".")[0]
        kinds = ("norm",) if module in norm_modules else name_kinds(name, shape, shapes[module])
        for kind in (NETWORK, *kinds):
            members[kind] += layers
    names = [name for name in (*_FIXED, *_KINDS) if members[name]]
    blocks = _blocks([name for name, _ in parameters], layers_of, _MAX_DEFAULT_GROUPS - len(names))
    found = (*(Group(name, tuple(sorted(members[name]))) for name in names), *blocks)
    return _with_declared(found, declared or {}, layer_names)


def _blocks(names: Sequence[str], layers_of: Sequence[tuple[int, ...]], room: int) -> list[Group]:
    by_depth: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, layers in zip(names, layers_of, strict=True):
        path = name.split(".")
        for depth, part in enumerate(path[:-1]):
            if part.isdecimal():
                by_depth[depth][".".join(path[: depth + 1])] += layers
    numbered = [by_depth[depth] for depth in sorted(by_depth) if len(by_depth[depth]) >= 2]
    if not numbered:
        return []
    # By number: safetensors keeps its tensors by name, and there layer 10 comes before layer 2.
    blocks = [sorted(numbered[0][path]) for path in sorted(numbered[0], key=natural_key)]
    width = -(-len(blocks) // room)
    digits = max(2, len(str(len(blocks) - 1)))
    groups = []
    for start in range(0, len(blocks), width):
        last = min(start + width, len(blocks)) - 1
        number = f"{start:0{digits}d}" if last == start else f"{start:0{digits}d}-{last:0{digits}d}"
        merged = sorted(index for block in blocks[start : last + 1] for index in block)
        groups.append(Group(f"block.{number}", tuple(merged)))
    return groups


def _with_declared(
    defaults: Sequence[Group], declared: Mapping[str, str | Sequence[str]], layer_names: Sequence[str]
) -> tuple[Group, ...]:
    made = {group.name: group for group in defaults}
    for name, patterns in declared.items():
        if name in _FIXED:
            raise ModelError(f"group name {name!r} is taken: {', '.join(_FIXED)} always mean the same")
        if not name or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise ModelError(f"group name {name!r} is not 1 to {_MAX_NAME_LENGTH} printable characters")
        chosen: set[int] = set()
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            try:
                regex = re.compile(pattern)
            except re.error as error:
                raise ModelError(
                    f"group {name!r}: {pattern!r} is not a regular expression: {error}"
                ) from error
            matching = {index for index, layer in enumerate(layer_names) if regex.search(layer)}
            if not matching:
                raise ModelError(f"group {name!r}: {pattern!r} matches none of the {len(layer_names)} layers")
            chosen |= matching
        if not chosen:
            raise ModelError(f"group {name!r} has no patterns")
        made[name] = Group(name, tuple(sorted(chosen)))
    if len(made) > MAX_GROUPS:
        raise ModelError(f"{len(made)} groups, the default ones included, are more than {MAX_GROUPS}")
    return tuple(made.values())
