"""Declared views: a fused tensor recorded as its parts, e.g. Q, K and V of one attention weight."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trajmon.numerics.errors import ViewError

__all__ = ["Part", "View", "match_views", "split"]


@dataclass(frozen=True, slots=True)
class View:
    r"""Record matching parameters as parts along one axis, equal ones or of the sizes given.

    The parts cover the tensor and do not overlap, so its Gram is the sum of theirs. Raises
    :class:`ViewError` for a bad pattern, repeated or fewer than two names, more than one -1, and sizes that
    are not one for each name.

    >>> gpt2 = View(r"attn\.c_attn\.weight$", None, axis=1, names=("q", "k", "v"))
    >>> [part.shape for part in split(gpt2, "h.0.attn.c_attn.weight", (768, 2304))]
    [(768, 768), (768, 768), (768, 768)]
    >>> neox = View(r"query_key_value\.weight$", (8, 3, 64, 512), axis=1, names=("q", "k", "v"))
    >>> split(neox, "query_key_value.weight", (1536, 512))[0].shape
    (8, 1, 64, 512)
    >>> phi3 = View(r"qkv_proj\.weight$", None, axis=0, names=("q", "k", "v"), sizes=(512, 128, 128))
    >>> [part.shape for part in split(phi3, "qkv_proj.weight", (768, 512))]
    [(512, 512), (128, 512), (128, 512)]
    """

    pattern: str
    """Regular expression, searched in the parameter's name."""
    reshape: tuple[int, ...] | None
    """Row-major shape before the split, one extent may be -1; None: the tensor's own shape."""
    axis: int
    """Axis of the split; negative counts from the end."""
    names: tuple[str, ...]
    """One for each part; the layer is named ``{parameter}.{name}``."""
    sizes: tuple[int, ...] | None = None
    """Extents of the parts along the axis, in order, which add up to it; None: equal parts."""
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "_regex", re.compile(self.pattern))
        except re.error as error:
            raise ViewError(f"view {self.pattern!r}: not a regular expression: {error}") from error
        # Lists are what people write.
        object.__setattr__(self, "names", tuple(self.names))
        if self.reshape is not None:
            object.__setattr__(self, "reshape", tuple(self.reshape))
        if len(self.names) < 2 or len(set(self.names)) != len(self.names) or "" in self.names:
            raise ViewError(
                f"view {self.pattern!r}: names {self.names} must be two or more, distinct and not empty"
            )
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple(self.sizes))
            if len(self.sizes) != len(self.names) or any(size < 1 for size in self.sizes):
                raise ViewError(
                    f"view {self.pattern!r}: sizes {self.sizes} must be one from 1 for each of {self.names}"
                )
        if self.reshape is not None and (
            sum(extent == -1 for extent in self.reshape) > 1 or any(extent < -1 for extent in self.reshape)
        ):
            raise ViewError(
                f"view {self.pattern!r}: reshape {self.reshape} may hold one -1 and no other negative extent"
            )

    def to_json(self) -> list[Any]:
        """As JSON types; :meth:`from_json` reads it back."""
        return [
            self.pattern,
            None if self.reshape is None else list(self.reshape),
            self.axis,
            list(self.names),
            None if self.sizes is None else list(self.sizes),
        ]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> View:
        """Inverse of :meth:`to_json`. Raises TypeError or ValueError for anything else.

        >>> view = View("qkv", None, 0, ("q", "k", "v"))
        >>> View.from_json(view.to_json()) == view
        True
        """
        pattern, reshape, axis, names, sizes = data
        return cls(
            str(pattern),
            None if reshape is None else tuple(int(extent) for extent in reshape),
            int(axis),
            tuple(str(name) for name in names),
            None if sizes is None else tuple(int(size) for size in sizes),
        )

    def matches(self, parameter: str) -> bool:
        """Whether the pattern occurs in the parameter's name."""
        return self._regex.search(parameter) is not None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a split tensor."""

    name: str
    """Of the layer."""
    shape: tuple[int, ...]
    """Of the layer."""
    whole: tuple[int, ...]
    """Shape of the whole tensor before the split."""
    axis: int
    """Axis of the split in `whole`, not negative."""
    start: int
    """First index of the part along `axis`."""


def split(view: View, parameter: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    """The parts of a parameter of this shape, in the order of the view's names.

    Raises :class:`ViewError` if the tensor cannot be reshaped or divided so.
    """
    where = f"view {view.pattern!r} on {parameter!r} with shape {shape}"
    whole = shape if view.reshape is None else _resolve(view.reshape, math.prod(shape), where)
    if not -len(whole) <= view.axis < len(whole):
        raise ViewError(f"{where}: axis {view.axis} is out of range for {len(whole)} axes of {whole}")
    axis = view.axis % len(whole)
    parts, start = [], 0
    for name, size in zip(view.names, _sizes(view, whole, axis, where), strict=True):
        shape_of_part = (*whole[:axis], size, *whole[axis + 1 :])
        parts.append(Part(f"{parameter}.{name}", shape_of_part, whole, axis, start))
        start += size
    return tuple(parts)


def _sizes(view: View, whole: tuple[int, ...], axis: int, where: str) -> tuple[int, ...]:
    if view.sizes is not None:
        if sum(view.sizes) != whole[axis]:
            raise ViewError(f"{where}: sizes {view.sizes} do not add up to axis {axis} of {whole}")
        return view.sizes
    extent, remainder = divmod(whole[axis], len(view.names))
    if remainder:
        raise ViewError(
            f"{where}: axis {axis} of {whole} does not divide into {len(view.names)} equal parts {view.names}"
        )
    return (extent,) * len(view.names)


def match_views(views: Sequence[View], parameters: Sequence[str]) -> dict[str, View]:
    """Which view takes which parameter. Raises :class:`ViewError` for an idle view and for two on one tensor."""
    taken: dict[str, View] = {}
    for view in views:
        matching = [name for name in parameters if view.matches(name)]
        if not matching:
            raise ViewError(f"view {view.pattern!r} matches none of the {len(parameters)} parameters")
        for name in matching:
            if name in taken:
                raise ViewError(f"views {taken[name].pattern!r} and {view.pattern!r} both match {name!r}")
            taken[name] = view
    return taken


def _resolve(reshape: tuple[int, ...], numel: int, where: str) -> tuple[int, ...]:
    known = math.prod(extent for extent in reshape if extent != -1)
    if -1 in reshape and known and numel % known == 0:
        reshape = tuple(numel // known if extent == -1 else extent for extent in reshape)
    if -1 in reshape or math.prod(reshape) != numel:
        raise ViewError(f"{where}: {numel} elements do not reshape to {reshape}")
    return reshape
