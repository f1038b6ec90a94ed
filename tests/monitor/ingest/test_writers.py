"""The writers of a run's parts: fenced one by one, limited, and told as one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.core import CALLER, Server, play
from support.rows import Cut, SyntheticRun
from trajmon_protos.record import encode
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.errors import Conflict, Exhausted, InvalidRequest, OutOfOrder
from trajmon_server.ingest.quota import MAX_WRITERS
from trajmon_server.runs.control import RunControl, Writer

RUNNING, FINISHED = ingest_pb2.RUN_PHASE_RUNNING, ingest_pb2.RUN_PHASE_FINISHED


def test_writers_are_fenced_one_by_one(server: Server) -> None:
    source = SyntheticRun("fence")
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        for part in range(2):
            await server.hand_in(source, cut, part, 0)
        name = cut.writer(0)
        await server.ingest.open_run(source.part_request(cut, 0), CALLER)
        before = server.stored(source)
        with pytest.raises(
            OutOfOrder, match="writer epoch 1 of run 'fence' is over, 2 is current: another"
        ) as caught:
            await server.hand_in(source, cut, 0, 1)
        assert caught.value.reason == "FENCED"
        with pytest.raises(
            OutOfOrder, match=f"run 'fence' has not been opened by writer '{'0' * 32}': open it first"
        ):
            await server.ingest.push(source.run_id, 1, source.part_record(1, cut, 0), CALLER, "0" * 32)
        with pytest.raises(OutOfOrder, match="run 'fence' has not been opened by a writer of whole rows"):
            await server.ingest.push(source.run_id, 0, source.record(1), CALLER)
        assert server.stored(source) == before
        # The other writer, and the new agent of this one, go on; also after a restart.
        await server.hand_in(source, cut, 1, 1)
        receipt = await server.ingest.push(source.run_id, 2, source.part_record(1, cut, 0), CALLER, name)
        assert receipt.next_checkpoint == 2
        epochs = {name: writer.epoch for name, writer in server.run(source).control.writers.items()}
        assert epochs == {cut.writer(0): 2, cut.writer(1): 1}
        control = server.run(source).control
        await server.restart()
        assert server.run(source).control == control

    play(server, scenario())


def test_epochs_that_were_lost_with_the_control_file_are_fenced_off(server: Server) -> None:
    source = SyntheticRun("rebuilt", num_checkpoints=2)
    cut = Cut.of(source, 2, attempt=3)

    async def scenario() -> None:
        await server.hand_in(source, cut, 0, 0)
        (server.folder / "journal" / source.run_id / "control.json").write_text("{")
        await server.restart()
        assert server.run(source).control.attempt == 3
        for epoch in (1, 2):
            with pytest.raises(OutOfOrder, match="open it first"):
                await server.ingest.push(
                    source.run_id, epoch, source.part_record(1, cut, 0), CALLER, cut.writer(0)
                )
        assert await server.open(source, cut, 0) == 1
        assert server.epochs[source.run_id, cut.writer(0)] > 1_000_000_000
        assert await server.hand_in(source, cut, 0, 1) == 2

    play(server, scenario())


def test_a_writer_keeps_its_part(server: Server) -> None:
    source = SyntheticRun("keeps")
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        await server.open(source, cut, 0)
        request = source.part_request(cut, 1)
        request.writer = cut.writer(0)
        text = f"writer {cut.writer(0)} hands in part 0 of 2 of run 'keeps', not part 1 of 2"
        with pytest.raises(Conflict, match=text) as caught:
            await server.ingest.open_run(request, CALLER)
        assert caught.value.reason == "OTHER_PART"
        # Its own older self is over, another's is not.
        await server.open(source, replace(cut, attempt=3), 0)
        with pytest.raises(OutOfOrder, match="attempt 2 of run 'keeps' is over; attempt 3 has started"):
            await server.open(source, replace(cut, attempt=2), 0)
        await server.open(source, replace(cut, attempt=2), 1)
        assert server.run(source).control.attempt == 3

    play(server, scenario())


def test_writers_are_limited(server: Server) -> None:
    source = SyntheticRun("many")
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        await server.open(source, cut, 0)
        run = server.run(source)
        more = {f"{number:032x}": Writer(1, 1) for number in range(MAX_WRITERS - 1)}
        run.control = replace(run.control, writers={**run.control.writers, **more})
        before = run.control
        with pytest.raises(
            Exhausted, match=r"this run has 16384 writers, the limit is 16384; cut it"
        ) as caught:
            await server.open(source, cut, 1)
        assert caught.value.reason == "WRITER_QUOTA"
        assert run.control is before
        await server.open(source, cut, 0)  # one that is known may always come back

    play(server, scenario())


def test_parts_count_for_the_quota(tmp_path: Path) -> None:
    source = SyntheticRun("quota")
    cut = Cut.of(source, 2)
    first = len(source.part_record(0, cut, 0))

    async def scenario(server: Server) -> None:
        await server.hand_in(source, cut, 0, 0)
        before = server.stored(source)
        with pytest.raises(
            Exhausted, match=rf"run uses {first} bytes, the limit is {first} \(limits.max_run_bytes"
        ):
            await server.hand_in(source, cut, 1, 0)
        assert server.stored(source) == before
        assert await server.hand_in(source, cut, 0, 0) == 1  # what is there may be sent again

    server = Server(tmp_path, ThreadPoolExecutor(4), max_run_bytes=first)
    play(server, scenario(server))


def report(source: SyntheticRun, cut: Cut, part: int, **values: Any) -> ingest_pb2.ReportStatusRequest:
    return ingest_pb2.ReportStatusRequest(
        run_id=source.run_id, writer_epoch=1, writer=cut.writer(part), **values
    )


def test_reports_of_all_writers_are_told_as_one(server: Server) -> None:
    source = SyntheticRun("reports")
    old, new = Cut.of(source, 3), Cut.of(source, 2, attempt=2)

    async def scenario() -> None:
        for cut in (old, new):
            for part in range(cut.num_parts):
                await server.open(source, cut, part)
        numbers = {
            "checkpoints_recorded": 9,
            "checkpoints_pending": 2,
            "snapshot_bytes": 100,
            "agent_restarts": 1,
        }
        others = {
            "checkpoints_recorded": 8,
            "checkpoints_pending": 5,
            "snapshot_bytes": 11,
            "lag_seconds": 2.5,
        }
        await server.ingest.report(report(source, new, 0, phase=RUNNING, **numbers), CALLER)
        last = {"checkpoints_uncomputed": 3, "checkpoints_skipped": 1, "agent_restarts": 1}
        await server.ingest.report(report(source, new, 1, **others, **last), CALLER)
        # Only the leader of the newest attempt ends the run.
        for cut, part in ((old, 0), (old, 1), (new, 1)):
            run = await server.ingest.report(report(source, cut, part, phase=FINISHED), CALLER)
            assert run.control.phase == RUNNING
        agent = run.agent
        assert (agent.checkpoints_recorded, agent.checkpoints_skipped, agent.checkpoints_pending) == (9, 0, 2)
        await server.ingest.report(report(source, new, 1, **others, **last), CALLER)
        agent = run.agent
        assert (agent.checkpoints_recorded, agent.checkpoints_skipped, agent.checkpoints_pending) == (9, 1, 5)
        assert (agent.snapshot_bytes, agent.agent_restarts) == (111, 2)
        assert (agent.checkpoints_uncomputed, agent.lag_seconds) == (3, 2.5)
        run = await server.ingest.report(report(source, new, 0, phase=FINISHED, reason="done"), CALLER)
        assert (run.control.phase, run.control.reason, run.agent.phase) == (FINISHED, "done", FINISHED)
        # An old agent that opens again does not bring the run back to life; the leader does.
        await server.open(source, old, 0)
        await server.open(source, new, 1)
        assert run.control.phase == FINISHED
        await server.open(source, new, 0)
        assert run.control.phase == RUNNING

    play(server, scenario())


@pytest.mark.parametrize("lag", [float("nan"), float("inf"), -1.0])
def test_a_lag_is_a_time_span(server: Server, lag: float) -> None:
    source = SyntheticRun("lag")
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        await server.open(source, cut, 0)
        with pytest.raises(InvalidRequest, match=f"lag_seconds: {lag} is not a time span"):
            await server.ingest.report(report(source, cut, 0, lag_seconds=lag), CALLER)
        assert server.run(source).reports == {}

    play(server, scenario())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: setattr(r, "writer", "x"), "writer: 'x' is not 32 lower-case hex digits"),
        (lambda r: setattr(r, "writer", ""), "writer: a writer of part 1 of 2 needs a name"),
        (lambda r: setattr(r, "part", 2), "part: part 2 of 2: parts are counted from 0"),
        (
            lambda r: setattr(r, "num_parts", 4097),
            "num_parts: 4097 parts; this server takes rows in 1 to 4096",
        ),
        (
            lambda r: setattr(r, "first_checkpoint", 10**8),
            "first_checkpoint: a run has at most 100000000 checkpoints",
        ),
    ],
)
def test_a_wrong_request_to_open_changes_nothing(
    server: Server, change: Callable[[ingest_pb2.OpenRunRequest], object], text: str
) -> None:
    source = SyntheticRun("wrong-open")
    request = source.part_request(Cut.of(source, 2), 1)
    change(request)

    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match=text):
            await server.ingest.open_run(request, CALLER)
        assert server.house.journal.list_runs() == []

    play(server, scenario())


def test_a_mode_is_a_known_one(server: Server) -> None:
    source = SyntheticRun("modes")
    row = source.row(0)
    row.header.info.copy = "x" * 33
    wire = row.header.info.SerializeToString() + b"\x38\x09"  # field 7, 9
    row.header.info.CopyFrom(types_pb2.CheckpointInfo.FromString(wire))

    async def scenario() -> None:
        await server.ingest.open_run(source.open_request(), CALLER)
        with pytest.raises(InvalidRequest) as caught:
            await server.ingest.push(source.run_id, 1, encode(row), CALLER)
        assert [(found.field, found.text) for found in caught.value.violations] == [
            ("info.mode", "9 is no mode that this server knows; update the server"),
            ("info.copy", "at most 32 printable characters"),
        ]
        assert server.stored(source) == {}

    play(server, scenario())


def test_control_files_of_before_are_read() -> None:
    data = {"attempt": 2, "writer_epoch": 5, "phase": "RUN_PHASE_RUNNING", "reason": ""}
    control = RunControl.from_json(data)
    assert control == RunControl(attempt=2, writer_epoch=5)
    assert control.writer("") == Writer(epoch=5, attempt=2)
    named = control.joined("a" * 32, Writer(0, attempt=3, part=0, num_parts=2, first_checkpoint=7))
    assert RunControl.from_json(named.to_json()) == named
    # The other stays at its attempt.
    assert named.writer("") == Writer(epoch=5, attempt=2)
    assert not named.leads("")
    assert named.leads("a" * 32)
