"""Rows in parts through the ingest core, over a real journal: any cut, any order, and restarts in between."""

from __future__ import annotations

import asyncio
import resource
import tempfile
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.core import CALLER, Server, play
from support.rows import Cut, SyntheticRun
from trajmon_protos.record import Row, encode
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.errors import Conflict, Exhausted, InvalidRequest, OutOfOrder, ServiceError
from trajmon_server.ingest.quota import MAX_WRITERS
from trajmon_server.runs.control import RunControl, Writer
from trajmon_server.runs.parts import add_up

RUNNING, FINISHED = ingest_pb2.RUN_PHASE_RUNNING, ingest_pb2.RUN_PHASE_FINISHED


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path, ThreadPoolExecutor(4))


def sum_of(source: SyntheticRun, cut: Cut, checkpoint: int, path: list[int] | None = None) -> bytes:
    parts = (source.part_row(checkpoint, cut, part, path) for part in range(cut.num_parts))
    return encode(add_up(parts, source.num_layers))


@settings(max_examples=9, deadline=None)
@given(st.data())
def test_any_order_with_duplicates_and_restarts_gives_the_same_run(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4), "checkpoints")
    cut_size = data.draw(st.integers(2, 4), "parts")
    source = SyntheticRun("any", num_checkpoints=count)
    cut = Cut.of(source, cut_size, seed=data.draw(st.integers(0, 9)))
    # Every rank sends in order; the ranks interleave at will, and some things are sent twice.
    turns = data.draw(st.permutations([part for part in range(cut_size) for _ in range(count)]), "turns")
    restarts = data.draw(st.sets(st.integers(0, len(turns)), max_size=2), "restarts")
    twice = data.draw(st.sets(st.integers(0, len(turns) - 1), max_size=3), "twice")

    async def scenario(server: Server) -> None:
        sent = [0] * cut_size
        for turn, part in enumerate(turns):
            if turn in restarts:
                await server.restart()
            for _ in range(2 if turn in twice else 1):
                following = await server.hand_in(source, cut, part, sent[part])
            sent[part] += 1
            run = server.run(source)
            whole = min(sent)
            assert sorted(run.metas) == list(range(whole))
            assert {number: known.missing() for number, known in run.open.items()} == {
                number: [other for other in range(cut_size) if sent[other] <= number]
                for number in range(whole, max(sent))
            }
            assert following == sent[part]
            assert run.journal_bytes == sum(map(len, server.stored(source).values()))
        if len(turns) in restarts:
            await server.restart()
        np.testing.assert_allclose(await server.gram(source), source.gram(list(range(count))), rtol=1e-13)
        expected = {f"{n:08d}.0000.row": sum_of(source, cut, n) for n in range(count)} | {
            f"{n:08d}.{part + 1:04d}.row": source.part_record(n, cut, part)
            for n in range(count)
            for part in range(cut_size)
        }
        assert server.stored(source) == dict(sorted(expected.items()))
        await server.house.worker.stop()

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as executor:
        asyncio.run(scenario(Server(Path(folder), executor)))


def test_parts_of_old_and_new_attempts_cut_in_different_ways(server: Server) -> None:
    """World size 4, killed at checkpoint 5 with everything from 3 on undelivered; goes on with 2 ranks from 4."""
    source = SyntheticRun("elastic", num_checkpoints=8)
    old, new = Cut.of(source, 4), Cut.of(source, 2, attempt=2)
    path = [0, 1, 2, 3, 4]

    async def scenario() -> None:
        for number in range(3):
            for part in range(4):
                await server.hand_in(source, old, part, number)
        await server.hand_in(source, old, 1, 3)
        # Checkpoint 5 of the old attempt is superseded: the new one resumed from 4.
        for part in range(2):
            assert await server.open(source, new, part, first_checkpoint=6) == 6
            following = await server.push(source, new, part, source.part_record(6, new, part, path))
        assert following == 7
        run = server.run(source)
        assert (run.control.attempt, run.num_checkpoints, run.next_checkpoint) == (2, 7, 3)
        gram = await server.gram(source)
        assert run.path == (*path, 6)
        known = [0, 1, 2, 5]
        np.testing.assert_allclose(gram[np.ix_(known, known)], source.gram([0, 1, 2, 6]), rtol=1e-13)
        # Of what is missing, later rows still know the products with themselves.
        assert np.isnan(gram[3:5, :5]).all()
        np.testing.assert_allclose(gram[5], source.gram([*path, 6])[5], rtol=1e-13)
        # The old agents drain, after a restart of the server and opening anew.
        await server.restart()
        for part in (3, 0, 2):
            assert await server.open(source, old, part) == 3
        assert await server.open(source, old, 1) == 4
        for number in (3, 4, 5):
            for part in (2, 1, 0, 3):
                await server.hand_in(source, old, part, number)
        assert await server.open(source, new, 0, first_checkpoint=6) == 7
        run = server.run(source)
        assert (run.open, run.next_checkpoint, run.control.attempt) == ({}, 7, 2)
        assert run.path == (*path, 6)
        np.testing.assert_allclose(await server.gram(source), source.gram([*path, 6]), rtol=1e-13)
        await server.restart()
        np.testing.assert_allclose(await server.gram(source), source.gram([*path, 6]), rtol=1e-13)

    play(server, scenario())


