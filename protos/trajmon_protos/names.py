"""Names that cross the wire: runs and scopes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from trajmon_protos.errors import ScopeError

__all__ = ["RUN_ID", "RUN_NAME", "RUN_NAME_RULE", "Scope", "parse_scope"]

# A name becomes a folder and a command's argument: `..` and `-x` must not pass.
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
RUN_NAME_RULE = "1 to 64 of the characters A-Z a-z 0-9 _ . -, the first neither . nor -"
RUN_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a map or a hallmark is taken over."""

    kind: Literal["group", "layer"]
    name: str

    def __str__(self) -> str:
        return "network" if self == Scope("group", "network") else f"{self.kind}:{self.name}"


def parse_scope(text: str) -> Scope:
    """Parse ``network``, ``group:NAME`` or ``layer:NAME``; ``network`` is the group of all layers.

    >>> parse_scope("layer:conv1.weight")
    Scope(kind='layer', name='conv1.weight')
    >>> str(parse_scope("group:network"))
    'network'
    """
    if text in ("", "network"):
        return Scope("group", "network")
    kind, colon, name = text.partition(":")
    if not colon or not name or kind not in ("group", "layer"):
        raise ScopeError(f"scope {text[:80]!r} is not one of: network, group:NAME, layer:NAME")
    return Scope("group" if kind == "group" else "layer", name)
