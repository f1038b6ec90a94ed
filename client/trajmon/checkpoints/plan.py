"""What of a series of checkpoints becomes which layer, and whether a checkpoint belongs to the series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trajmon.checkpoints.base import CheckpointReader, TensorInfo
from trajmon.checkpoints.grouping import groups_by_name
from trajmon.checkpoints.naming import natural_key
from trajmon.errors import CheckpointFileError
from trajmon.numerics.layout import ITEM_BYTES, Dtype, Layer, Layout
from trajmon.numerics.views import Part, View, match_views, split

__all__ = ["CheckpointPlan", "Source", "known_plan", "plan_checkpoints", "read_as", "widens"]

_WORDS: Final[Mapping[Dtype, str]] = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
_WIDER: Final[Mapping[Dtype, tuple[Dtype, ...]]] = {
    "float64": (),
    "float32": ("float64",),
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
}
_BLOCK_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor of the series, and the layers that it gives."""

    name: str
    info: TensorInfo
    """As in the first checkpoint."""
    layers: tuple[int, ...]
    """Positions in the layout."""
    parts: tuple[Part, ...]
    """Of a declared view, one a layer; empty: the tensor is one layer."""


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Fixed by the first checkpoint of a series; the later ones must have the same tensors."""

    layout: Layout
    sources: tuple[Source, ...]
    """In the order of the layers."""

    def refusal(self, reader: CheckpointReader) -> str | None:
        """Why a checkpoint does not belong to the series; None if it does.

        It must have the same tensors in the same shapes; another dtype is converted if that loses nothing.
        """
        for source in self.sources:
            info = reader.tensors.get(source.name)
            if info is None:
                return f"{reader.path}: {source.name} is missing, the series began with it"
            if info.shape != source.info.shape:
                return f"{reader.path}: {source.name} has shape {info.shape}, the series began with {source.info.shape}"
            if not widens(info.dtype, source.info.dtype):
                return (
                    f"{reader.path}: {source.name} is {info.dtype}, the series began with {source.info.dtype}: "
                    "converting it would lose digits"
                )
        known = {source.name for source in self.sources}
        extra = [name for name in reader.tensors if name not in known]
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            return f"{reader.path}: {extra[0]}{more} was not in the series when it began"
        return None

    def fill(self, reader: CheckpointReader, buffer: NDArray[np.uint8]) -> None:
        """Bring a checkpoint into the layout: `buffer` is [layout.nbytes] uint8; gaps are left alone.

        Raises CheckpointFileError: for a checkpoint that does not belong, and for a file that is damaged or
        has changed meanwhile.
        """
        refusal = self.refusal(reader)
        if refusal is not None:
            raise CheckpointFileError(refusal)
        if buffer.shape != (self.layout.nbytes,) or buffer.dtype != np.uint8:
            raise ValueError(f"buffer is {buffer.dtype} {buffer.shape}, not uint8 ({self.layout.nbytes},)")
        for source in self.sources:
            if not source.parts:
                start = self.layout.offsets_bytes[source.layers[0]]
                nbytes = self.layout.layers[source.layers[0]].nbytes
                read_as(reader, source.name, 0, source.info.dtype, buffer[start : start + nbytes])
                continue
            self._fill_parts(reader, source, buffer)
        reader.verify_unchanged()

    def _fill_parts(self, reader: CheckpointReader, source: Source, buffer: NDArray[np.uint8]) -> None:
        item = ITEM_BYTES[source.info.dtype]
        whole = np.empty(source.info.num_elements * item, dtype=np.uint8)
        read_as(reader, source.name, 0, source.info.dtype, whole)
        tensor = whole.view(f"<u{item}").reshape(source.parts[0].whole)
        for index, part in zip(source.layers, source.parts, strict=True):
            start, layer = self.layout.offsets_bytes[index], self.layout.layers[index]
            extent = part.shape[part.axis]
            place: Any = (*(slice(None),) * part.axis, slice(part.start, part.start + extent))
            target = buffer[start : start + layer.nbytes].view(f"<u{item}").reshape(part.shape)
            target[...] = tensor[place]


def plan_checkpoints(
    first: CheckpointReader,
    *,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    views: Sequence[View] = (),
) -> CheckpointPlan:
    """The plan of the series that begins with this checkpoint.

    Layers come by name, as people count, so that the format of the first file has no say in it. `groups` and
    `views` as in :func:`trajmon.watch`. Raises ModelError and ViewError.
    """
    sources, layers = _sources(first.tensors, views)
    batch_norms = frozenset(
        name.rpartition(".")[0] for name in first.skipped if name.endswith(".running_mean")
    )
    chosen = groups_by_name(
        [(source.name, source.info.shape) for source in sources],
        [source.layers for source in sources],
        groups,
        [layer.name for layer in layers],
        batch_norms,
    )
    return CheckpointPlan(Layout(layers, chosen), sources)


def known_plan(layout: Layout, tensors: Mapping[str, TensorInfo], views: Sequence[View]) -> CheckpointPlan:
    """The plan that a series began with, without its first checkpoint. Raises ValueError if they contradict."""
    sources, layers = _sources(tensors, views)
    if layers != layout.layers:
        raise ValueError("the tensors do not give the layers of the layout")
    return CheckpointPlan(layout, sources)


def _sources(
    tensors: Mapping[str, TensorInfo], views: Sequence[View]
) -> tuple[tuple[Source, ...], tuple[Layer, ...]]:
    names = sorted(tensors, key=natural_key)
    taken = match_views(views, names)
    layers: list[Layer] = []
    sources = []
    for name in names:
        info = tensors[name]
        parts = split(taken[name], name, info.shape) if name in taken else ()
        start = len(layers)
        layers += [Layer(part.name, part.shape, info.dtype) for part in parts] or [
            Layer(name, info.shape, info.dtype)
        ]
        sources.append(Source(name, info, tuple(range(start, len(layers))), parts))
    return tuple(sources), tuple(layers)


def widens(given: Dtype, wanted: Dtype) -> bool:
    """Whether every number of one dtype is one of the other.

    >>> widens("bfloat16", "float32"), widens("float16", "bfloat16")
    (True, False)
    """
    return given == wanted or wanted in _WIDER[given]


def read_as(reader: CheckpointReader, name: str, start: int, dtype: Dtype, out: NDArray[np.uint8]) -> None:
    """As ``reader.read``, with the elements as `dtype`, to which theirs must widen."""
    given = reader.tensors[name].dtype
    if given == dtype:
        reader.read(name, start, out)
        return
    if not widens(given, dtype):
        raise ValueError(f"{given} does not widen to {dtype}")
    target = out.view(_WORDS[dtype])
    count = max(1, _BLOCK_BYTES // ITEM_BYTES[given])
    block = np.empty(min(count, len(target)) * ITEM_BYTES[given], dtype=np.uint8)
    for done in range(0, len(target), count):
        part = target[done : done + count]
        raw = block[: len(part) * ITEM_BYTES[given]]
        reader.read(name, start + done, raw)
        part[...] = _numbers(raw, given)


def _numbers(raw: NDArray[np.uint8], dtype: Dtype) -> NDArray[Any]:
    words = raw.view(_WORDS[dtype])
    if dtype != "bfloat16":
        return words
    # A bfloat16 is the upper half of a float32.
    return (words.astype(np.uint32) << 16).view(np.float32)
