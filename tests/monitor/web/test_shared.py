"""Answers that many pages ask for at once: made once for each version, and nobody gets an older one than wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest
from starlette.responses import Response

from trajmon_server.web import shared
from trajmon_server.web.pieces import Pieces
from trajmon_server.web.shared import SharedAnswers


class Maker:
    """Counts how often it is asked; answers with the number, once `go` is set."""

    def __init__(self, fails: bool = False) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()
        self._fails = fails

    async def __call__(self) -> Response:
        self.calls += 1
        number = self.calls
        await self.go.wait()
        if self._fails:
            raise ValueError(f"failure {number}")
        return Response(str(number), 200, {"Trajmon-Shape": "2,2"}, "application/json")


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_one_answer_for_all_who_ask_at_once() -> None:
    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        make.go.clear()
        asked = [asyncio.create_task(answers.get("r", "map", 3, 3, make)) for _ in range(20)]
        await asyncio.sleep(0)
        make.go.set()
        told = await asyncio.gather(*asked)
        assert make.calls == 1
        assert {answer.body for answer in told} == {b"1"}
        assert len({id(answer) for answer in told}) == 20
        assert told[0].headers["trajmon-shape"] == "2,2"
        assert told[0].headers["content-length"] == "1"
        assert told[0].headers["content-type"] == "application/json"
        assert (await answers.get("r", "map", 3, 4, make)).body == b"1"
        assert (await answers.get("r", "other", 3, 4, make)).body == b"2"
        assert (await answers.get("another", "map", 3, 4, make)).body == b"3"

    run(work)


def test_none_is_older_than_its_version() -> None:
    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        assert (await answers.get("r", "map", 3, 3, make)).body == b"1"
        assert (await answers.get("r", "map", 4, 4, make)).body == b"2"
        # A page that is behind gets the newer one.
        assert (await answers.get("r", "map", 3, 4, make)).body == b"2"
        answers.forget("r")
        assert (await answers.get("r", "map", 1, 1, make)).body == b"3"
        assert answers.held_bytes == 1

    run(work)


@pytest.mark.parametrize("version", [5, 2**53 - 1])
def test_one_that_was_never_told_is_an_answer_of_now_and_is_not_kept(version: int) -> None:
    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        assert (await answers.get("r", "map", 4, 4, make)).body == b"1"
        assert (await answers.get("r", "map", version, 4, make)).body == b"2"
        assert (await answers.get("r", "map", version, 4, make)).body == b"3"
        # Nor does it take the place of what others share.
        assert (await answers.get("r", "map", 4, 4, make)).body == b"1"
        assert answers.held_bytes == 1

    run(work)


def test_none_is_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "KEPT_SECONDS", 0.05)

    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        make.go.clear()
        waiting = asyncio.create_task(answers.get("r", "map", 1, 1, make))
        # Its time begins when it is whole.
        await asyncio.sleep(0.2)
        also = asyncio.create_task(answers.get("r", "map", 1, 1, make))
        await asyncio.sleep(0)
        make.go.set()
        assert (await waiting).body == (await also).body == b"1"
        assert answers.held_bytes == 1
        async with asyncio.timeout(20):
            while answers.held_bytes:
                await asyncio.sleep(0.01)
        # No event has come since, and yet it is a new one.
        assert (await answers.get("r", "map", 1, 1, make)).body == b"2"

    run(work)


def test_a_failure_reaches_all_and_is_not_kept() -> None:
    async def work() -> None:
        answers, make = SharedAnswers(), Maker(fails=True)
        make.go.clear()
        asked = [asyncio.create_task(answers.get("r", "map", 1, 1, make)) for _ in range(3)]
        await asyncio.sleep(0)
        make.go.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(error) for error in told] == ["failure 1"] * 3
        with pytest.raises(ValueError, match="failure 2"):
            await answers.get("r", "map", 1, 1, make)

    run(work)


def test_who_leaves_does_not_take_the_answer_along() -> None:
    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        make.go.clear()
        leaving, staying = (asyncio.create_task(answers.get("r", "map", 1, 1, make)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        make.go.set()
        assert (await staying).body == b"1"
        assert make.calls == 1

    run(work)


def test_the_oldest_go_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST_BYTES", 25)

    async def work() -> None:
        answers, made = SharedAnswers(), []

        def make(key: str) -> Callable[[], Awaitable[Response]]:
            async def answer() -> Response:
                made.append(key)
                return Response(b"x" * 10)

            return answer

        for key in ("a", "b", "a", "c", "a", "b"):
            await answers.get("r", key, 1, 1, make(key))
        # "b" made room for "c": "a" was asked for since.
        assert made == ["a", "b", "c", "b"]

    run(work)


def test_a_newer_answer_takes_the_place_of_the_older(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        answers, old, new = SharedAnswers(), Maker(), Maker()
        old.go.clear()
        first = asyncio.create_task(answers.get("r", "map", 1, 1, old))
        await asyncio.sleep(0)
        await answers.get("r", "map", 2, 2, new)
        old.go.set()
        await first
        # The older one was whole after the newer one; it is not kept all the same.
        await asyncio.sleep(0)
        assert answers.held_bytes == 1
        assert (await answers.get("r", "map", 2, 2, new)).body == b"1"
        assert new.calls == 1

    run(work)


def test_many_small_ones_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST_KEPT", 3)

    async def work() -> None:
        answers, make = SharedAnswers(), Maker()
        for key in range(50):
            await answers.get("r", f"size={key}", 1, 1, make)
        assert answers.held_bytes == sum(len(str(call)) for call in (48, 49, 50))
        assert (await answers.get("r", "size=49", 1, 1, make)).body == b"50"

    run(work)


def test_who_asks_for_more_than_can_be_under_way_is_answered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST_UNDER_WAY", 2)

    async def work() -> None:
        answers, slow, make = SharedAnswers(), Maker(), Maker()
        slow.go.clear()
        gone = [asyncio.create_task(answers.get("r", str(key), 1, 1, slow)) for key in range(2)]
        await asyncio.sleep(0)
        # They leave at once; what they asked for is made to its end, and counts until then.
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        for _ in range(3):
            await answers.get("r", "another", 1, 1, make)
        assert (slow.calls, make.calls) == (2, 3)
        slow.go.set()
        await answers.get("r", "0", 1, 1, make)
        await answers.get("r", "1", 1, 1, make)
        await answers.get("r", "another", 1, 1, make)
        await answers.get("r", "another", 1, 1, make)
        assert (slow.calls, make.calls) == (2, 4)

    run(work)


def test_what_is_too_large_to_keep_is_made_for_each_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST_BYTES", 25)

    async def work() -> None:
        answers = SharedAnswers()
        taken: list[int] = []

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                taken.append(answers.held_bytes)
                yield b"x" * 10

        async def make() -> Response:
            return Pieces(pieces(), media_type="text/plain")

        small = Maker()
        await answers.get("r", "small", 1, 1, small)
        told = [await answers.get("r", "large", 1, 1, make) for _ in range(2)]
        assert [type(answer) for answer in told] == [Pieces, Pieces]
        # It was given up as soon as it did not fit, and is not tried again for the second.
        assert taken == [1, 11, 21]
        assert answers.held_bytes == 0
        body = b"".join([piece async for piece in cast("Pieces", told[0]).body_iterator])  # type: ignore[misc]
        assert body == b"x" * 100

        async def plain() -> Response:
            return Response(b"y" * 26)

        assert (await answers.get("r", "plain", 1, 1, plain)).body == b"y" * 26
        assert answers.held_bytes == 0

    run(work)


def test_what_a_failure_held_is_given_back() -> None:
    async def work() -> None:
        answers = SharedAnswers()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * 10
            raise OSError("broken")

        async def make() -> Response:
            return Pieces(pieces(), media_type="text/plain")

        with pytest.raises(OSError, match="broken"):
            await answers.get("r", "large", 1, 1, make)
        await asyncio.sleep(0)
        assert answers.held_bytes == 0

    run(work)


def test_pieces_come_as_one() -> None:
    async def work() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        async def make() -> Response:
            return Pieces(pieces(), media_type="text/plain", headers={"Trajmon-Reduced": "9->3"})

        answer = await SharedAnswers().get("r", "curves", 1, 1, make)
        assert answer.body == b"one two"
        assert answer.headers["content-length"] == "7"
        assert answer.headers["trajmon-reduced"] == "9->3"

    run(work)