def test_a_part_that_never_comes_leaves_the_row_open_and_the_rest_right(server: Server) -> None:
    source = SyntheticRun("never", num_checkpoints=6)
    old, new = Cut.of(source, 3), Cut.of(source, 2, attempt=2)

    async def scenario() -> None:
        for number in range(3):
            for part in range(3):
                if (number, part) != (2, 1):
                    await server.hand_in(source, old, part, number)
        for number in (3, 4, 5):
            for part in range(2):
                await server.hand_in(source, new, part, number)
        for _ in range(2):
            run = server.run(source)
            assert {number: known.missing() for number, known in run.open.items()} == {2: [1]}
            assert sorted(run.metas) == [0, 1, 3, 4, 5]
            gram, expected = await server.gram(source), source.gram(list(range(6)))
            assert np.isnan(gram[2, :3]).all()
            others = [0, 1, 3, 4, 5]
            np.testing.assert_allclose(
                gram[np.ix_(others, others)], expected[np.ix_(others, others)], rtol=1e-13
            )
            assert not (server.rows(source) / "00000002.0000.row").exists()
            # It is nothing to the new ones: they have no part of it.
            assert run.next_for(new.writer(1)) == 6
            await server.restart()

    play(server, scenario())


def test_whole_rows_and_parts_in_one_run(server: Server) -> None:
    """One process, then two ranks, then one process again."""
    source = SyntheticRun("mixed", num_checkpoints=6)
    cut = Cut.of(source, 2, attempt=2)

    async def scenario() -> None:
        await server.ingest.open_run(source.open_request(), CALLER)
        for number in range(2):
            await server.ingest.push(source.run_id, 1, source.record(number), CALLER)
        for part in range(2):
            await server.open(source, cut, part, first_checkpoint=3)
            await server.hand_in(source, cut, part, 3)
        # The first process is over, but its agent still has checkpoint 2.
        receipt = await server.ingest.push(source.run_id, 1, source.record(2), CALLER)
        assert receipt.next_checkpoint == 4
        with pytest.raises(OutOfOrder, match="attempt 1 of run 'mixed' is over; attempt 2 has started"):
            await server.ingest.open_run(source.open_request(), CALLER)
        await server.hand_in(source, cut, 0, 4)
        run = await server.ingest.open_run(source.open_request(attempt=3), CALLER)
        # Checkpoint 4 stays open: it is not for one that hands in whole rows.
        assert run.next_for("") == 5
        row = source.record(5, attempt=3)
        assert (await server.ingest.push(source.run_id, 2, row, CALLER)).next_checkpoint == 6
        for _ in range(2):
            assert list(server.run(source).open) == [4]
            gram = await server.gram(source)
            known = [0, 1, 2, 3, 5]
            np.testing.assert_allclose(gram[np.ix_(known, known)], source.gram(known), rtol=1e-13)
            await server.restart()

    play(server, scenario())


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])


@pytest.mark.parametrize("how", [damage, Path.unlink])
@pytest.mark.parametrize("restart", [False, True])
def test_a_sum_is_made_again(server: Server, how: Callable[[Path], object], restart: bool) -> None:
    source = SyntheticRun("again", num_checkpoints=4)
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        for number in range(4):
            for part in range(3):
                await server.hand_in(source, cut, part, number)
        await server.gram(source)
        before = server.stored(source)
        how(server.rows(source) / "00000002.0000.row")
        if restart:
            await server.restart()
        run = server.run(source)
        run.healed = True  # as after any row that fills a gap: everything is read again
        run.restart_analysis()
        np.testing.assert_allclose(await server.gram(source), source.gram(list(range(4))), rtol=1e-13)
        assert server.stored(source) == before
        assert (run.open, run.next_checkpoint) == ({}, 4)

    play(server, scenario())


@pytest.mark.parametrize("restart", [False, True])
def test_a_damaged_part_opens_the_row_again_and_is_taken_again(server: Server, restart: bool) -> None:
    source = SyntheticRun("part", num_checkpoints=4)
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        for number in range(4):
            for part in range(3):
                await server.hand_in(source, cut, part, number)
        await server.gram(source)
        before = server.stored(source)
        damage(server.rows(source) / "00000001.0002.row")
        (server.rows(source) / "00000001.0000.row").unlink()
        if restart:
            await server.restart()
        run = server.run(source)
        run.healed = True
        run.restart_analysis()
        gram = await server.gram(source)
        await asyncio.sleep(0)
        async with run.lock:
            pass  # behind the look that follows a loss
        assert np.isnan(gram[1, :2]).all()
        assert {number: known.missing() for number, known in run.open.items()} == {1: [1]}
        assert [damage.part for damage in server.house.journal.damages(source.run_id)] == [2]
        # Only the one whose part it was is asked for it again.
        assert [await server.open(source, cut, part) for part in range(3)] == [4, 1, 4]
        assert await server.hand_in(source, cut, 1, 1) == 4
        assert run.open == {}
        np.testing.assert_allclose(await server.gram(source), source.gram(list(range(4))), rtol=1e-13)
        assert server.stored(source) == before

    play(server, scenario())


