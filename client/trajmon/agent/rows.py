"""From snapshots to row records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trajmon._plan import PlanAhead
from trajmon.agent.sketching import Sketcher
from trajmon.agent.spool import Spool
from trajmon.errors import SnapshotError, SnapshotNotKeptError
from trajmon.numerics.gram import GramRow, PathIndices, Release, gram_rows, sum_layers
from trajmon.numerics.sketch import Sketch, gram_rows_with_sketches
from trajmon.rundir import RunDescription, RunDir
from trajmon.sharding.reshard import Resharder
from trajmon.snapshots.format import SnapshotHeader, TrainingMode
from trajmon.snapshots.keeping import SnapshotMode, is_kept
from trajmon.snapshots.mapped import LARGE_BYTES, releaser
from trajmon.snapshots.store import SnapshotStore, path_to
from trajmon_protos.record import PRODUCTS, LayerStatus, Row, decode, encode, payload_bytes
from trajmon_protos.v1 import types_pb2

__all__ = ["MOST_TOGETHER", "RowMaker"]

log = logging.getLogger("trajmon.agent")

MOST_TOGETHER: Final = 8
"""Most rows that are computed in one pass over the stored snapshots; see :func:`gram_rows`."""
_TOGETHER_BYTES: Final = 256 << 20
"""What the sums of rows that are computed together may take."""
_GATHER_SECONDS: Final = 5.0
_MODES: Final[dict[TrainingMode, types_pb2.TrainingMode.ValueType]] = {
    "full": types_pb2.TRAINING_MODE_FULL,
    "norm_only": types_pb2.TRAINING_MODE_NORM_ONLY,
}


class RowMaker:
    """Computes rows from the store. Keeps the snapshots mapped; what is mapped is the kernel's to keep in memory.

    In the folder of a shard a row is this shard's part of it: over the layers that the shard has chunks of.
    """

    def __init__(self, run_dir: RunDir, run: RunDescription, store: SnapshotStore, threads: int) -> None:
        self._run_dir = run_dir
        self._run = run
        self._sketcher: Sketcher | None = None
        self._announced: set[int] = set()
        self._not_kept: set[int] = set()
        self._layout = run.snapshot_layout
        self._store = store
        self._threads = threads
        self._headers: dict[int, SnapshotHeader] = {}
        self._data: list[NDArray[np.uint8] | None] = []
        self._resharder = None if run.shard is None else Resharder(run_dir, run)
        self._to_gather = [] if run.shard is None else list(range(run.shard.first_checkpoint))
        self._gather_until: float | None = None
        self._num_layers = len(run.layout.layers) if run.shard is None else len(run.shard.layers)
        self._unsketched = 0

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Checkpoints whose snapshots could not be read, those aside that were not kept."""
        return tuple(
            number for number, data in enumerate(self._data) if data is None and number not in self._not_kept
        )

    @property
    def num_kept(self) -> int:
        """Snapshots that are at hand."""
        return sum(data is not None for data in self._data)

    def sketch_from_here(self, spool: Spool) -> None:
        """Sketch every checkpoint, those that are there already included; `spool` takes the records. Raises OSError."""
        if self._sketcher is None:
            self._sketcher = Sketcher(self._run_dir, self._run, spool, self._threads)
            self._unsketched = 0

    def sketch_up_to(self, stop: int) -> None:
        """Make the sketches that are missing below `stop`, from the few snapshots that each needs. Raises OSError."""
        if self._sketcher is None or self._unsketched >= stop:
            return
        self._load(stop - 1)
        for checkpoint in range(self._unsketched, stop):
            if self._data[checkpoint] is not None and not self._sketcher.has(checkpoint):
                # One that is damaged was handed in when it was made.
                self._sketch_alone(
                    checkpoint, self._sketcher, hand_in=not self._sketcher.was_made(checkpoint)
                )
                self._announced.add(checkpoint)
            self._unsketched = checkpoint + 1

    def sketch_again(self, checkpoint: int, record: bytes | None) -> None:
        """Make the record of a sketch anew, whose file in the spool was damaged; `record`: of its row. Raises OSError.

        Norms and products are the row's: snapshots that they need may not be kept any more.
        """
        if self._sketcher is None:
            return
        self._load(checkpoint)
        if self._data[checkpoint] is None:
            log.error(
                "the sketch of checkpoint %d was damaged before it was handed in, and is lost", checkpoint
            )
        else:
            made = None if record is None else decode(record)
            self._sketch_alone(checkpoint, self._sketcher, hand_in=True, made=made)

    def _sketch_alone(
        self, checkpoint: int, sketcher: Sketcher, *, hand_in: bool, made: Row | None = None
    ) -> None:
        row, sketch = self._alone(checkpoint, sketcher)
        if made is not None:
            row = GramRow(made.gram, made.products, made.status)
        row_header = self._row_header(checkpoint)
        sketcher.put(self._headers[checkpoint], row_header, row, sketch, hand_in=hand_in)

    def _alone(self, checkpoint: int, sketcher: Sketcher) -> tuple[GramRow, Sketch]:
        """Sketch, norms and update products of a checkpoint, from its own snapshot and its path's neighbours."""
        new = self._data[checkpoint]
        assert new is not None
        path = path_to(checkpoint, self._headers)
        places = sorted({0, *path[:2], *path[-3:]} - {checkpoint})
        of = {number: place for place, number in enumerate(places)}
        near = _indices(path)
        indices = PathIndices(
            *(None if n is None else of[n] for n in (near.previous, near.before_previous, near.first))
        )
        stored = [self._data[number] for number in places]
        (row,), (sketch,) = gram_rows_with_sketches(
            self._layout,
            [new],
            stored,
            [indices],
            sketcher.plan,
            threads=self._threads,
            release=self._release(stored, [new]),
        )
        return self._of_layers(row, places), sketch

    def thin(self, newest: int, mode: SnapshotMode, keep: int) -> None:
        """Give up the snapshots that are not to be kept once the rows up to `newest` are made. Raises OSError.

        One without a sketch stays: nothing would be known of it any more.
        """
        self._load(newest)
        previous = path_to(newest, self._headers)[-2] if newest else None
        for checkpoint, data in enumerate(self._data[: newest + 1]):
            if data is None or is_kept(checkpoint, newest, mode, keep, previous):
                continue
            if self._sketcher is not None and self._sketcher.has(checkpoint):
                self._store.give_up(checkpoint)
                self._data[checkpoint] = None
                self._not_kept.add(checkpoint)

    def gather(self) -> bool:
        """Bring the snapshots of earlier cuts, which the rows of this one need; True once that is done.

        What cannot be brought within some seconds is missing. Raises OSError.
        """
        if self._resharder is None or not self._to_gather:
            return True
        if self._gather_until is None:
            self._gather_until = time.monotonic() + _GATHER_SECONDS
        self._to_gather = [number for number in self._to_gather if not self._resharder.bring(number)]
        if self._to_gather and time.monotonic() < self._gather_until:
            return False
        self._to_gather = []
        return True

    def row_bytes(self, checkpoint: int) -> int:
        """Length of a row, its header left out."""
        return payload_bytes(self._num_layers, checkpoint)

    def most_together(self, checkpoint: int) -> int:
        """How many rows from this one on can be computed together, within bounds of cache and memory."""
        sums = 4 * len(self._layout.layers) + self._layout.num_parameters // (1 << 17)
        return max(1, min(MOST_TOGETHER, _TOGETHER_BYTES // (8 * sums * (checkpoint + MOST_TOGETHER))))

    def make(self, checkpoint: int) -> bytes:
        """The row record of a checkpoint."""
        ((_, record),) = self.make_many([checkpoint])
        return record

    def make_many(self, checkpoints: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Row records of consecutive checkpoints, with their numbers, in one pass over the stored snapshots.

        A checkpoint whose own snapshot cannot be read gets a row in which every layer is marked non-finite:
        numbers have no gaps, and nothing is known of it.
        """
        self._load(checkpoints[-1])
        for together in self._readable_together(checkpoints):
            for checkpoint, row in zip(together, self._compute(together), strict=True):
                header = self._row_header(checkpoint)
                yield checkpoint, encode(Row(header, row.gram, row.products, row.status))

    def _readable_together(self, checkpoints: Sequence[int]) -> Iterator[list[int]]:
        together: list[int] = []
        for checkpoint in checkpoints:
            if self._data[checkpoint] is not None:
                together.append(checkpoint)
                continue
            if together:
                yield together
            yield [checkpoint]
            together = []
        if together:
            yield together

    def _compute(self, checkpoints: list[int]) -> list[GramRow]:
        first = checkpoints[0]
        new = [data for data in self._data[first : first + len(checkpoints)] if data is not None]
        if not new:
            return [self._unknown_row(first)]
        paths = [_indices(path_to(checkpoint, self._headers)) for checkpoint in checkpoints]
        stored = self._data[:first]
        release = self._release(stored, new)
        if self._sketcher is None:
            rows = gram_rows(self._layout, new, stored, paths, threads=self._threads, release=release)
            return [self._of_layers(row, range(first)) for row in rows]
        rows, sketches = gram_rows_with_sketches(
            self._layout,
            new,
            stored,
            paths,
            self._sketcher.plan,
            threads=self._threads,
            release=release,
        )
        summed = [self._of_layers(row, range(first)) for row in rows]
        for checkpoint, row, sketch in zip(checkpoints, summed, sketches, strict=True):
            # A server that lacks the row may lack the sketch as well, be it one that was made long ago.
            hand_in = checkpoint not in self._announced
            row_header = self._row_header(checkpoint)
            self._sketcher.put(self._headers[checkpoint], row_header, row, sketch, hand_in=hand_in)
            self._announced.discard(checkpoint)
        return summed

    def _release(
        self, stored: Sequence[NDArray[np.uint8] | None], new: Sequence[NDArray[np.uint8]]
    ) -> Release | None:
        """Gives the memory of large snapshots back as a pass goes over them."""
        return releaser([*stored, *new]) if self._layout.nbytes >= LARGE_BYTES else None

    def _of_layers(self, row: GramRow, stored: Sequence[int]) -> GramRow:
        """A row over the run's layers, with the reason why older snapshots are missing; `stored`: which it saw."""
        gone = [number for number in stored if self._data[number] is None]
        if not self._not_kept.isdisjoint(gone):
            # Others may be missing beside them: what is known of the rest is estimated all the same.
            planned = row.status == LayerStatus.SNAPSHOT_MISSING
            status = np.where(planned, LayerStatus.NOT_KEPT, row.status).astype(np.uint8)
            row = replace(row, status=status)
        shard = self._run.shard
        if shard is None:
            return row
        place = {layer: index for index, layer in enumerate(shard.layers)}
        return sum_layers(row, [place[chunk.layer] for chunk in shard.chunks], self._num_layers)

    def _load(self, checkpoint: int) -> None:
        while len(self._data) <= checkpoint:
            number = len(self._data)
            try:
                self._headers[number] = self._store.header(number)
                self._data.append(self._store.data(number))
            except SnapshotNotKeptError:
                self._not_kept.add(number)
                self._data.append(None)
            except SnapshotError as error:
                log.warning("%s; its entries are marked missing", error)
                self._data.append(None)

    def _stand_in(self, checkpoint: int) -> SnapshotHeader:
        """For a checkpoint whose header is lost: it is taken to follow the one before it."""
        before = self._headers.get(checkpoint - 1)
        if before is None:
            first = next((self._headers[number] for number in sorted(self._headers)), None)
            before = first or SnapshotHeader(0, 1, 0, self._layout.fingerprint)
        previous = checkpoint - 1 if checkpoint else None
        # Of a plan that went on from there nothing is known.
        return replace(
            before, checkpoint=checkpoint, previous=previous, metrics={}, stall_seconds=0.0, plan=None
        )

    def _unknown_row(self, checkpoint: int) -> GramRow:
        layers = self._num_layers
        return GramRow(
            gram=np.full((layers, checkpoint + 1), np.nan),
            products=np.full((layers, len(PRODUCTS)), np.nan),
            status=np.full(layers, LayerStatus.NON_FINITE, dtype=np.uint8),
        )

    def _row_header(self, checkpoint: int) -> types_pb2.RowHeader:
        header = self._headers.get(checkpoint) or self._stand_in(checkpoint)
        shard = self._run.shard
        return types_pb2.RowHeader(
            run_id=self._run.run_id,
            attempt=header.attempt,
            checkpoint=checkpoint,
            part=0 if shard is None else shard.part,
            num_parts=1 if shard is None else shard.num_parts,
            previous=path_to(checkpoint, self._headers)[-2] if checkpoint else None,
            fingerprint=self._run.layout.fingerprint,
            num_layers=self._num_layers,
            layers=() if shard is None or shard.num_parts == 1 else shard.layers,
            info=types_pb2.CheckpointInfo(
                step=header.step,
                epoch=header.epoch,
                time_unix_seconds=header.time_unix_seconds,
                learning_rate=header.learning_rate,
                metrics=header.metrics,
                stall_seconds=header.stall_seconds,
                mode=_MODES[header.mode],
                copy=header.copy,
                plan=None if header.plan is None else _plan(header.plan),
            ),
        )


def _plan(plan: PlanAhead) -> types_pb2.Plan:
    return types_pb2.Plan(
        steps_ahead=plan.steps,
        rate_sum_ahead=plan.rate_sum,
        rate_squared_sum_ahead=plan.rate_squared_sum,
        objective=plan.objective,
        larger_is_better=plan.larger_is_better,
        objective_tolerance=plan.tolerance,
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
