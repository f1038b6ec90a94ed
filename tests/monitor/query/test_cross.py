"""Maps across runs below the wire: how many checkpoints an answer holds, and which."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from support.house import House
from support.sketched_rows import SketchedRun
from trajmon_server.auth import LOCAL_TEAM, Principal
from trajmon_server.config import Limits
from trajmon_server.ingest.service import Ingest
from trajmon_server.query import cross
from trajmon_server.query.core import Query
from trajmon_server.query.cross import CrossAnswer, CrossQuery
from trajmon_server.runs.ownership import Alone
from trajmon_server.runs.rows import Rows

CALLER = Principal(LOCAL_TEAM, "write")
COLUMNS = 3 * 1021


def ask(house: House, scope: str = "network") -> CrossAnswer:
    """The map of two runs that are handed in first, 14 checkpoints against 9."""

    async def scenario() -> CrossAnswer:
        limits = Limits(min_free_disk_bytes=0)
        ingest = Ingest(
            house.journal, house.registry, limits, house.executor, house.folder, lambda *_: None, Alone()
        )
        for seed, (name, count) in enumerate((("x", 14), ("y", 9))):
            source = SketchedRun(name, seed=seed, num_checkpoints=count)
            run = await ingest.open_run(source.open_request(), CALLER)
            for checkpoint in range(count):
                await ingest.push(source.run_id, 1, source.sketch_record(checkpoint), CALLER)
                await ingest.push(source.run_id, 1, source.record(checkpoint), CALLER)
            while run.analysed < count:
                await asyncio.sleep(0.01)
        query = Query(house.registry, house.journal, limits, house.executor)
        rows = Rows(house.journal, house.registry.count_event)
        reader = CrossQuery(query, rows, house.executor)
        answer = await reader.map("x", "y", scope, CALLER, from_initialization=False)
        await house.worker.stop()
        return answer

    return asyncio.run(scenario())


def test_all_of_a_short_run(house: House) -> None:
    answer = ask(house)
    assert answer.checkpoint.tolist() == list(range(14))
    assert answer.other_checkpoint.tolist() == list(range(9))
    assert answer.cross.map.shape == (14, 9)
    assert not np.isnan(answer.cross.map).any()


@pytest.mark.parametrize(
    ("name", "value"), [("SIDE_BYTES", 5 * 8 * COLUMNS + 7), ("SIDE_CHECKPOINTS", 5)], ids=["bytes", "number"]
)
def test_of_a_long_run_checkpoints_are_left_out_evenly(
    house: House, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(cross, name, value)
    answer = ask(house)
    assert answer.checkpoint.tolist() == [0, 3, 6, 10, 13]
    assert answer.step.tolist() == [0, 30, 60, 100, 130]
    assert answer.other_checkpoint.tolist() == [0, 2, 4, 6, 8]
    assert answer.cross.map.shape == answer.cross.distance_error.shape == (5, 5)


def test_what_counts_is_the_scope(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "SIDE_BYTES", 5 * 8 * COLUMNS)
    assert ask(house, "layer:layer0.weight").cross.map.shape == (14, 9)


def test_both_ends_stay_however_little_there_is_room_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross, "SIDE_BYTES", 1)
    answer = ask(house)
    assert (answer.checkpoint.tolist(), answer.other_checkpoint.tolist()) == ([0, 13], [0, 8])
