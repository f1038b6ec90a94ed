"""How many attention heads a model has, from its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trajmon.families.errors import FamilyError

__all__ = ["Heads", "head_dim_from", "heads_from"]

_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_HIDDEN: Final = ("hidden_size", "n_embd", "n_embed", "d_model")


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention heads of every block. Raises :class:`FamilyError` for numbers that cannot be.

    >>> Heads(8, 2, 64).grouping
    4
    """

    query: int
    """Number of query heads."""
    kv: int
    """Number of key heads, and of value heads; divides `query`."""
    dim: int
    """Rows of one head."""

    def __post_init__(self) -> None:
        for what, number in (("heads", self.query), ("kv_heads", self.kv), ("head_dim", self.dim)):
            if type(number) is not int or number < 1:
                raise FamilyError(f"{what}={number!r} is not a whole number from 1")
        if self.query % self.kv:
            raise FamilyError(f"heads={self.query} is no multiple of kv_heads={self.kv}")

    @property
    def grouping(self) -> int:
        """Query heads to one key head."""
        return self.query // self.kv


def heads_from(config: Mapping[str, object], family: str) -> Heads:
    """The heads in a Hugging Face configuration. Raises :class:`FamilyError` if it does not say.

    >>> heads_from({"n_head": 12, "n_embd": 768}, "gpt2")
    Heads(query=12, kv=12, dim=64)
    """
    query = _number(config, _HEADS)
    if query is None:
        raise FamilyError(
            f"family {family!r} needs the number of attention heads; the configuration has none of {', '.join(_HEADS)}"
        )
    dim = head_dim_from(config, query)
    if dim is None:
        raise FamilyError(
            f"family {family!r} needs the size of a head; the configuration has neither head_dim nor "
            f"one of {', '.join(_HIDDEN)}"
        )
    return Heads(query, _number(config, _KV_HEADS) or query, dim)


def head_dim_from(config: Mapping[str, object], query: int) -> int | None:
    """Rows of one of `query` heads; None if the configuration does not say."""
    stated = _number(config, ("head_dim",))
    if stated is not None:
        return stated
    hidden = _number(config, _HIDDEN)
    if hidden is None:
        return None
    if hidden % query:
        raise FamilyError(f"the configuration's hidden size {hidden} is no multiple of its {query} heads")
    return hidden // query


def _number(config: Mapping[str, object], keys: Sequence[str]) -> int | None:
    """The first of the keys that is there and not null."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise FamilyError(f"the configuration's {key} is {value!r}, not a whole number from 1")
        return value
    return None
