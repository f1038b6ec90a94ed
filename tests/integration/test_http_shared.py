"""Answers that are made once for many: for those alone who may read the run, and never older than what was told."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from integration.conftest import TOKENS
from integration.test_http_events import listening
from support.calls import get_map, open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketched_rows import SketchedRun
from support.web import Web, read_float32
from trajmon_server.web.table import ENDPOINTS

NAME = "of-the-same-name"
FORMATS = {"getMap": ("json", "f32", "npz", "svg"), "getHallmarks": ("json", "csv", "arrow")}
SHARED = [one for one in ENDPOINTS if any(known.name == "version" for known in one.parameters)]
QUESTIONS = [
    one.path.replace("{run}", "RUN") + f"?format={form}" * bool(form)
    for one in SHARED
    for form in FORMATS.get(one.name, ("",))
]


def ask(web: Web, question: str, run: str, version: int | str | None = None) -> Any:
    sign = "&" if "?" in question else "?"
    path = question.replace("RUN", run)
    return web.get(path if version is None else f"{path}{sign}version={version}")


def token_of(client: Client) -> str:
    return str(client.metadata[0][1]).removeprefix("Bearer ")


@pytest.fixture
def other_client(shared_server: ServerProcess) -> Iterator[Client]:
    """Another team's."""
    with Client(shared_server.addresses["grpc"], TOKENS[-1]) as client:
        yield client


def test_what_is_shared_follows_from_run_and_query_alone() -> None:
    """The key of an answer holds these two, and nothing else of the request."""
    assert {one.name for one in SHARED} == {
        "getRun",
        "getMap",
        "getHallmarks",
        "getLayers",
        "getSpectrum",
        "getNull",
    }
    for endpoint in SHARED:
        assert endpoint.path.count("{") == 1
        assert "{run}" in endpoint.path


def test_answers_of_one_team_never_reach_another(
    shared_server: ServerProcess, team_client: Client, other_client: Client
) -> None:
    address = shared_server.addresses["http"]
    webs, runs, truths = [], [], []
    for seed, client in enumerate((team_client, other_client)):
        runs.append(SyntheticRun(NAME, seed=seed, num_checkpoints=5 + seed))
        push_all(client, runs[-1])
        webs.append(Web(address, token_of(client)))
        webs[-1].json(f"/api/v1/runs/{NAME}/map")  # from here on, all rows are looked at
        truths.append([ask(webs[-1], question, NAME).body for question in QUESTIONS])
    assert all(own != foreign for own, foreign in zip(*truths, strict=True))
    with contextlib.ExitStack() as held:
        for web in webs:
            assert web.token is not None
            next(held.enter_context(listening(address, web.token, NAME)))

        def visit(turn: int) -> None:
            team = turn % 2
            own, foreign = runs[team].run_id, runs[1 - team].run_id
            for question, truth in zip(QUESTIONS, truths[team], strict=True):
                for name in (NAME, own):
                    for version in (0, 1):
                        told = ask(webs[team], question, name, version)
                        assert told.status == 200
                        assert told.body == truth, (question, name)
                # It lies there for its own team, and is not there for this one.
                refused = ask(webs[team], question, foreign, 1)
                assert (refused.status, refused.reason) == (404, "NO_SUCH_RUN")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(visit, range(8)))
        for question in QUESTIONS:
            for stranger in (Web(address), Web(address, "no-token-of-anybody")):
                assert ask(stranger, question, NAME, 1).status == 401


def test_headers_and_cookies_change_nothing(shared_server: ServerProcess, team_client: Client) -> None:
    web = Web(shared_server.addresses["http"], token_of(team_client))
    push_all(team_client, SyntheticRun(NAME))
    web.json(f"/api/v1/runs/{NAME}/map")
    cookie = web.get(f"/?token={web.token}").headers["set-cookie"].partition(";")[0]
    with listening(web.address, token_of(team_client), NAME) as events:
        next(events)
        for question in QUESTIONS:
            told = ask(web, question, NAME, 1)
            path = question.replace("RUN", NAME) + ("&" if "?" in question else "?") + "version=1"
            others = [
                Web(web.address).get(path, Cookie=cookie),
                web.get(path, Range="bytes=0-3", Accept="text/html", Accept_Encoding="gzip"),
            ]
            for answer in others:
                assert (answer.status, answer.body) == (200, told.body)
                assert answer.headers["content-type"] == told.headers["content-type"]
                assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("version", [1000, 2**53 - 1])
