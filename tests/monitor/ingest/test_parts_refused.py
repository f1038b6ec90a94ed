"""Parts that do not belong where they are handed in are refused, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.core import CALLER, Server, play
from support.rows import Cut, SyntheticRun
from trajmon_protos.record import Row, encode
from trajmon_server.errors import Conflict, InvalidRequest, OutOfOrder


def changed(source: SyntheticRun, cut: Cut, **header: object) -> bytes:
    row: Row = source.part_row(1, cut, 1)
    for name, value in header.items():
        if name == "step":
            row.header.info.step = int(str(value))
        else:
            setattr(row.header, name, value)
    return encode(row)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"attempt": 1}, "checkpoint 1, part 1 of 2: attempt is 1, the parts that are stored have 2"),
        ({"step": 11}, "step is 11, the parts that are stored have 10"),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_parts_that_do_not_belong_together_are_refused(
    server: Server, header: dict[str, object], text: str, complete: bool
) -> None:
    source = SyntheticRun("mismatch")
    cut = Cut.of(source, 2, attempt=2)

    async def scenario() -> None:
        for part in range(2):
            await server.hand_in(source, cut, part, 0)
        await server.hand_in(source, cut, 0, 1)
        if complete:
            await server.hand_in(source, cut, 1, 1)
        before, open_rows = server.stored(source), dict(server.run(source).open)
        with pytest.raises(Conflict, match=text) as caught:
            await server.push(source, cut, 1, changed(source, cut, **header))
        assert caught.value.reason == "PART_MISMATCH"
        assert caught.value.message.endswith("; nothing was stored")
        assert (server.stored(source), server.run(source).open) == (before, open_rows)
        # It was nobody's: the right one is still taken.
        assert await server.hand_in(source, cut, 1, 1) == 2

    play(server, scenario())


def test_parts_of_another_cut_and_whole_rows_are_refused(server: Server) -> None:
    source = SyntheticRun("cuts", num_checkpoints=3)
    two, three = Cut.of(source, 2), Cut.of(source, 3)

    async def scenario() -> None:
        await server.ingest.open_run(source.open_request(), CALLER)
        await server.ingest.push(source.run_id, 1, source.record(0), CALLER)
        for part in range(2):
            await server.hand_in(source, two, part, 1)
        await server.hand_in(source, two, 1, 2)
        before = server.stored(source)
        have = "the parts that are stored have 2"
        refused: list[tuple[Coroutine[Any, Any, object], str]] = [
            (server.hand_in(source, three, 0, 0), "num_parts is 3, the row that is stored came whole"),
            (server.hand_in(source, three, 2, 1), f"num_parts is 3, {have}"),
            (server.hand_in(source, three, 2, 2), f"num_parts is 3, {have}"),
            (server.ingest.push(source.run_id, 1, source.record(1), CALLER), f"num_parts is 1, {have}"),
            (server.ingest.push(source.run_id, 1, source.record(2), CALLER), f"num_parts is 1, {have}"),
        ]
        for call, text in refused:
            with pytest.raises(Conflict, match=text) as caught:
                await call
            assert caught.value.reason == "PART_MISMATCH"
            assert server.stored(source) == before

    play(server, scenario())


def test_another_record_of_a_stored_part_is_refused(server: Server) -> None:
    source, lied = SyntheticRun("twice"), SyntheticRun("twice")
    lied.parameters = lied.parameters + 1.0
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        await server.hand_in(source, cut, 0, 0)
        before = server.stored(source)
        with pytest.raises(Conflict, match="the stored row was kept"):
            await server.hand_in(lied, cut, 0, 0)
        assert server.stored(source) == before

    play(server, scenario())


def relisted(source: SyntheticRun, cut: Cut, layers: list[int]) -> bytes:
    row = source.part_row(0, cut, 1)
    del row.header.layers[:]
    row.header.layers.extend(layers)
    return encode(row)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda s, c: relisted(s, c, [0, 0, 1]), r"layers: positions in the layout must be ascending"),
        (lambda s, c: relisted(s, c, [0, 2, 1]), "must be ascending, distinct and below 3"),
        (lambda s, c: relisted(s, c, [0, 1, 3]), "distinct and below 3"),
        (lambda s, c: relisted(s, c, [0, 1]), "num_layers: record has 3 layers, its header lists 2"),
        (lambda s, c: s.part_record(0, c, 0), "part 0 of 2: this server takes part 1 of 2 from this writer"),
        (lambda s, c: s.record(0), "part 0 of 1: this server takes part 1 of 2 from this writer"),
        (
            lambda s, c: s.part_record(0, replace(c, attempt=2), 1),
            "record is of attempt 2, the run is at 1",
        ),
    ],
)
def test_a_wrong_part_names_what_is_wrong(
    server: Server, make: Callable[[SyntheticRun, Cut], bytes], text: str
) -> None:
    source = SyntheticRun("wrong")
    cut = Cut(np.tile(np.array([0, 1, 0, 1, 1]), (3, 1)), 2)

    async def scenario() -> None:
        await server.open(source, cut, 1)
        with pytest.raises(InvalidRequest, match=text):
            await server.push(source, cut, 1, make(source, cut))
        assert server.stored(source) == {}
        assert server.run(source).open == {}

    play(server, scenario())


def test_a_whole_row_lists_no_layers(server: Server) -> None:
    source = SyntheticRun("lists")
    row = source.row(0)
    row.header.layers.extend([0, 1, 2])

    async def scenario() -> None:
        await server.ingest.open_run(source.open_request(), CALLER)
        with pytest.raises(InvalidRequest, match="layers: a whole row holds every layer and lists none"):
            await server.ingest.push(source.run_id, 1, encode(row), CALLER)
        assert server.stored(source) == {}

    play(server, scenario())


def test_a_gap_is_refused_except_where_a_writer_begins(server: Server) -> None:
    source = SyntheticRun("gap", num_checkpoints=6)
    cut, new = Cut.of(source, 2), Cut.of(source, 3, attempt=2)

    async def scenario() -> None:
        with pytest.raises(OutOfOrder, match="checkpoint 1 came, 0 is expected; send that first"):
            await server.hand_in(source, cut, 0, 1)
        await server.hand_in(source, cut, 0, 0)
        # Open rows count as known: no rank waits for another.
        assert [await server.hand_in(source, cut, 0, number) for number in (1, 2)] == [2, 3]
        await server.open(source, new, 2, first_checkpoint=4)
        with pytest.raises(OutOfOrder, match="checkpoint 5 came, 3 is expected"):
            await server.hand_in(source, new, 2, 5)
        assert await server.hand_in(source, new, 2, 4) == 5
        assert sorted(server.run(source).open) == [0, 1, 2, 4]
        before = server.stored(source)
        torn = source.part_row(3, cut, 0)
        torn.header.previous = 1
        # Checkpoint 4 is cut another way: it is not asked of this writer.
        assert await server.push(source, cut, 0, encode(torn)) == 5
        later = source.part_row(5, new, 2)
        later.header.previous = 2
        with pytest.raises(InvalidRequest, match="checkpoint 2 is superseded or does not exist"):
            await server.push(source, new, 2, encode(later))
        assert server.stored(source).keys() - before.keys() == {"00000003.0001.row"}

    play(server, scenario())


def test_a_writer_far_ahead_of_everything_is_refused(server: Server) -> None:
    source = SyntheticRun("far", num_layers=1, layer_size=2, num_checkpoints=1)
    cut = Cut.of(source, 2)
    row = source.part_row(0, cut, 0)
    row.header.checkpoint, row.header.previous = 4097, 4096
    far = Row(row.header, np.ones((1, 4098)), np.zeros((1, 4)), row.status)

    async def scenario() -> None:
        await server.open(source, cut, 0, first_checkpoint=4097)
        with pytest.raises(OutOfOrder, match="checkpoint 4097 came, 0 is expected"):
            await server.push(source, cut, 0, encode(far))
        assert server.stored(source) == {}

    play(server, scenario())
