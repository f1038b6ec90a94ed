"""What a request must not contradict: the run as it is known, its writers, and the parts that are there. Pure."""

from __future__ import annotations

from trajmon_protos.record import Row
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.errors import Conflict, InvalidRequest, OutOfOrder, Violation
from trajmon_server.ingest import quota
from trajmon_server.runs.control import RunControl, Writer
from trajmon_server.runs.parts import OpenRow
from trajmon_server.runs.run import Run

__all__ = [
    "control_after_open",
    "current_writer",
    "refuse_gap",
    "refuse_mismatch",
    "refuse_sketch_ahead",
    "refuse_torn_path",
]

MAX_UNSEEN = 4096
"""Checkpoints that a writer's first one may lie behind the last that anything is known of."""


def control_after_open(run: Run, request: ingest_pb2.OpenRunRequest) -> RunControl:
    """Who may write once the request is granted.

    OutOfOrder OLD_ATTEMPT if what the writer has recorded is over; Conflict OTHER_PART if it was another part
    before; Exhausted WRITER_QUOTA.
    """
    control = run.control
    wanted = Writer(
        epoch=0,
        attempt=request.attempt,
        part=request.part,
        num_parts=max(request.num_parts, 1),
        first_checkpoint=request.first_checkpoint,
    )
    # A named writer of an ended attempt still hands in what it has; only its own newer self puts an end to that.
    known = control.writers.get(request.writer)
    newest = control.attempt if not request.writer else (known.attempt if known is not None else 0)
    if request.attempt < newest:
        raise OutOfOrder(
            "OLD_ATTEMPT",
            f"attempt {request.attempt} of run {request.name!r} is over; attempt {newest} has started",
        )
    if not request.writer:
        return control.opened(request.attempt, request.first_checkpoint)
    if known is None:
        quota.check_new_writer(len(control.writers))
    elif (known.part, known.num_parts) != (wanted.part, wanted.num_parts):
        raise Conflict(
            "OTHER_PART",
            f"writer {request.writer} hands in part {known.part} of {known.num_parts} of run {request.name!r}, not "
            f"part {wanted.part} of {wanted.num_parts}; another part needs another writer",
        )
    return control.joined(request.writer, wanted)


def current_writer(run: Run, name: str, epoch: int) -> Writer:
    """The writer that holds this epoch; OutOfOrder FENCED if it holds another, or none."""
    writer = run.control.writer(name)
    if writer is not None and writer.epoch == epoch:
        return writer
    described = f"run {run.description.name!r}"
    if writer is None:
        whom = f"writer {name[:64]!r}" if name else "a writer of whole rows"
        raise OutOfOrder("FENCED", f"{described} has not been opened by {whom}: open it first")
    raise OutOfOrder(
        "FENCED",
        f"writer epoch {epoch} of {described} is over, {writer.epoch} is current: another agent has opened the run",
    )


def refuse_gap(run: Run, writer: Writer, checkpoint: int) -> None:
    """OutOfOrder GAP if rows must come first.

    The first checkpoint of a writer may come ahead: those before it are somebody else's, who may never come.
    """
    ahead = checkpoint - run.num_known
    if ahead <= 0 or (checkpoint == writer.first_checkpoint and ahead <= MAX_UNSEEN):
        return
    raise OutOfOrder(
        "GAP",
        f"checkpoint {checkpoint} came, {run.num_known} is expected; send that first",
        details={"expected_checkpoint": str(run.num_known)},
    )


def refuse_sketch_ahead(run: Run, checkpoint: int) -> None:
    """OutOfOrder GAP for a sketch far beyond the last checkpoint that anything is known of.

    Sketches come before rows, in any order: what is bounded is how far.
    """
    if checkpoint - run.num_known > MAX_UNSEEN:
        raise OutOfOrder(
            "GAP",
            f"the sketch of checkpoint {checkpoint} came, rows only up to {run.num_known}; send those first",
            details={"expected_checkpoint": str(run.num_known)},
        )


def refuse_mismatch(known: OpenRow | None, header: types_pb2.RowHeader) -> None:
    """Conflict PART_MISMATCH if a record does not belong to the parts that are there; None: the row came whole."""
    if known is not None:
        problem = known.mismatch(header)
    elif header.num_parts > 1:
        problem = f"num_parts is {header.num_parts}, the row that is stored came whole"
    else:
        problem = ""
    if problem:
        raise Conflict(
            "PART_MISMATCH",
            f"checkpoint {header.checkpoint}, part {header.part} of {header.num_parts}: {problem}; nothing was stored",
            details={"checkpoint": str(header.checkpoint)},
        )


def refuse_torn_path(run: Run, row: Row) -> None:
    """InvalidRequest if a new row does not follow one on the path."""
    previous = row.header.previous if row.header.HasField("previous") else None
    try:
        run.check_previous(row.header.checkpoint, previous)
    except ValueError as error:
        raise InvalidRequest.from_violations([Violation("previous", str(error))]) from error