def test_a_version_that_was_never_told_is_an_answer_of_now(
    server: ServerProcess, client: Client, version: int
) -> None:
    run = SyntheticRun("future", num_checkpoints=6)
    web = Web(server.addresses["http"], server.token)
    epoch = push_all(client, run, 3)
    with listening(web.address, server.token, "future") as events:
        next(events)
        for checkpoint in range(3, 6):
            told = ask(web, "/api/v1/runs/RUN/map", "future", version)
            assert told.json["checkpoint"] == list(range(checkpoint))
            push(client, run, epoch, run.record(checkpoint))
        assert ask(web, "/api/v1/runs/RUN/map", "future", version).json["checkpoint"] == list(range(6))


@pytest.mark.parametrize("version", ["-1", "1e9", "99999999999999999999", str(2**53), "٣", "", "1&version=2"])
def test_what_is_no_version(shared_server: ServerProcess, team_client: Client, version: str) -> None:
    push_all(team_client, SyntheticRun(NAME, num_checkpoints=2))
    web = Web(shared_server.addresses["http"], token_of(team_client))
    quoted = "".join(f"%{byte:02x}" if byte > 127 else chr(byte) for byte in version.encode())
    with listening(web.address, token_of(team_client), NAME) as events:
        next(events)
        for question in QUESTIONS:
            answer = ask(web, question, NAME, quoted)
            assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
            assert answer.json["violations"][0]["field"] == "version"


def test_callers_who_ask_and_leave(server: ServerProcess, client: Client) -> None:
    """Each asks for something that nobody else does: the server goes on, and what it holds is bounded."""
    run = SyntheticRun("left", num_checkpoints=40)
    push_all(client, run)
    web = Web(server.addresses["http"], server.token)
    host, _, port = web.address.partition(":")
    whole = web.get("/api/v1/runs/left/hallmarks").body
    with listening(web.address, server.token, "left") as events:
        next(events)
        for points in range(2, 402):
            with socket.create_connection((host, int(port)), timeout=30) as asking:
                asking.sendall(
                    f"GET /api/v1/runs/left/hallmarks?max_points={points}&version=1 HTTP/1.1\r\nHost: {web.address}"
                    f"\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
                )
        told = web.get("/api/v1/runs/left/hallmarks?max_points=401&version=1")
        assert told.body == whole
        assert len(web.json("/api/v1/runs/left/hallmarks?max_points=10&version=1")["checkpoint"]) <= 11


def test_a_row_that_takes_the_place_of_its_sketch_is_told(server: ServerProcess, client: Client) -> None:
    """No checkpoint more, and yet a better map: an event says so, and no answer is from before it."""
    run = SketchedRun("early", num_checkpoints=6, layer_size=200, kept=lambda newest, earlier: True)
    web = Web(server.addresses["http"], server.token)
    epoch = open_run(client, run).writer_epoch
    for checkpoint in range(5):
        push(client, run, epoch, run.sketch_record(checkpoint))
        push(client, run, epoch, run.record(checkpoint))
    with listening(web.address, server.token, "early") as events:
        _, data = next(events)
        push(client, run, epoch, run.sketch_record(5))
        while data["checkpoint"] < 5:
            kind, data = next(events)
        assert kind == "checkpoint"
        question = "/api/v1/runs/RUN/map?format=f32"
        head, (shown, error) = read_float32(ask(web, question, "early", data["version"]).body)
        assert error.max() > 0
        before, count = data["revision"], data["checkpoints"]
        push(client, run, epoch, run.record(5))
        while head["has_error"]:
            kind, data = next(events)
            assert (data["checkpoint"], data["checkpoints"]) == (5, count)
            assert data["version"] > 1
            answer = ask(web, question, "early", data["version"]).body
            head, (shown, *_) = read_float32(answer)
        assert data["revision"] != before
        np.testing.assert_allclose(shown, get_map(client, "early")["map"], rtol=0, atol=6e-8)
