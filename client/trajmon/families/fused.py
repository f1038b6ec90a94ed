"""How families store several projections in one tensor, and the views that take them apart.

The arrangement is what the model's own forward pass does with the tensor's output. Shapes are those of the
weight as stored, [output, hidden] for a Linear, [hidden, output] for GPT-2's Conv1D.

=============  ====================================================  ========================================
arrangement    output axis                                           families
=============  ====================================================  ========================================
per head       head 0: q, k, v; head 1: q, k, v; …                   GPT-NeoX, BLOOM, Persimmon, Falcon-RW
per KV group   group 0: its queries, k, v; group 1: …                Falcon's newer decoder
one by one     all of q, all of k, all of v                          GPT-2, MPT, ModernBERT, Phi-3, torch's own
quarters       quarter 0: q, v, k; quarter 1: q, v, k; …             CodeGen
=============  ====================================================  ========================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from trajmon.families.errors import FamilyError
from trajmon.families.heads import Heads
from trajmon.numerics.errors import ViewError
from trajmon.numerics.views import Part, View, split

__all__ = [
    "QKV",
    "Fused",
    "blocks",
    "columns",
    "gate_and_up",
    "in_proj",
    "per_group",
    "per_head",
    "quarters",
    "rows",
]

QKV: Final = ("q", "k", "v")
# A LoRA adapter moves the tensor it adapts one step down.
_ADAPTED: Final = r"(?:\.base_layer)?"


@dataclass(frozen=True, slots=True)
class Fused:
    """A kind of parameter that holds several projections, and what it must look like."""

    view: View
    """Its parts."""
    output_axis: int
    """Of the parameter, before any reshape."""
    extent: int | None
    """Elements along `output_axis`; None: any."""
    ratio: int | None = None
    """`extent` in multiples of the other axis, for a weight of two axes; None: any."""

    def parts(self, parameter: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The parts of a parameter of this shape. Raises :class:`FamilyError` if it is not arranged so.

        A tensor that can be reshaped is not yet one that is arranged so: the extent is checked first.
        """
        where = f"{parameter!r} has shape {shape}"
        if self.output_axis >= len(shape):
            raise FamilyError(f"{where}; expected an axis {self.output_axis}")
        found = shape[self.output_axis]
        if self.extent is not None and found != self.extent:
            raise FamilyError(f"{where}; expected {self.extent} along axis {self.output_axis}")
        if self.ratio is not None and len(shape) == 2 and found != self.ratio * shape[1 - self.output_axis]:
            raise FamilyError(
                f"{where}; expected {self.ratio} times as much along axis {self.output_axis} as along the other"
            )
        try:
            return split(self.view, parameter, shape)
        except ViewError as error:
            raise FamilyError(str(error)) from error


def per_head(path: str, heads: Heads) -> tuple[Fused, ...]:
    """q, k, v of head 0, then of head 1, …; weight and bias of the module at `path`, a regular expression."""
    return _reshaped(path, (heads.query, 3, heads.dim), 1, QKV)


def per_group(path: str, heads: Heads) -> tuple[Fused, ...]:
    """The queries of one key-value group, its k, its v, then the next group."""
    shape = (heads.kv, heads.grouping + 2, heads.dim)
    return _reshaped(path, shape, 1, QKV, (heads.grouping, 1, 1))


def blocks(path: str, heads: Heads) -> tuple[Fused, ...]:
    """All queries, all keys, all values along axis 0."""
    rows = (heads.query * heads.dim, heads.kv * heads.dim, heads.kv * heads.dim)
    return (
        Fused(View(_whole(rf"{path}{_ADAPTED}\.weight"), None, 0, QKV, rows), 0, sum(rows)),
        Fused(View(_whole(rf"{path}{_ADAPTED}\.bias"), None, 0, QKV, rows), 0, sum(rows)),
    )


def quarters(path: str, heads: Heads) -> tuple[Fused, ...]:
    """Four blocks, each with its share of queries, values and keys, in that order."""
    width, rest = divmod(heads.query * heads.dim, 4)
    if rest:
        raise FamilyError(f"{heads.query} heads of {heads.dim} do not divide into 4 quarters")
    return _reshaped(path, (4, 3, width), 1, ("q", "v", "k"))


def rows(path: str, names: tuple[str, ...] = QKV) -> tuple[Fused, ...]:
    """As many square parts as there are names, one by one along axis 0 of a Linear."""
    return _stacked(rf"{path}{_ADAPTED}\.weight", rf"{path}{_ADAPTED}\.bias", 0, names)


def columns(path: str, names: tuple[str, ...] = QKV) -> tuple[Fused, ...]:
    """As many square parts as there are names, one by one along axis 1 of a Conv1D."""
    return _stacked(rf"{path}{_ADAPTED}\.weight", rf"{path}{_ADAPTED}\.bias", 1, names)


def in_proj() -> tuple[Fused, ...]:
    """``torch.nn.MultiheadAttention``: queries, keys, values one by one along axis 0."""
    return _stacked("in_proj_weight", "in_proj_bias", 0, QKV)


def gate_and_up(path: str, axis: int) -> tuple[Fused, ...]:
    """Two halves, the gate's and the up projection's; `path` is that of the parameter itself."""
    return (Fused(View(_whole(path), None, axis, ("gate", "up")), axis, None),)


def _stacked(weight: str, bias: str, axis: int, names: tuple[str, ...]) -> tuple[Fused, ...]:
    return (
        Fused(View(_whole(weight), None, axis, names), axis, None, len(names)),
        Fused(View(_whole(bias), None, 0, names), 0, None),
    )


def _reshaped(
    path: str,
    shape: tuple[int, ...],
    axis: int,
    names: tuple[str, ...],
    sizes: tuple[int, ...] | None = None,
) -> tuple[Fused, ...]:
    extent = math.prod(shape)
    weight = View(_whole(rf"{path}{_ADAPTED}\.weight"), (*shape, -1), axis, names, sizes)
    bias = View(_whole(rf"{path}{_ADAPTED}\.bias"), shape, axis, names, sizes)
    return Fused(weight, 0, extent), Fused(bias, 0, extent)


def _whole(core: str) -> str:
    """A pattern for a parameter whose path ends in `core`, at whole components."""
    return rf"^(?:.*\.)?(?:{core})$"
