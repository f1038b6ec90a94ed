"""The sender: rows to the server in order, answers back."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from dataclasses import replace
from typing import Final

import grpc

from trajmon._files import lock_holder, write_json
from trajmon._settings import AgentSettings, token
from trajmon.agent.progress import Progress
from trajmon.agent.spool import Spool
from trajmon.agent.transport import CHANGES_HANDS, Connection, Failure, Opened, classify, printable, writer_of
from trajmon.local_server import ensure_local_server
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon.snapshots.keeping import SnapshotMode
from trajmon_protos.record import decode, read_digest
from trajmon_protos.v1 import ingest_pb2, types_pb2

__all__ = ["Backoff", "Sender"]

log = logging.getLogger("trajmon.agent")

_SETTLE_POLL_SECONDS = 0.05
_KEEPING: Final[dict[SnapshotMode, ingest_pb2.SnapshotMode.ValueType]] = {
    "exact": ingest_pb2.SNAPSHOT_MODE_EXACT,
    "anchored": ingest_pb2.SNAPSHOT_MODE_ANCHORED,
    "sketch": ingest_pb2.SNAPSHOT_MODE_SKETCH,
}


class Backoff:
    """Waits that grow until something succeeds: drawn evenly below a bound that doubles ("full jitter")."""

    def __init__(self, first_seconds: float, last_seconds: float) -> None:
        self._first = first_seconds
        self._last = last_seconds
        self._failures = 0

    def next_seconds(self) -> float:
        """How long to wait now."""
        bound = min(self._last, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        # Never all the way to 0, or a run of small draws would be a busy loop.
        return bound * random.uniform(0.1, 1.0)  # noqa: S311 # spreads load, guards nothing

    def reset(self) -> None:
        """Something succeeded."""
        self._failures = 0


class Sender(threading.Thread):
    """One thread, one channel at a time. Ends when the progress says so."""

    def __init__(
        self,
        run: RunDescription,
        run_dir: RunDir,
        spool: Spool,
        sketches: Spool,
        progress: Progress,
        settings: AgentSettings,
    ) -> None:
        # A daemon: a call that hangs in the network must not hold up the agent's end.
        super().__init__(name="sender", daemon=True)
        self._run_description = run
        self._first_checkpoint = 0 if run.shard is None else run.shard.first_checkpoint
        self._run_dir = run_dir
        self._spool = spool
        self._sketches = sketches
        self._progress = progress
        self._settings = settings
        self._connection: Connection | None = None
        self._opened: Opened | None = None
        self._open_is_uncertain = False
        self._backoff = Backoff(*settings.backoff_seconds)
        self._next_report = 0.0
        self._reported_at = time.monotonic()
        """When a report was last tried."""
        self._over_since: float | None = None
        self._refused_attempt = 0

    def run(self) -> None:
        """Send until told to stop. No failure ends it."""
        while not self._progress.stopping:
            try:
                self._step()
            except grpc.RpcError as error:
                self._failed(classify(error))
            except Exception as error:
                # A full disk, a server that breaks the contract: reported, and tried again.
                log.exception("the sender failed")
                self._failed(Failure("again", printable(f"{type(error).__name__}: {error}")))
        if self._connection is not None:
            self._connection.close()

    def _step(self) -> None:
        """Do the next thing that is due, or wait until one is."""
        if self._progress.seen.training_over != (self._over_since is not None):
            self._over_since = time.monotonic() if self._over_since is None else None
            self._next_report = 0.0
        known = RecorderNote.read(self._run_dir)
        note = known or RecorderNote(attempt=1)
        if self._progress.refused:
            if note.attempt == self._refused_attempt:
                self._progress.wait(self._settings.report_seconds)
                return
            # A training that resumes may have mended what was refused.
            self._progress.refuse(False)
            self._opened = None
        connection = self._connect(known)
        if connection is None:
            return
        if self._opened is None or self._opened.attempt < note.attempt:
            self._open(connection, note)
            return
        if time.monotonic() > self._reported_at + self._settings.report_at_least_seconds:
            # Rows that wait, or are refused, go on for as long as they like; what is skipped meanwhile is to be told.
            self._report(connection, self._opened, note, among_rows=True)
            return
        # Before the look at sketches: a row comes into the spool after its sketch.
        has_row = self._progress.acked in self._spool
        if (sketch := self._next_sketch(self._opened, has_row=has_row)) is not None:
            self._push_sketch(connection, self._opened, *sketch)
        elif (
            has_row
            # Its row says what a damaged sketch is made again of.
            and not (self._opened.takes_sketches and self._sketches.damaged)
            and (record := self._spool.get(self._progress.acked)) is not None
        ):
            self._push(connection, self._opened, record)
        elif time.monotonic() >= self._next_report:
            self._report(connection, self._opened, note)
        else:
            self._progress.wait(max(0.0, self._next_report - time.monotonic()))

    def _connect(self, note: RecorderNote | None) -> Connection | None:
        if self._connection is not None:
            return self._connection
        if note is None:
            # It may name a server far away: rows are not handed to another one meanwhile.
            what = f"{self._run_dir.recorder_file.name} cannot be read: it says which server the training asked for"
            self._failed(Failure("again", what))
            return None
        address = note.server or os.environ.get("TRAJMON_SERVER") or ensure_local_server(self._run_dir.home)
        if address is None:
            self._failed(
                Failure(
                    "again", "no server: none is named, none runs on this machine, and none could be started"
                )
            )
            return None
        self._connection = Connection(address, token(self._run_dir.home), self._settings.call_seconds)
        self._progress.note(lambda known: replace(known, server=address))
        return self._connection

    def _open(self, connection: Connection, note: RecorderNote) -> None:
        self._opened = None
        try:
            opened = connection.open_run(self._run_description, note.attempt)
        except grpc.RpcError as error:
            # The server may still carry it out, and fence off what is opened next.
            self._open_is_uncertain = self._open_is_uncertain or classify(error).uncertain
            raise
        self._opened = opened
        self._progress.advance(opened.next_checkpoint)
        self._spool.drop_below(opened.next_checkpoint)
        self._succeeded()
        log.info(
            "opened at %s: epoch %d, next %d", connection.address, opened.writer_epoch, opened.next_checkpoint
        )

    @property
    def has_sketches(self) -> bool:
        """Whether sketches wait that the server may take, or wait to be made again."""
        opened = self._opened
        some = self._sketches.first is not None or bool(self._sketches.damaged)
        return some and (opened is None or opened.takes_sketches)

    def _next_sketch(self, opened: Opened, *, has_row: bool) -> tuple[int, bytes] | None:
        """The oldest sketch that is not acknowledged, if it is due: a sketch goes before its row, whose holes it fills.

        Not before earlier rows that are there: the server takes sketches only so far ahead of rows.
        """
        if not opened.takes_sketches:
            self._make_room_for_rows()
            return None
        while (checkpoint := self._sketches.first) is not None:
            if has_row and checkpoint > self._progress.acked:
                return None
            record = self._sketches.get(checkpoint)
            if record is not None:
                return checkpoint, record
        return None

    def _make_room_for_rows(self) -> None:
        """Keep some of the sketches that a server does not take, for the next one; rows must not wait for them."""
        while self._sketches.total_bytes > self._settings.spool_cap_bytes // 2:
            checkpoint = self._sketches.first
            if checkpoint is None:
                return
            log.warning("the server takes no sketches; that of checkpoint %d was given up", checkpoint)
            self._sketches.drop(checkpoint)

    def _push_sketch(self, connection: Connection, opened: Opened, checkpoint: int, record: bytes) -> None:
        try:
            if self._hand_in(connection, opened, checkpoint, record) is None:
                return
        except grpc.RpcError as error:
            if classify(error).reason != "ROW_CONFLICT":
                raise
            # Made again from fewer snapshots. The one that is there was made first, and is no worse.
            log.warning("the server keeps the sketch of checkpoint %d that it has", checkpoint)
        self._sketches.drop(checkpoint)
        self._succeeded()

    def _hand_in(
        self, connection: Connection, opened: Opened, checkpoint: int, record: bytes
    ) -> ingest_pb2.RowReceipt | None:
        """The acknowledgement of exactly this record; None if the server will never take it."""
        if opened.max_record_bytes and len(record) > opened.max_record_bytes:
            text = (
                f"a record of checkpoint {checkpoint} has {len(record)} bytes, the server takes "
                f"{opened.max_record_bytes}; raise its limit max_record_bytes"
            )
            self._failed(Failure("refused", text))
            return None
        receipt = connection.push(self._run_description, opened.writer_epoch, record)
        if receipt.checkpoint != checkpoint or receipt.digest != read_digest(record):
            raise ValueError(f"the server acknowledged something else than checkpoint {checkpoint}")
        return receipt

    def _push(self, connection: Connection, opened: Opened, record: bytes) -> None:
        checkpoint = decode(record).header.checkpoint
        receipt = self._hand_in(connection, opened, checkpoint, record)
        if receipt is None:
            return
        # First the number, then the file: killed in between, the row is sent twice and stored once.
        self._progress.advance(receipt.next_checkpoint)
        self._spool.drop_below(receipt.next_checkpoint)
        self._succeeded()
        if self._progress.acked not in self._spool:
            self._next_report = 0.0

    def _report(
        self, connection: Connection, opened: Opened, note: RecorderNote, *, among_rows: bool = False
    ) -> None:
        """`among_rows`: what is wrong with the rows stays wrong, whatever comes of the report."""
        # Also if it fails: rows are not to wait for it.
        self._reported_at = time.monotonic()
        seen, acked = self._progress.seen, self._progress.acked
        complete = seen.training_over and acked >= seen.recorded and not self.has_sketches
        phase, reason = self._phase(note, complete)
        answer = connection.report(
            ingest_pb2.ReportStatusRequest(
                run_id=self._run_description.run_id,
                writer_epoch=opened.writer_epoch,
                phase=phase,
                reason=reason,
                checkpoints_recorded=seen.recorded,
                checkpoints_skipped=note.skipped,
                checkpoints_pending=max(0, seen.recorded - max(acked, self._first_checkpoint)),
                snapshot_bytes=seen.snapshot_bytes,
                agent_restarts=note.agent_restarts,
                writer=writer_of(self._run_description),
                checkpoints_uncomputed=seen.uncomputed,
                lag_seconds=_age(seen.oldest_unacked_unix_seconds),
                snapshot_mode=_KEEPING[note.keeping],
                snapshots_kept=seen.kept,
            )
        )
        self._keep(answer)
        if not among_rows:
            # Before `settle`: the agent then ends, and its own last word is not to be written over.
            self._succeeded()
        pause = self._settings.report_seconds
        if complete:
            # Hallmarks follow the acknowledgement: the last word is worth a moment's wait.
            rests_on = answer.checkpoint + 1 if answer.HasField("checkpoint") else 0
            waited = 0.0 if self._over_since is None else time.monotonic() - self._over_since
            if rests_on >= seen.recorded or waited > self._settings.settle_seconds:
                self._progress.settle()
            else:
                pause = _SETTLE_POLL_SECONDS
        self._next_report = time.monotonic() + pause

    def _phase(self, note: RecorderNote, complete: bool) -> tuple[ingest_pb2.RunPhase.ValueType, str]:
        if complete and lock_holder(self._run_dir.owner_lock) is None:
            if note.state == "finished":
                return ingest_pb2.RUN_PHASE_FINISHED, note.reason
            return ingest_pb2.RUN_PHASE_LOST, note.reason or "training disappeared without a word"
        if note.state == "stopped":
            return ingest_pb2.RUN_PHASE_STOPPED, note.reason
        return ingest_pb2.RUN_PHASE_RUNNING, ""

    def _keep(self, answer: ingest_pb2.ReportStatusResponse) -> None:
        """Leave the answer where the recorder finds it."""
        advice = answer.advice
        state = types_pb2.AdviceState.Name(advice.state).removeprefix("ADVICE_STATE_").lower()
        value = {
            "received_unix_seconds": time.time(),
            "advice": {
                "state": "unknown" if state == "unspecified" else state,
                "checkpoint": advice.checkpoint if answer.HasField("checkpoint") else None,
                "evidence": dict(advice.evidence),
                "reason": printable(advice.reason),
                "policy": printable(advice.policy),
            },
            "hallmarks": {group.group: dict(group.values) for group in answer.hallmarks},
            "errors": {group.group: dict(group.errors) for group in answer.hallmarks if group.errors},
            "checkpoint": answer.checkpoint if answer.HasField("checkpoint") else None,
        }
        write_json(self._run_dir.answer_file, value)

    def _succeeded(self) -> None:
        self._backoff.reset()
        self._progress.note(lambda known: replace(known, state="working", problem=""))

    def _failed(self, failure: Failure) -> None:
        """Report a failure and wait as it asks for; the next step tries again."""
        if failure.kind == "reopen" and failure.reason == "FENCED":
            # A call of our own that arrived late may have done it. Anything else is another agent: leave it the run.
            failure = failure if self._open_is_uncertain else replace(failure, kind="refused")
            self._open_is_uncertain = False
        if failure.kind == "refused":
            self._refused_attempt = (RecorderNote.read(self._run_dir) or RecorderNote(attempt=1)).attempt
            self._progress.note(lambda known: replace(known, state="refused", problem=failure.text))
            self._progress.refuse(True)
            log.error("refused for good: %s", failure.text)
            return
        if failure.kind == "reopen":
            self._opened = None
        self._progress.note(lambda known: replace(known, state="waiting", problem=failure.text))
        if failure.kind == "later" and self._has_new_token():
            # Mended already: a server that came after this agent has written its token since.
            failure = replace(failure, kind="again")
        if failure.kind in ("again", "later"):
            self._reconnect_if_moved(failure)
        if failure.reason in CHANGES_HANDS:
            # Servers live, and one of them will have the run soon: waiting ever longer would only hold rows up.
            self._backoff.reset()
        seconds = self._backoff.next_seconds()
        if failure.kind == "later":
            seconds = max(seconds, self._settings.slow_retry_seconds)
        if failure.retry_seconds is not None:
            seconds = max(seconds, min(failure.retry_seconds, self._settings.backoff_seconds[1]))
        log.warning("%s; trying again in %.1f s", failure.text, seconds)
        self._progress.sleep(seconds)

    def _reconnect_if_moved(self, failure: Failure) -> None:
        """Drop the channel where a new one may do better: a new token, a local server at another port."""
        connection = self._connection
        if connection is None:
            return
        note = RecorderNote.read(self._run_dir)
        is_local = not (note is not None and note.server) and not os.environ.get("TRAJMON_SERVER")
        if failure.kind == "later" or is_local or self._has_new_token():
            connection.close()
            self._connection = None

    def _has_new_token(self) -> bool:
        """Whether the token is another one than the connection was made with."""
        return self._connection is not None and self._connection.token != token(self._run_dir.home)


def _age(unix_seconds: float) -> float:
    """Seconds since then; 0 for no time at all."""
    return max(0.0, time.time() - unix_seconds) if unix_seconds else 0.0
