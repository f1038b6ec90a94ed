"""Parts and sums that are damaged or gone are noticed, and made or taken again."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.core import Server, play
from support.rows import Cut, SyntheticRun


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
        assert server.stored(source)["00000000.0000.row"] == source.sum_record(0, cut)

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
        assert server.stored(source)["00000000.0000.row"] == source.sum_record(0, cut)

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
        assert server.stored(source)["00000000.0000.row"] == source.sum_record(0, cut)
        np.testing.assert_allclose(await server.gram(source), source.gram([0]), rtol=1e-13)

    play(server, scenario())
