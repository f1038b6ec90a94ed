"""From this process's shards of a model into a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from trajmon.numerics.errors import ModelChangedError
from trajmon.numerics.layout import Layout
from trajmon.numerics.model import tensors_in
from trajmon.sharding.cutting import Piece
from trajmon.sharding.local import LocalParameter, local_parameters

__all__ = ["ShardPlan", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """The box of one parameter that this process records, and its pieces in the order of the snapshot."""

    name: str
    frame: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ShardPlan:
    """What this process records, and how it comes into a snapshot; see ModelPlan for the unsharded case."""

    layout: Layout
    """Of the snapshots of this shard."""
    sources: Sequence[Source]
    """In the order of the layout."""
    _targets: Any = field(default_factory=WeakIdKeyDictionary, repr=False)

    def copy_into(self, model: nn.Module, buffer: Tensor, *, non_blocking: bool = False) -> None:
        """Copy the shard as it is now into `buffer`, [layout.nbytes] uint8 on the CPU.

        No communication. `non_blocking` as in ``Tensor.copy_``. Raises ModelChangedError if a parameter is gone
        or lies otherwise than planned, before anything is copied, and ValueError for a buffer that does not
        fit.
        """
        found = {parameter.name: parameter for parameter in local_parameters(model)}
        boxes = [self._box(source, found.get(source.name)) for source in self.sources]
        targets = iter(tensors_in(self.layout, buffer, self._targets))
        with torch.no_grad():
            for source, box in zip(self.sources, boxes, strict=True):
                for piece in source.pieces:
                    _copy(piece, box, next(targets), non_blocking=non_blocking)

    def _box(self, source: Source, parameter: LocalParameter | None) -> Tensor:
        if parameter is None:
            raise ModelChangedError(f"layer {source.name!r} is no longer in the model")
        now = (parameter.frame, parameter.offsets, parameter.sizes, parameter.dtype)
        planned = (source.frame, source.offsets, source.sizes, source.dtype)
        if now != planned:
            raise ModelChangedError(
                f"layer {source.name!r} lies here as {now}, recording began with {planned}"
            )
        return parameter.read()


def _copy(piece: Piece, box: Tensor, target: Tensor, *, non_blocking: bool = False) -> None:
    if box.dim() == 0:
        target.copy_(box, non_blocking=non_blocking)
        return
    place = 0
    for start, length in piece.runs:
        taken = box.narrow(piece.axis, start, length)
        target.narrow(piece.axis, place, length).copy_(taken, non_blocking=non_blocking)
        place += length
