"""A chunk: a box of one layer's elements; a shard: the chunks that one rank records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trajmon.errors import DamagedRunError
from trajmon.numerics.layout import NETWORK, Group, Layer, Layout

__all__ = ["Chunk", "Shard", "shard_layout"]


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """A box of a layer's elements.

    The layer is seen in a frame: any shape with the layer's number of elements, in row-major order. A run of
    elements, as FSDP1 keeps them, is a box of the frame ``(numel,)``.
    """

    layer: int
    """Position in the run's layout."""
    frame: tuple[int, ...]
    """Shape that the layer is seen in."""
    offsets: tuple[int, ...]
    """First index along each axis of the frame."""
    sizes: tuple[int, ...]
    """Extents; one of 0 is a chunk without elements."""

    @property
    def num_elements(self) -> int:
        """Elements of the chunk."""
        return math.prod(self.sizes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where it lies in the frame.

        >>> Chunk(0, (7, 3), (4, 0), (3, 3)).slices
        (slice(4, 7, None), slice(0, 3, None))
        """
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.sizes, strict=True))

    def to_json(self) -> list[Any]:
        """As JSON types; :meth:`from_json` reads it back."""
        return [self.layer, list(self.frame), list(self.offsets), list(self.sizes)]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Chunk:
        """Inverse of :meth:`to_json`. Raises TypeError or ValueError."""
        layer, frame, offsets, sizes = data
        return cls(int(layer), _ints(frame), _ints(offsets), _ints(sizes))


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank records of a run."""

    part: int
    """From 0."""
    num_parts: int
    writer: str
    """32 hex digits, of this part of this cut alone."""
    first_checkpoint: int
    """First checkpoint that was recorded in this cut; earlier ones are put together from other cuts."""
    chunks: tuple[Chunk, ...]
    """At least one, in the order in which they lie in a snapshot."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Positions in the run's layout of the layers that the shard has chunks of, ascending."""
        return tuple(sorted({chunk.layer for chunk in self.chunks}))

    def to_json(self) -> dict[str, Any]:
        """As JSON types; :meth:`from_json` reads it back."""
        return {
            "part": self.part,
            "num_parts": self.num_parts,
            "writer": self.writer,
            "first_checkpoint": self.first_checkpoint,
            "chunks": [chunk.to_json() for chunk in self.chunks],
        }

    @classmethod
    def from_json(cls, data: Any) -> Shard:
        """Inverse of :meth:`to_json`. Raises DamagedRunError."""
        try:
            return cls(
                part=int(data["part"]),
                num_parts=int(data["num_parts"]),
                writer=str(data["writer"]),
                first_checkpoint=int(data["first_checkpoint"]),
                chunks=tuple(Chunk.from_json(chunk) for chunk in data["chunks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRunError(f"the shard is not what this program writes: {error!r}") from error


def shard_layout(layout: Layout, shard: Shard) -> Layout:
    """How a shard's chunks lie in a snapshot: one entry a chunk, named after its layer and place.

    >>> layout = Layout((Layer("w", (7, 3), "float32"),), (Group("network", (0,)),))
    >>> shard = Shard(1, 2, "0" * 32, 0, (Chunk(0, (7, 3), (4, 0), (3, 3)),))
    >>> shard_layout(layout, shard).layers[0]
    Layer(name='w[7x3][4:7,0:3]', shape=(3, 3), dtype='float32')
    """
    layers = []
    for chunk in shard.chunks:
        layer = layout.layers[chunk.layer]
        frame = "x".join(str(extent) for extent in chunk.frame)
        place = ",".join(f"{part.start}:{part.stop}" for part in chunk.slices)
        layers.append(Layer(f"{layer.name}[{frame}][{place}]", chunk.sizes, layer.dtype))
    return Layout(tuple(layers), (Group(NETWORK, tuple(range(len(layers)))),))


def _ints(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
