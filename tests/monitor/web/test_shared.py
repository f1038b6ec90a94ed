"""Answers that many pages ask for at once: made once for each version, and nobody gets an older one than wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

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
        # One that names an event which was never told, of an earlier life of the server: an answer of now.
        assert (await answers.get("r", "map", 99, 4, make)).body == b"3"
        answers.forget("r")
        assert (await answers.get("r", "map", 1, 1, make)).body == b"4"

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
