"""The worker over a real journal and real maps."""

from __future__ import annotations

import asyncio

import numpy as np

from support.house import House
from support.rows import SyntheticRun
from trajmon_protos.record import decode
from trajmon_server.model import CheckpointMeta


def test_recovered_runs_are_worked_off_and_published(house: House) -> None:
    sources = [SyntheticRun(f"run-{index}", seed=index, num_checkpoints=70) for index in range(5)]
    for source in sources:
        house.store(source, rows=70)

    async def scenario() -> None:
        house.registry.recover()
        house.worker.catch_up(house.registry.runs(), at_once=2)
        for run in house.registry.runs():
            assert await run.wait_analysed(70, 60)
        await house.worker.stop()

    asyncio.run(scenario())
    for source in sources:
        run = house.registry.find(source.run_id, "local")
        assert run is not None
        assert run.analysis.path == tuple(range(70))
        maps = house.registry.maps(run.description)
        np.testing.assert_allclose(
            maps.read_map("group", 0, np.arange(70)), source.gram(list(range(70))), rtol=1e-12
        )


def test_a_new_row_does_not_wait_for_the_runs_of_a_restart(house: House) -> None:
    for index in range(30):
        house.store(SyntheticRun(f"old-{index}", seed=index, num_checkpoints=40), rows=40)
    fresh = SyntheticRun("fresh")

    async def scenario() -> int:
        house.registry.recover()
        old = house.registry.runs()
        house.worker.catch_up(old, at_once=1)
        run = house.store(fresh, rows=1)
        house.registry.add(run)
        run.accept(CheckpointMeta.from_row(decode(fresh.record(0))), 0, 100)
        house.registry.wake(run)
        assert await run.wait_analysed(1, 60)
        waiting = sum(other.analysed < 40 for other in old)
        await house.worker.stop()
        return waiting

    assert asyncio.run(scenario()) > 20


def test_a_run_whose_maps_cannot_be_written_says_so_and_goes_on_when_they_can(
    house: House,
) -> None:
    source = SyntheticRun("blocked")
    house.store(source, rows=4)
    # A file where the folder of the maps should be.
    (house.folder / "maps").write_text("")

    async def scenario() -> None:
        house.registry.recover()
        (run,) = house.registry.runs()
        house.registry.wake(run)
        assert not await run.wait_analysed(4, 30)
        assert run.failure.startswith("its rows cannot be worked off: ")
        assert house.registry.event_counts()["analysis_failed"] == 1
        (house.folder / "maps").unlink()
        change = run.next_change()
        await asyncio.wait_for(change.wait(), 60)
        assert await run.wait_analysed(4, 60)
        assert run.failure == ""
        await house.worker.stop()

    asyncio.run(scenario())


def test_a_lost_row_is_missing_and_may_be_sent_again(house: House) -> None:
    source = SyntheticRun("lost")
    house.store(source, rows=6)
    path = house.folder / "journal" / source.run_id / "rows" / "00000002.0000.row"

    async def scenario() -> None:
        house.registry.recover()
        (run,) = house.registry.runs()
        path.unlink()
        house.registry.wake(run)
        assert await run.wait_analysed(6, 60)
        assert run.next_checkpoint == 2
        assert run.analysis.path == tuple(range(6))
        house.journal.append(source.run_id, 2, 0, source.record(2))
        run.accept(CheckpointMeta.from_row(decode(source.record(2))), 2, 100)
        house.registry.wake(run)
        assert await run.wait_analysed(6, 60)
        assert run.next_checkpoint == 6
        maps = house.registry.maps(run.description)
        np.testing.assert_allclose(
            maps.read_map("group", 0, np.arange(6)), source.gram(list(range(6))), rtol=1e-12
        )
        await house.worker.stop()

    asyncio.run(scenario())
