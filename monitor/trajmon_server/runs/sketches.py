"""Sketches of a run: which columns are whose, what a sketch record must look like, and the sum of its parts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.errors import SketchError
from trajmon_protos.record import PRODUCTS, LayerStatus
from trajmon_protos.sketch import LEVELS, SketchSpec, canonical, collapse, pair_rate
from trajmon_protos.sketch_record import DIGITS, SketchRow, spec_message, spec_of
from trajmon_protos.v1 import types_pb2
from trajmon_server.model import RunDescription
from trajmon_server.runs.parts import PartSums

__all__ = ["SketchColumns", "add_up_sketches"]

_ROUNDING: Final = {"<f4": 2.0**-24, "<f8": 2.0**-53}


@dataclass(frozen=True, slots=True)
class SketchColumns:
    """Where the layers of a run lie in its sketches."""

    spec: SketchSpec
    numels: tuple[int, ...]
    """Elements of each layer."""
    dtype: str
    """"<f4", or "<f8" if the run has a float64 layer."""

    @classmethod
    def of(cls, description: RunDescription, spec: SketchSpec) -> SketchColumns:
        """The columns of a run's sketches."""
        wide = any(layer.dtype == "float64" for layer in description.layers)
        numels = tuple(layer.parameters for layer in description.layers)
        return cls(spec, numels, "<f8" if wide else "<f4")

    def widths(self, layers: Sequence[int] = ()) -> list[int]:
        """Columns of each of these layers; of all without any."""
        return [self.spec.width(self.numels[layer]) for layer in layers or range(len(self.numels))]

    def slices(self, layers: Sequence[int] = ()) -> list[slice]:
        """Where each of these layers lies in a record of them, one after the other; all layers without any."""
        ends = np.cumsum([0, *self.widths(layers)]).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    @property
    def rates(self) -> NDArray[np.float64]:
        """[L], see :func:`trajmon_protos.sketch.pair_rate`."""
        return np.array([pair_rate(numel, self.spec.bins) for numel in self.numels])

    @property
    def rounding(self) -> float:
        """Largest relative rounding of a column."""
        return _ROUNDING[self.dtype]


def add_up_sketches(parts: Iterable[SketchRow], columns: SketchColumns) -> SketchRow:
    """The sketch that is the sum of all its parts; takes one at a time, in the order of their numbers.

    Digits are added exactly, so the sketch is that of the whole, bit for bit. Norms, products and the Gram row of the
    sketches are added like rows. ValueError if parts are missing, out of order, or do not belong together.
    """
    sums: PartSums | None = None
    num_layers = len(columns.numels)
    places = columns.slices()
    for part in parts:
        header = part.header.row
        if spec_of(part.header.spec) != columns.spec or part.header.dtype != DIGITS:
            raise ValueError(f"part {header.part} is sketched in another way than {columns.spec}")
        if sums is None:
            width = 1 + len(PRODUCTS) + header.checkpoint + 1
            sums = PartSums(header, num_layers, width)
            digits = np.zeros((len(LEVELS), places[-1].stop), dtype=np.int64)
        layers = sums.add(header, np.hstack((part.norms[:, None], part.products, part.gram)), part.status)
        low = part.header.first_level - LEVELS[0]
        levels = slice(low, low + part.header.num_levels)
        for layer, source in zip(layers, columns.slices(layers.tolist()), strict=True):
            digits[levels, places[layer]] += part.values[:, source]
    if sums is None:
        raise ValueError("a sketch is the sum of all its parts; some are missing")
    header, total, status = sums.result([index for index, numel in enumerate(columns.numels) if not numel])
    try:
        values = collapse(canonical(digits))
    except SketchError as error:
        raise ValueError(str(error)) from error
    for layer in np.flatnonzero(status == LayerStatus.NON_FINITE):
        values[places[layer]] = np.nan
    message = types_pb2.SketchHeader(
        row=header, spec=spec_message(columns.spec), num_columns=values.size, dtype=columns.dtype
    )
    split = 1 + len(PRODUCTS)
    return SketchRow(
        message, total[:, 0], total[:, 1:split], status, total[:, split:], values.astype(columns.dtype)
    )
