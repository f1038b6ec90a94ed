"""Rows that come in parts. Pure: what is known of a row that is not whole yet, and the sum of its parts.

Inner products are sums over disjoint sets of elements: the row of a checkpoint is the sum of what each rank computes
over the elements that it owns. A sum is known only once every part is there; until then there is no row at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon_protos.record import PRODUCTS, LayerStatus, Row
from trajmon_protos.v1 import types_pb2

__all__ = ["MAX_PARTS", "WHOLE", "OpenRow", "PartSums", "add_up", "file_part"]

_SOME_MISSING = "a row is the sum of all its parts; some are missing"
# By status; the last is -1. NOT_KEPT before SNAPSHOT_MISSING: it says that estimates may be asked for.
_GRAVITY = np.array([0, 3, 1, 2, -1])

MAX_PARTS = 4096
"""Of one row. The journal's file names have room for 9999."""

WHOLE: Final = 0
"""Part number in the journal under which a row as a whole lies: as it came, or as the sum of its parts."""


def file_part(header: types_pb2.RowHeader) -> int:
    """Part number in the journal of a record: :data:`WHOLE`, or one more than the record's own.

    >>> file_part(types_pb2.RowHeader(part=0, num_parts=4))
    1
    """
    return header.part + 1 if header.num_parts > 1 else WHOLE


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A checkpoint of which parts have come: what all of them agree on, and which are there."""

    attempt: int
    num_parts: int
    previous: int | None
    step: int
    stored: int = 0
    """Bit p is set if part p is in the journal."""

    @classmethod
    def announced_by(cls, header: types_pb2.RowHeader) -> OpenRow:
        """What a part says of its row. The part itself is not counted as stored."""
        previous = header.previous if header.HasField("previous") else None
        return cls(header.attempt, header.num_parts, previous, header.info.step)

    def with_part(self, part: int) -> OpenRow:
        """After the part was stored; the same part again changes nothing."""
        return replace(self, stored=self.stored | 1 << part)

    def has(self, part: int) -> bool:
        """Whether the part is in the journal."""
        return bool(self.stored >> part & 1)

    @property
    def is_complete(self) -> bool:
        """True once every part is there."""
        return self.stored.bit_count() == self.num_parts

    def missing(self) -> list[int]:
        """Parts that have not come, ascending.

        >>> OpenRow(attempt=1, num_parts=4, previous=None, step=0, stored=0b1010).missing()
        [0, 2]
        """
        return [part for part in range(self.num_parts) if not self.has(part)]

    def mismatch(self, header: types_pb2.RowHeader) -> str:
        """In which field a record differs from the parts that are there, in words; empty if in none."""
        theirs, ours = OpenRow.announced_by(header), self
        for name, came, known in (
            ("num_parts", theirs.num_parts, ours.num_parts),
            ("attempt", theirs.attempt, ours.attempt),
            ("previous", theirs.previous, ours.previous),
            ("step", theirs.step, ours.step),
        ):
            if came != known:
                return f"{name} is {came}, the parts that are stored have {known}"
        return ""


def add_up(parts: Iterable[Row], num_layers: int, empty_layers: Sequence[int] = ()) -> Row:
    """The row that is the sum of all its parts; takes one at a time, in the order of their numbers.

    `num_layers` of the layout; `empty_layers` are those of it without elements, which no part need list. Sums are
    compensated (Neumaier): right to float64 rounding, however many parts. A layer that a part does not list gets
    nothing from it. NaN in any part is NaN. The status of a layer is NON_FINITE if any part says so, or if the sum
    leaves the range of float64; else SNAPSHOT_MISSING if any part says so, or if no part lists it; else NOT_KEPT if
    any part says so; else EXACT.

    Time is the earliest, the stall the longest; metrics, epoch, learning rate, mode and copy are those of part 0.
    ValueError if parts are missing, out of order, or do not belong together.
    """
    sums: PartSums | None = None
    for part in parts:
        if sums is None:
            sums = PartSums(part.header, num_layers, part.header.checkpoint + 1 + len(PRODUCTS))
        sums.add(part.header, np.concatenate((part.gram, part.products), axis=1), part.status)
    if sums is None:
        raise ValueError(_SOME_MISSING)
    header, total, status = sums.result(empty_layers)
    split = header.checkpoint + 1
    return Row(header, total[:, :split], total[:, split:], status)


class PartSums:
    """Numbers of layers, [num_layers, width], added up part by part, in the order of their numbers."""

    def __init__(self, first: types_pb2.RowHeader, num_layers: int, width: int) -> None:
        """`first`: what part 0 says of itself."""
        self._header = types_pb2.RowHeader()
        self._header.CopyFrom(first)
        self._known = OpenRow.announced_by(first)
        self._num_layers = num_layers
        self._total, self._lost = np.zeros((num_layers, width)), np.zeros((num_layers, width))
        self._missing = np.zeros((num_layers, width), dtype=bool)
        self._status = np.full(num_layers, -1, dtype=np.int8)
        self._next_part = 0

    def add(
        self, header: types_pb2.RowHeader, values: NDArray[np.float64], status: NDArray[np.uint8]
    ) -> NDArray[np.intp]:
        """Add the next part's `values`, [l, width], of the layers that it lists; returns those. ValueError."""
        _check(header, self._header, self._known, self._next_part)
        layers = np.array(header.layers or range(self._num_layers), dtype=np.intp)
        self._total[layers], self._lost[layers] = _added(self._total[layers], self._lost[layers], values)
        self._missing[layers] |= np.isnan(values)
        self._status[layers] = _worse(self._status[layers], status)
        self._known = self._known.with_part(self._next_part)
        self._next_part += 1
        info = self._header.info
        info.time_unix_seconds = min(info.time_unix_seconds, header.info.time_unix_seconds)
        info.stall_seconds = max(info.stall_seconds, header.info.stall_seconds)
        return layers

    def result(
        self, empty_layers: Sequence[int]
    ) -> tuple[types_pb2.RowHeader, NDArray[np.float64], NDArray[np.uint8]]:
        """Header, sums and status of the whole. ValueError if a part is missing."""
        if not self._known.is_complete:
            raise ValueError(_SOME_MISSING)
        header, total, missing, status = self._header, self._total, self._missing, self._status
        with np.errstate(invalid="ignore", over="ignore"):
            total += self._lost
        unlisted = np.flatnonzero(status < 0)
        status[unlisted] = LayerStatus.SNAPSHOT_MISSING
        missing[unlisted] = True
        empty = [layer for layer in empty_layers if layer in unlisted]
        status[empty], missing[empty] = LayerStatus.EXACT, False
        overflown = (~np.isfinite(total) & ~missing).any(axis=1)
        status[overflown] = LayerStatus.NON_FINITE
        missing[status == LayerStatus.NON_FINITE] = True
        total[missing] = np.nan
        header.part, header.num_parts, header.num_layers = 0, 1, self._num_layers
        header.ClearField("layers")
        return header, total, status.astype(np.uint8)


def _check(came: types_pb2.RowHeader, first: types_pb2.RowHeader, known: OpenRow, expected_part: int) -> None:
    where = f"part {came.part} of checkpoint {came.checkpoint}"
    if (came.run_id, came.fingerprint, came.checkpoint) != (
        first.run_id,
        first.fingerprint,
        first.checkpoint,
    ):
        raise ValueError(f"{where} is of another run or checkpoint")
    if problem := known.mismatch(came):
        raise ValueError(f"{where} does not belong to the others: {problem}")
    if came.part != expected_part:
        raise ValueError(f"{where} came, part {expected_part} is next")


def _added(
    total: NDArray[np.float64], lost: NDArray[np.float64], value: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step of Neumaier's sum: what rounding takes from `total` goes to `lost`."""
    with np.errstate(invalid="ignore", over="ignore"):
        larger = np.abs(total) >= np.abs(value)
        fresh = total + value
        lost = lost + np.where(larger, (total - fresh) + value, (value - fresh) + total)
    return fresh, lost


def _worse(known: NDArray[np.int8], came: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The status that says more of what is not known; -1 is a layer that no part has listed yet."""
    return np.where(_GRAVITY[came] > _GRAVITY[known], came.astype(np.int8), known)
