"""From complete sums to rows, and through the agent's own spool and sender to the server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from trajmon._files import read_json
from trajmon._settings import AgentSettings
from trajmon.agent.progress import Progress, Seen
from trajmon.agent.sender import Sender
from trajmon.agent.spool import Spool
from trajmon.ingest.journal import Journal
from trajmon.ingest.series import Checkpoint
from trajmon.numerics.gram import PathIndices, mark_layers
from trajmon.rundir import AgentNote, RecorderNote, RunDescription, RunDir
from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import types_pb2

__all__ = ["Delivery", "deliver", "path_indices", "row_record"]

_PAUSE_SECONDS: Final = 0.02
_JOIN_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """How handing in ended."""

    total: int
    acknowledged: int
    """Checkpoints that the server has."""
    spooled: int
    """Rows of the others that wait in the run's spool."""
    problem: str
    """What keeps the others from the server, in its own words; empty if nothing does."""
    server: str | None
    """Where they go."""


def path_indices(number: int) -> PathIndices:
    """Places of a checkpoint's neighbours where each one follows the one before.

    >>> path_indices(1)
    PathIndices(previous=0, before_previous=None, first=None)
    >>> path_indices(4)
    PathIndices(previous=3, before_previous=2, first=1)
    """
    return PathIndices(
        previous=number - 1 if number else None,
        before_previous=number - 2 if number > 1 else None,
        first=1 if number > 1 else None,
    )


def row_record(journal: Journal, run: RunDescription, number: int, checkpoint: Checkpoint) -> bytes:
    """The row record of one checkpoint, as an agent beside the training would have made it. Raises OSError."""
    gram, products = journal.row(number)
    status = mark_layers(gram, products, [False] * number, path_indices(number))
    header = types_pb2.RowHeader(
        run_id=run.run_id,
        attempt=1,
        checkpoint=number,
        part=0,
        num_parts=1,
        previous=number - 1 if number else None,
        fingerprint=run.layout.fingerprint,
        num_layers=len(run.layout.layers),
        info=types_pb2.CheckpointInfo(step=checkpoint.step, time_unix_seconds=checkpoint.time_unix_seconds),
    )
    return encode(Row(header, gram, products, status))


def deliver(
    run_dir: RunDir,
    run: RunDescription,
    journal: Journal,
    checkpoints: tuple[Checkpoint, ...],
    *,
    settings: AgentSettings,
    let_go: Callable[[], None],
    on_progress: Callable[[int], None],
) -> Delivery:
    """Put every row into the spool and hand it in; returns when all are acknowledged, or nothing moves any more.

    The caller holds the agent lock and the owner lock; `let_go` gives the latter up, by which the sender knows that
    nothing follows. `on_progress` hears how many checkpoints the server has. Gives up after
    ``settings.linger_seconds`` without an acknowledgement; what is left stays in the spool, and in the journal as
    far as the spool has no room. Raises OSError, DamagedRunError.
    """
    total = len(checkpoints)
    spool = Spool(run_dir.spool)
    progress = Progress(run_dir, AgentNote(pid=0, state="working"))
    progress.note(lambda known: replace(known, pid=os.getpid()))
    progress.see(Seen(recorded=total))
    sender = Sender(run, run_dir, spool, Spool.of_sketches(run_dir.spool), progress, settings)
    sender.start()
    try:
        while not (progress.settled or progress.refused):
            acked = progress.acked
            on_progress(min(acked, total))
            missing = spool.first_missing(acked)
            if missing < total and spool.total_bytes < settings.spool_cap_bytes:
                spool.put(missing, row_record(journal, run, missing, checkpoints[missing]))
                progress.wake()
                continue
            if acked >= total and not progress.seen.training_over:
                note = RecorderNote.read(run_dir) or RecorderNote(attempt=1)
                replace(note, state="finished").write(run_dir)
                let_go()
                progress.see(Seen(recorded=total, training_over=True))
            if progress.seconds_since_ack > settings.linger_seconds:
                break
            time.sleep(_PAUSE_SECONDS)
        # Refused at once: the rows are put where `trajmon sync` finds them all the same.
        _spool_rest(spool, progress.acked, run_dir, run, journal, checkpoints, settings)
    finally:
        problem = AgentNote.problem_of(run_dir)
        server = (read_json(run_dir.agent_file) or {}).get("server")
        progress.stop()
        # A call that is still under way would open the run a second time beside whoever comes next.
        sender.join(_JOIN_SECONDS)
        progress.note(lambda known: replace(known, state="gone"))
    acked = min(progress.acked, total)
    on_progress(acked)
    return Delivery(
        total, acked, spool.first_missing(acked) - acked, problem if acked < total else "", server
    )


def _spool_rest(
    spool: Spool,
    acked: int,
    run_dir: RunDir,
    run: RunDescription,
    journal: Journal,
    checkpoints: tuple[Checkpoint, ...],
    settings: AgentSettings,
) -> None:
    missing = spool.first_missing(acked)
    while missing < len(checkpoints) and spool.total_bytes < settings.spool_cap_bytes:
        spool.put(missing, row_record(journal, run, missing, checkpoints[missing]))
        missing = spool.first_missing(missing)
