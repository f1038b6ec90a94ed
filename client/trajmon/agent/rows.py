"""From snapshots to row records."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trajmon.errors import SnapshotError
from trajmon.numerics.gram import GramRow, PathIndices, gram_row
from trajmon.rundir import RunDescription
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.record import PRODUCTS, LayerStatus, Row, encode
from trajmon_protos.v1 import types_pb2

__all__ = ["RowMaker"]

log = logging.getLogger("trajmon.agent")


class RowMaker:
    """Computes rows from the store. Keeps the snapshots mapped; what is mapped is the kernel's to keep in memory."""

    def __init__(self, run: RunDescription, store: SnapshotStore, threads: int) -> None:
        self._run = run
        self._store = store
        self._threads = threads
        self._headers: dict[int, SnapshotHeader] = {}
        self._data: list[NDArray[np.uint8] | None] = []

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Checkpoints whose snapshots could not be read."""
        return tuple(number for number, data in enumerate(self._data) if data is None)

    def make(self, checkpoint: int) -> bytes:
        """The row record of a checkpoint.

        A checkpoint whose own snapshot cannot be read gets a row in which every layer is marked non-finite:
        numbers have no gaps, and nothing is known of it.
        """
        self._load(checkpoint)
        header = self._headers.get(checkpoint) or self._stand_in(checkpoint)
        new = self._data[checkpoint]
        if new is None:
            row = self._unknown_row(checkpoint)
        else:
            path = path_to(checkpoint, self._headers)
            stored = self._data[:checkpoint]
            row = gram_row(self._run.layout, new, stored, _indices(path), threads=self._threads)
        record = Row(self._row_header(header, checkpoint), row.gram, row.products, row.status)
        return encode(record)

    def _load(self, checkpoint: int) -> None:
        while len(self._data) <= checkpoint:
            number = len(self._data)
            try:
                self._headers[number] = self._store.header(number)
                self._data.append(self._store.data(number))
            except SnapshotError as error:
                log.warning("%s; its entries are marked missing", error)
                self._data.append(None)

    def _stand_in(self, checkpoint: int) -> SnapshotHeader:
        """For a checkpoint whose header is lost: it is taken to follow the one before it."""
        before = self._headers.get(checkpoint - 1)
        if before is None:
            first = next((self._headers[number] for number in sorted(self._headers)), None)
            before = first or SnapshotHeader(0, 1, 0, self._run.layout.fingerprint)
        previous = checkpoint - 1 if checkpoint else None
        return replace(before, checkpoint=checkpoint, previous=previous, metrics={}, stall_seconds=0.0)

    def _unknown_row(self, checkpoint: int) -> GramRow:
        layers = len(self._run.layout.layers)
        return GramRow(
            gram=np.full((layers, checkpoint + 1), np.nan),
            products=np.full((layers, len(PRODUCTS)), np.nan),
            status=np.full(layers, LayerStatus.NON_FINITE, dtype=np.uint8),
        )

    def _row_header(self, header: SnapshotHeader, checkpoint: int) -> types_pb2.RowHeader:
        return types_pb2.RowHeader(
            run_id=self._run.run_id,
            attempt=header.attempt,
            checkpoint=checkpoint,
            part=0,
            num_parts=1,
            previous=path_to(checkpoint, self._headers)[-2] if checkpoint else None,
            fingerprint=self._run.layout.fingerprint,
            num_layers=len(self._run.layout.layers),
            info=types_pb2.CheckpointInfo(
                step=header.step,
                epoch=header.epoch,
                time_unix_seconds=header.time_unix_seconds,
                learning_rate=header.learning_rate,
                metrics=header.metrics,
                stall_seconds=header.stall_seconds,
            ),
        )


def _indices(path: list[int]) -> PathIndices:
    """Places of a new checkpoint's neighbours, for the path that ends in it.

    >>> _indices([0, 1, 4])
    PathIndices(previous=1, before_previous=0, first=1)
    """
    return PathIndices(
        previous=path[-2] if len(path) > 1 else None,
        before_previous=path[-3] if len(path) > 2 else None,
        first=path[1] if len(path) > 2 else None,
    )
