"""The ingest core over a real journal: what a caller that leaves in the middle leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.house import House
from support.rows import SyntheticRun
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import Limits
from trajmon_server.errors import Exhausted, OutOfOrder, Unavailable
from trajmon_server.ingest.service import Ingest
from trajmon_server.runs.ownership import Alone

CALLER = Principal(LOCAL_TEAM, "write")


def ingest_of(house: House, disk: Path | None = None, **limits: int) -> Ingest:
    taken = Limits(**{"min_free_disk_bytes": 0, **limits})
    return Ingest(
        house.journal, house.registry, taken, house.executor, disk or house.folder, lambda *_: None, Alone()
    )


async def leave_at_once(call: asyncio.Task[object], turns: int) -> None:
    """Let the call go on for some turns of the loop, then give it up."""
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("turns", range(6))
def test_a_row_on_disk_is_always_known(house: House, turns: int) -> None:
    source = SyntheticRun("left", num_checkpoints=12)

    async def scenario() -> None:
        ingest = ingest_of(house)
        run = await ingest.open_run(source.open_request(), CALLER)
        folder = house.folder / "journal" / source.run_id / "rows"
        for checkpoint in range(12):
            push = ingest.push(source.run_id, 1, source.record(checkpoint), CALLER)
            await leave_at_once(asyncio.ensure_future(push), turns)
            await ingest.drain()
            assert len(list(folder.iterdir())) == run.num_checkpoints == len(run.metas)
            await ingest.push(source.run_id, 1, source.record(checkpoint), CALLER)
            assert run.next_checkpoint == checkpoint + 1
        await house.worker.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_an_epoch_on_disk_is_always_known(house: House, turns: int) -> None:
    source = SyntheticRun("opened")

    async def scenario() -> None:
        ingest = ingest_of(house)
        for _ in range(5):
            await leave_at_once(asyncio.ensure_future(ingest.open_run(source.open_request(), CALLER)), turns)
            await ingest.drain()
            run = house.registry.find(source.run_id, LOCAL_TEAM)
            stored = house.journal.get_run_file(source.run_id, "control.json")
            assert (run.control.to_json() if run else None) == stored

    asyncio.run(scenario())


def test_a_new_writer_waits_for_the_row_of_the_old_one(house: House) -> None:
    source = SyntheticRun("fence")

    async def scenario() -> None:
        ingest = ingest_of(house)
        await ingest.open_run(source.open_request(), CALLER)
        old = asyncio.ensure_future(ingest.push(source.run_id, 1, source.record(0), CALLER))
        await asyncio.sleep(0.001)
        old.cancel()
        run = await ingest.open_run(source.open_request(), CALLER)
        rows = len(list((house.folder / "journal" / source.run_id / "rows").iterdir()))
        assert run.next_checkpoint == rows
        with pytest.raises(OutOfOrder, match="writer epoch 1 of run 'fence' is over, 2 is current"):
            await ingest.push(source.run_id, 1, source.record(rows), CALLER)
        await ingest.drain()
        await house.worker.stop()

    asyncio.run(scenario())


def test_quotas_are_kept(house: House) -> None:
    source, second = SyntheticRun("quota"), SyntheticRun("second")
    size = len(source.record(0))

    async def scenario() -> None:
        ingest = ingest_of(house, max_runs=1, max_run_bytes=size)
        await ingest.open_run(source.open_request(), CALLER)
        with pytest.raises(Exhausted, match=r"this team has 1 runs, the limit is 1 \(limits.max_runs\)"):
            await ingest.open_run(second.open_request(), CALLER)
        await ingest.push(source.run_id, 1, source.record(0), CALLER)
        with pytest.raises(Exhausted, match=rf"run uses {size} bytes, the limit is {size} "):
            await ingest.push(source.run_id, 1, source.record(1), CALLER)
        assert [key.checkpoint for key in house.journal.list_rows(source.run_id)] == [0]
        assert house.journal.list_runs() == [source.run_id]
        await house.worker.stop()

    asyncio.run(scenario())


def test_a_data_directory_that_is_gone_is_said_to_be_gone(house: House) -> None:
    source = SyntheticRun("gone")

    async def scenario() -> None:
        ingest = ingest_of(house, disk=house.folder / "nowhere")
        await ingest.open_run(source.open_request(), CALLER)
        with pytest.raises(Unavailable, match=r"nowhere: No such file or directory; nothing was stored"):
            await ingest.push(source.run_id, 1, source.record(0), CALLER)
        assert house.journal.list_rows(source.run_id) == []

    asyncio.run(scenario())


def test_a_long_reason_is_cut(house: House) -> None:
    source = SyntheticRun("reason")

    async def scenario() -> None:
        ingest = ingest_of(house)
        await ingest.open_run(source.open_request(), CALLER)
        request = ingest_pb2.ReportStatusRequest(
            run_id=source.run_id, writer_epoch=1, phase=ingest_pb2.RUN_PHASE_STOPPED, reason="x" * 10_000
        )
        run = await ingest.report(request, CALLER)
        assert (len(run.control.reason), len(run.agent.reason)) == (500, 500)

    asyncio.run(scenario())
