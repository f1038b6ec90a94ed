"""A run that keeps few snapshots: rows with holes, and sketches made by the letter of their specification."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from support.rows import SyntheticRun
from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.sketch_record import SketchRow, encode_sketch, spec_message
from trajmon_protos.v1 import types_pb2

__all__ = ["SketchedRun", "anchored", "last_two"]

Kept = Callable[[int, int], bool]
_MASK = (1 << 64) - 1


def last_two(newest: int, earlier: int) -> bool:
    """Whether the row of `newest` still has the snapshot of `earlier`, as in mode `sketch`."""
    return earlier >= newest - 2


def anchored(newest: int, earlier: int) -> bool:
    """Checkpoint 0 and every fourth besides."""
    return earlier >= newest - 2 or earlier % 4 == 0


@dataclass
class SketchedRun(SyntheticRun):
    """A walk that goes a short way from its start, in float64 layers of a few thousand elements."""

    layer_size: int = 4000
    num_checkpoints: int = 14
    bins: int = 1021
    kept: Kept = last_two

    def __post_init__(self) -> None:
        super().__post_init__()
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.num_checkpoints, self.num_layers, self.layer_size)
        steps = 0.1 * rng.normal(size=shape) + 0.02 * rng.normal(size=shape[1:])
        steps[0] = rng.normal(size=shape[1:])
        # Whole multiples of a power of two: every sum of them is exact, in whatever order.
        self.parameters = np.rint(np.cumsum(steps, axis=0) * 2.0**20) / 2.0**20

    @property
    def spec(self) -> SketchSpec:
        return SketchSpec(bins=self.bins)

    def row(self, checkpoint: int, path: list[int] | None = None, attempt: int = 1) -> Row:
        """NaN is what needs a snapshot that was not kept."""
        whole = super().row(checkpoint, path, attempt)
        kept = np.array([self.kept(checkpoint, earlier) for earlier in range(checkpoint + 1)])
        products = whole.products.copy()
        start_kept, first_kept = kept[0], bool(kept[:2][-1])
        if not start_kept:
            products[:, 2:] = np.nan
        elif not first_kept:
            products[:, 3] = np.nan
        status = whole.status.copy()
        status[:] = 0 if kept.all() else LayerStatus.NOT_KEPT
        return Row(whole.header, np.where(kept, whole.gram, np.nan), products, status)

    def sketches(self) -> NDArray[np.float64]:
        """[layer, checkpoint, column]"""
        return np.stack(
            [self._fold(name, self.parameters[:, layer]) for layer, name in enumerate(self.layer_names)]
        )

    def sketch_record(self, checkpoint: int) -> bytes:
        """The sketch of a checkpoint behind all earlier ones."""
        sketches = self.sketches()[:, : checkpoint + 1]
        row = super().row(checkpoint)
        columns = sketches[:, checkpoint].ravel()
        header = types_pb2.SketchHeader(
            row=row.header, spec=spec_message(self.spec), num_columns=columns.size, dtype="<f8"
        )
        products = self.row(checkpoint).products
        gram = np.einsum("ltw,lw->lt", sketches, sketches[:, checkpoint])
        return encode_sketch(
            SketchRow(header, row.gram[:, checkpoint], products, np.zeros(len(gram), np.uint8), gram, columns)
        )

    def _fold(self, name: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
        signed = points * _signs(name, points.shape[1])
        width = min(self.bins, points.shape[1])
        padded = np.zeros((len(points), -(-points.shape[1] // width) * width))
        padded[:, : points.shape[1]] = signed
        folded: NDArray[np.float64] = padded.reshape(len(points), -1, width).sum(axis=1)
        return folded


def _signs(name: str, count: int) -> NDArray[np.float64]:
    key = b"trajmon sketch 1\x00" + bytes(8) + name.encode()
    seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    signs = np.empty(count)
    for start in range(0, count, 64):
        z = (seed + (start // 64 + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
        for bit in range(min(64, count - start)):
            signs[start + bit] = -1.0 if z >> bit & 1 else 1.0
    return signs
