"""Rows in parts through the ingest core, over a real journal: any cut, any order, and restarts in between."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.core import CALLER, Server, play
from support.rows import Cut, SyntheticRun
from trajmon_server.errors import OutOfOrder, ServiceError


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
        expected = {f"{n:08d}.0000.row": source.sum_record(n, cut) for n in range(count)} | {
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
