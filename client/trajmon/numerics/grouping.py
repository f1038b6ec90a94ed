"""Groups from what is known of each parameter: plain values in, groups out, wherever those values come from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trajmon.numerics.errors import ModelError
from trajmon.numerics.layout import MAX_GROUPS, NETWORK, Group

__all__ = ["MAX_DEFAULT_GROUPS", "Traits", "groups_of", "user_groups"]

MAX_DEFAULT_GROUPS: Final = 16
MAX_NAME_LENGTH: Final = 64
_KINDS: Final = ("attention", "attention.qkv", "mlp", "embedding", "head", "conv", "linear")
_FIXED: Final = (NETWORK, "norm", "non_norm")


@dataclass(frozen=True, slots=True)
class Traits:
    """What decides a parameter's groups; plain values, so that one process can group what another holds."""

    kinds: tuple[str, ...]
    """Names of the groups besides ``network`` and the blocks."""
    blocks: tuple[tuple[int, str], ...]
    """Depth and path of each numbered module that the parameter lies in."""


def groups_of(
    traits: Sequence[Traits],
    layers_of: Sequence[tuple[int, ...]],
    block_order: Callable[[str], Any] | None = None,
) -> tuple[Group, ...]:
    """Groups of parameters with these traits; `layers_of`: the layer indices that each of them gave.

    Blocks are counted as they come, or by the key `block_order` of their paths.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for source, layers in zip(traits, layers_of, strict=True):
        for name in (NETWORK, *source.kinds):
            members[name] += layers
    names = [name for name in (*_FIXED, *_KINDS) if members[name]]
    blocks = _blocks(traits, layers_of, MAX_DEFAULT_GROUPS - len(names), block_order)
    return (*(Group(name, tuple(sorted(members[name]))) for name in names), *blocks)


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


def _blocks(
    traits: Sequence[Traits],
    layers_of: Sequence[tuple[int, ...]],
    room: int,
    order: Callable[[str], Any] | None,
) -> list[Group]:
    by_depth: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for source, layers in zip(traits, layers_of, strict=True):
        for depth, path in source.blocks:
            by_depth[depth][path] += layers
    numbered = [by_depth[depth] for depth in sorted(by_depth) if len(by_depth[depth]) >= 2]
    if not numbered:
        return []
    paths = list(numbered[0]) if order is None else sorted(numbered[0], key=order)
    blocks = [sorted(numbered[0][path]) for path in paths if numbered[0][path]]
    width = -(-len(blocks) // room)
    digits = max(2, len(str(len(blocks) - 1)))
    groups = []
    for start in range(0, len(blocks), width):
        last = min(start + width, len(blocks)) - 1
        number = f"{start:0{digits}d}" if last == start else f"{start:0{digits}d}-{last:0{digits}d}"
        merged = sorted(index for block in blocks[start : last + 1] for index in block)
        groups.append(Group(f"block.{number}", tuple(merged)))
    return groups
