"""Sketches of checkpoints: made once, kept for the life of the run, and handed in as records."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmon.agent.spool import Spool
from trajmon.errors import SnapshotError
from trajmon.numerics.gram import GramRow, PathIndices, gram_row
from trajmon.numerics.sketch import Sketch, SketchPlan
from trajmon.rundir import RunDescription, RunDir
from trajmon.snapshots.format import SnapshotHeader
from trajmon.snapshots.store import SnapshotStore
from trajmon_protos.record import LayerStatus
from trajmon_protos.sketch import LEVELS
from trajmon_protos.sketch_record import DIGITS, SketchRow, encode_sketch, spec_message
from trajmon_protos.v1 import types_pb2

__all__ = ["Sketcher"]

log = logging.getLogger("trajmon.agent")


class Sketcher:
    """The sketches of one run folder. In the folder of a shard they are of this shard's part of each layer."""

    def __init__(self, run_dir: RunDir, run: RunDescription, spool: Spool, threads: int) -> None:
        """`spool` takes the records. Raises OSError."""
        spec = run.sketch_spec
        if run.shard is None:
            self.plan = SketchPlan.of(run.layout, spec)
        else:
            self.plan = SketchPlan.of_chunks(run.layout, run.shard.chunks, spec)
        self._run = run
        self._first = 0 if run.shard is None else run.shard.first_checkpoint
        self._spool = spool
        self._threads = threads
        kind = f"{self.plan.sketch_layout.fingerprint} {spec}"
        self._fingerprint = hashlib.blake2b(kind.encode(), digest_size=16).hexdigest()
        run_dir.sketches.mkdir(mode=0o700, exist_ok=True)
        self._store = SnapshotStore(
            run_dir.sketches, self._fingerprint, self.plan.sketch_layout.nbytes, writer="agent"
        )
        self._store.remove_leftovers()
        self._known: dict[int, NDArray[np.uint8] | None] = {}
        self._damaged: set[int] = set()

    def has(self, checkpoint: int) -> bool:
        """Whether the checkpoint's sketch is kept."""
        return self._load(checkpoint) is not None

    def was_made(self, checkpoint: int) -> bool:
        """Whether the sketch was made and its record handed in, be the file damaged since."""
        return self._store.path(checkpoint).exists()

    def put(
        self,
        header: SnapshotHeader,
        row_header: types_pb2.RowHeader,
        row: GramRow,
        sketch: Sketch,
        *,
        hand_in: bool,
    ) -> None:
        """Keep the sketch of a checkpoint, and hand its record in if asked; `row` holds its norms and products.

        The record first: once the sketch is kept, the record is on its way. Made again it has the same bytes.
        Raises OSError.
        """
        checkpoint = header.checkpoint
        data = sketch.sketch_bytes()
        if hand_in and checkpoint >= self._first and checkpoint not in self._spool:
            self._spool.put(checkpoint, self._record(row_header, row, sketch, data))
        if not self.has(checkpoint):
            fresh = replace(header, fingerprint=self._fingerprint, kept=True)
            self._store.write(checkpoint, fresh, data.data, durable=True)

    def _record(
        self, row_header: types_pb2.RowHeader, row: GramRow, sketch: Sketch, data: NDArray[np.uint8]
    ) -> bytes:
        checkpoint, spec = row_header.checkpoint, self.plan.spec
        stored = [self._load(number) for number in range(checkpoint)]
        path = PathIndices(0 if stored else None, None, None)
        gram = gram_row(self.plan.sketch_layout, data, stored, path, threads=self._threads).gram
        header = types_pb2.SketchHeader(
            row=row_header, spec=spec_message(spec), num_columns=self.plan.num_columns, dtype=self.plan.dtype
        )
        values: NDArray[Any] = sketch.values()
        defined = [
            np.isfinite(values[a : a + n]).all()
            for a, n in zip(self.plan.starts, self.plan.widths, strict=True)
        ]
        # Which older snapshots were at hand is the row's to say: a record that is made again must not differ by it.
        exact = np.array(defined) & (row.status != LayerStatus.NON_FINITE)
        status = np.where(exact, LayerStatus.EXACT, LayerStatus.NON_FINITE).astype(np.uint8)
        if row_header.num_parts > 1:
            used = np.flatnonzero(sketch.digits.any(axis=1))
            low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (-LEVELS[0], 1 - LEVELS[0])
            values = sketch.digits[low:high]
            header.dtype, header.first_level, header.num_levels = DIGITS, LEVELS[0] + low, high - low
        return encode_sketch(SketchRow(header, row.gram[:, -1], row.products, status, gram, values))

    def _load(self, checkpoint: int) -> NDArray[np.uint8] | None:
        if checkpoint not in self._known:
            try:
                self._known[checkpoint] = self._store.data(checkpoint)
            except SnapshotError as error:
                # Not made yet, or damaged: what would rest on it is undefined.
                if checkpoint not in self._damaged and self.was_made(checkpoint):
                    self._damaged.add(checkpoint)
                    log.warning("sketch of checkpoint %d: %s", checkpoint, error)
                return None
        return self._known[checkpoint]
