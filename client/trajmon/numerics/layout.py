"""What is recorded of a model: its layers in order, their groups, and where each lies in a snapshot.

The data of a snapshot, byte by byte: the layers in layout order, each row-major and little-endian in its own
dtype, each starting at a multiple of 64 bytes; the gaps and the tail up to ``Layout.nbytes`` mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, get_args

from trajmon.numerics.errors import LayoutError

__all__ = ["ALIGNMENT_BYTES", "ITEM_BYTES", "MAX_GROUPS", "NETWORK", "Dtype", "Group", "Layer", "Layout"]

Dtype = Literal["float64", "float32", "bfloat16", "float16"]

ITEM_BYTES: Final[Mapping[str, int]] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
ALIGNMENT_BYTES: Final = 64
NETWORK: Final = "network"
"""Name of the first group, which holds every layer."""
MAX_GROUPS: Final = 64
_FINGERPRINT_DOMAIN: Final = "trajmon layout 1"


@dataclass(frozen=True, slots=True)
class Layer:
    """One named parameter tensor, or a declared view of it.

    >>> Layer("fc.weight", (10, 64), "float32").nbytes
    2560
    """

    name: str
    """Unique in its layout, not empty."""
    shape: tuple[int, ...]
    """Extents; () is a scalar, an extent of 0 a tensor without elements."""
    dtype: Dtype
    """Precision in which the parameter is trained and stored."""

    def __post_init__(self) -> None:
        if not self.name:
            raise LayoutError("a layer has an empty name")
        if self.dtype not in get_args(Dtype):
            known = ", ".join(get_args(Dtype))
            raise LayoutError(f"layer {self.name!r} has dtype {self.dtype!r}, which is none of {known}")
        if any(extent < 0 for extent in self.shape):
            raise LayoutError(f"layer {self.name!r} has shape {self.shape} with a negative extent")

    @property
    def num_parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the elements fill, without the gap behind them."""
        return self.num_parameters * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of layers; its Gram is the sum of its layers'."""

    name: str
    """Unique in its layout, not empty."""
    layers: tuple[int, ...]
    """Positions in ``Layout.layers``, ascending, without repetition."""

    def __post_init__(self) -> None:
        if not self.name:
            raise LayoutError("a group has an empty name")
        if not self.layers:
            raise LayoutError(f"group {self.name!r} holds no layers")
        if self.layers[0] < 0 or any(a >= b for a, b in pairwise(self.layers)):
            raise LayoutError(f"layers of group {self.name!r} are not ascending positions from 0")


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of a run in order, fixed for its life.

    Raises :class:`LayoutError` for no layers, repeated names, groups that name missing layers or each other's
    name, a first group that is not ``network`` with all layers, and more than :data:`MAX_GROUPS` groups.

    >>> layers = (Layer("weight", (3, 5), "float32"), Layer("bias", (3,), "float32"))
    >>> layout = Layout(layers, (Group("network", (0, 1)),))
    >>> layout.offsets_bytes, layout.nbytes, layout.num_parameters
    ((0, 64), 128, 18)
    """

    layers: tuple[Layer, ...]
    """At least one."""
    groups: tuple[Group, ...]
    """``network`` first."""
    fingerprint: str = field(init=False, repr=False, compare=False)
    """32 hex digits over the layers' names, shapes and dtypes in order; groups do not enter."""
    offsets_bytes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Where each layer starts in a snapshot's data, multiples of :data:`ALIGNMENT_BYTES`."""
    nbytes: int = field(init=False, repr=False, compare=False)
    """Length of a snapshot's data, a multiple of :data:`ALIGNMENT_BYTES`; 0 if no layer has elements."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise LayoutError("a layout needs at least one layer")
        _refuse_repetition("layer", [layer.name for layer in self.layers])
        _refuse_repetition("group", [group.name for group in self.groups])
        if not self.groups or self.groups[0] != Group(NETWORK, tuple(range(len(self.layers)))):
            raise LayoutError(f"the first group must be {NETWORK!r} with all {len(self.layers)} layers")
        if len(self.groups) > MAX_GROUPS:
            raise LayoutError(f"{len(self.groups)} groups are more than {MAX_GROUPS}; declare fewer")
        for group in self.groups:
            if group.layers[-1] >= len(self.layers):
                raise LayoutError(
                    f"group {group.name!r} names layer {group.layers[-1]}; there are {len(self.layers)} layers"
                )
        offsets, end = [], 0
        for layer in self.layers:
            offsets.append(end)
            end += -(-layer.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        object.__setattr__(self, "offsets_bytes", tuple(offsets))
        object.__setattr__(self, "nbytes", end)
        object.__setattr__(self, "fingerprint", _fingerprint(self.layers))

    @property
    def num_parameters(self) -> int:
        """Elements of all layers together."""
        return sum(layer.num_parameters for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types; :meth:`from_json` reads it back."""
        return {
            "layers": [
                {"name": layer.name, "shape": list(layer.shape), "dtype": layer.dtype}
                for layer in self.layers
            ],
            "groups": [{"name": group.name, "layers": list(group.layers)} for group in self.groups],
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, data: object) -> Layout:
        """Read what :meth:`to_json` wrote. Raises :class:`LayoutError` that says what is wrong, and where.

        >>> layout = Layout((Layer("w", (2,), "float64"),), (Group("network", (0,)),))
        >>> Layout.from_json(layout.to_json()) == layout
        True
        """
        root = _mapping(data, "layout")
        layers = tuple(
            Layer(
                _text(entry, "name", where),
                _counts(entry, "shape", where),
                _dtype(_text(entry, "dtype", where)),
            )
            for where, entry in _entries(root, "layers")
        )
        groups = tuple(
            Group(_text(entry, "name", where), _counts(entry, "layers", where))
            for where, entry in _entries(root, "groups")
        )
        layout = cls(layers, groups)
        stated = _text(root, "fingerprint", "layout")
        if stated != layout.fingerprint:
            raise LayoutError(f"layout states fingerprint {stated!r}, its layers have {layout.fingerprint!r}")
        return layout


def _fingerprint(layers: Sequence[Layer]) -> str:
    # JSON quotes names and brackets shapes: two different layouts never give the same text.
    parts = [[layer.name, list(layer.shape), layer.dtype] for layer in layers]
    text = json.dumps([_FINGERPRINT_DOMAIN, parts], separators=(",", ":"))
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _refuse_repetition(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise LayoutError(f"two {what}s are named {name!r}")
        seen.add(name)


def _mapping(data: object, where: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise LayoutError(f"{where} is {type(data).__name__}, not an object")
    return data


def _entries(root: Mapping[str, object], key: str) -> list[tuple[str, Mapping[str, object]]]:
    entries = root.get(key)
    if not isinstance(entries, list):
        raise LayoutError(f"layout has no list {key!r}")
    return [(f"{key}[{i}]", _mapping(entry, f"{key}[{i}]")) for i, entry in enumerate(entries)]


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise LayoutError(f"{where} has no text {key!r}")
    return value


def _counts(entry: Mapping[str, object], key: str, where: str) -> tuple[int, ...]:
    values = entry.get(key)
    # JSON's true is an int to Python.
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise LayoutError(f"{where} has no list of whole numbers {key!r}")
    return tuple(values)


def _dtype(text: str) -> Dtype:
    for dtype in get_args(Dtype):
        if text == dtype:
            known: Dtype = dtype
            return known
    raise LayoutError(f"dtype {text!r} is none of {', '.join(get_args(Dtype))}")