def test_a_damaged_part_is_noticed_when_the_last_one_comes(server: Server) -> None:
    source = SyntheticRun("late", num_checkpoints=1)
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        await server.hand_in(source, cut, 2, 0)
        damage(server.rows(source) / "00000000.0003.row")
        for part in (0, 1):
            assert await server.hand_in(source, cut, part, 0) == 1
        assert server.run(source).open[0].missing() == [2]
        assert await server.open(source, cut, 2) == 0
        assert await server.hand_in(source, cut, 2, 0) == 1
        assert server.stored(source)["00000000.0000.row"] == sum_of(source, cut, 0)

    play(server, scenario())


@pytest.mark.parametrize("part", [0, 1])
def test_a_damaged_part_of_an_open_row_is_noticed_at_the_start(server: Server, part: int) -> None:
    source = SyntheticRun("start", num_checkpoints=1)
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        for there in (0, 1):
            await server.hand_in(source, cut, there, 0)
        # Of the size that it had, but no record any more.
        path = server.rows(source) / f"00000000.{part + 1:04d}.row"
        path.write_bytes(bytes(path.stat().st_size))
        await server.restart()
        if part == 1:
            # Its header was not needed: the last part brings it to light.
            assert server.run(source).open[0].missing() == [2]
            await server.hand_in(source, cut, 2, 0)
            assert server.run(source).open[0].missing() == [1]
        else:
            assert server.run(source).open[0].missing() == [0, 2]
            await server.hand_in(source, cut, 2, 0)
        assert await server.open(source, cut, part) == 0
        assert await server.hand_in(source, cut, part, 0) == 1
        assert server.stored(source)["00000000.0000.row"] == sum_of(source, cut, 0)

    play(server, scenario())


def test_parts_of_a_row_that_was_lost_unseen_are_found_again(server: Server) -> None:
    source = SyntheticRun("unseen", num_checkpoints=2)
    cut = Cut.of(source, 3)

    async def scenario() -> None:
        for number in range(2):
            for part in range(3):
                await server.hand_in(source, cut, part, number)
        before = server.stored(source)
        for name in ("00000000.0000.row", "00000000.0002.row"):
            (server.rows(source) / name).unlink()
        # As when the journal could not be read while the loss was looked at.
        server.run(source).lose(0)
        assert await server.hand_in(source, cut, 1, 0) == 2
        assert server.run(source).open == {}
        assert server.stored(source) == before

    play(server, scenario())


def test_a_sum_that_cannot_be_stored_is_known_all_the_same(server: Server) -> None:
    source = SyntheticRun("blocked", num_layers=200, num_checkpoints=1)
    cut = Cut(np.repeat(np.arange(200) // 100, 5).reshape(200, 5), 2)

    async def scenario() -> None:
        await server.open(source, cut, 1)
        await server.hand_in(source, cut, 0, 0)
        # The disk takes the part, but nothing as large as the sum.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(source.part_record(0, cut, 1)), hard))
        try:
            assert await server.hand_in(source, cut, 1, 0) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        run = server.run(source)
        assert (list(run.metas), run.open) == ([0], {})
        assert server.house.registry.event_counts()["sums_not_stored"] >= 1
        assert list(server.stored(source)) == ["00000000.0001.row", "00000000.0002.row"]
        await server.restart()
        assert server.stored(source)["00000000.0000.row"] == sum_of(source, cut, 0)
        np.testing.assert_allclose(await server.gram(source), source.gram([0]), rtol=1e-13)

    play(server, scenario())


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


@pytest.mark.parametrize("turns", range(5))
def test_a_part_on_disk_is_always_known(server: Server, turns: int) -> None:
    source = SyntheticRun("left", num_checkpoints=5)
    cut = Cut.of(source, 2)

    async def scenario() -> None:
        for part in range(2):
            await server.open(source, cut, part)
        for number in range(5):
            for part in range(2):
                call = asyncio.ensure_future(server.hand_in(source, cut, part, number))
                for _ in range(turns):
                    await asyncio.sleep(0.0005)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                await server.ingest.drain()
                run = server.run(source)
                names = list(server.stored(source))
                open_parts = sum(known.stored.bit_count() for known in run.open.values())
                assert len(names) == 3 * len(run.metas) + open_parts
                try:
                    assert await server.hand_in(source, cut, part, number) == number + 1
                except ServiceError as error:  # pragma: no cover - tells what came
                    raise AssertionError(error.message) from error

    play(server, scenario())
