"""Server-sent events: what a page that is open hears."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from support.calls import open_run, push, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.web.feed import MOST_LISTENERS


@contextlib.contextmanager
def listening(address: str, token: str, run: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", f"/api/v1/runs/{run}/events", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    try:
        yield _events(answer)
    finally:
        answer.close()
        connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    for line in answer:
        text = line.decode().rstrip("\n")
        if not text:
            if "data" in fields:
                data = json.loads(fields["data"])
                if "checkpoint" in data:
                    assert fields["id"] == str(data["checkpoint"])
                yield fields["event"], data
            fields = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(": ")
            assert name in ("event", "id", "data", "retry")
            fields[name] = value


def test_a_live_run(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("live", num_checkpoints=30)
    web = Web(server.addresses["http"], server.token)
    epoch = push_all(client, run, 3)
    web.json("/api/v1/runs/live/map")
    with listening(web.address, server.token, "live") as events:
        kind, data = next(events)
        assert (kind, data["checkpoint"], data["step"], data["checkpoints"]) == ("checkpoint", 2, 20, 3)
        told = web.json("/api/v1/runs/live")
        assert data["hallmarks"] == told["hallmarks"]["network"]
        assert data["advice"] == told["advice"]
        for checkpoint in range(3, 30):
            push(client, run, epoch, run.record(checkpoint))
        seen: list[int] = []
        while not seen or seen[-1] < 29:
            kind, data = next(events)
            assert kind == "checkpoint"
            seen.append(data["checkpoint"])
        assert seen == sorted(set(seen))
        assert data["hallmarks"]["mds"] == web.json("/api/v1/runs/live")["mds"]
        report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
        kind, data = next(events)
        assert (kind, data["phase"], data["checkpoint"]) == ("state", "finished", 29)


def test_a_run_before_its_first_checkpoint(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("early", num_checkpoints=1)
    epoch = open_run(client, run).writer_epoch
    with listening(server.addresses["http"], server.token, "early") as events:
        kind, data = next(events)
        assert (kind, data["checkpoints"]) == ("state", 0)
        assert "checkpoint" not in data
        push(client, run, epoch, run.record(0))
        while data.get("checkpoint") != 0:
            kind, data = next(events)
        assert kind == "checkpoint"


def test_listeners_end_with_the_server(server: ServerProcess, client: Client) -> None:
    push_all(client, SyntheticRun("ending", num_checkpoints=2))
    with listening(server.addresses["http"], server.token, "ending") as events:
        next(events)
        assert server.stop() == 0
        for _ in events:  # what was on its way, and then the end
            pass
    assert "Traceback" not in server.log


def test_listeners_are_bounded_and_give_their_places_back(server: ServerProcess, client: Client) -> None:
    push_all(client, SyntheticRun("bounded", num_checkpoints=2))
    web = Web(server.addresses["http"], server.token)
    web.json("/api/v1/runs/bounded/map")
    host, _, port = web.address.partition(":")
    request = (
        f"GET /api/v1/runs/bounded/events HTTP/1.1\r\nHost: {web.address}\r\n"
        f"Authorization: Bearer {server.token}\r\n\r\n"
    ).encode()
    sockets = []
    try:
        for _ in range(MOST_LISTENERS):
            sockets.append(socket.create_connection((host, int(port)), timeout=30))
            sockets[-1].sendall(request)
        for one in sockets:
            assert one.recv(12).endswith(b" 200")
        refused = web.get("/api/v1/runs/bounded/events")
        assert (refused.status, refused.reason) == (429, "TOO_MANY_LISTENERS")
        assert int(refused.headers["retry-after"]) > 0
        # Reading goes on.
        assert web.get("/api/v1/runs/bounded/map").status == 200
    finally:
        for one in sockets:
            one.close()
    deadline = time.monotonic() + 30
    while web.get("/api/v1/runs/bounded/events", "HEAD").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_page_that_is_open_keeps_a_local_server_alive(server: ServerProcess, client: Client) -> None:
    push_all(client, SyntheticRun("kept", num_checkpoints=1))
    server.stop()
    server.environment["TRAJMON_SERVER_EXIT_WHEN_IDLE_SECONDS"] = "0.5"
    server.start()
    assert server.process is not None
    with listening(server.addresses["http"], server.token, "kept") as events:
        next(events)
        time.sleep(1.5)
        assert server.process.poll() is None
    assert server.process.wait(30) == 0


def test_what_pages_ask_about_an_event_is_as_new_as_it(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("shared", num_checkpoints=20)
    web = Web(server.addresses["http"], server.token)
    epoch = push_all(client, run, 3)
    web.json("/api/v1/runs/shared/map")
    base = "/api/v1/runs/shared"
    paths = [
        f"{base}?",
        f"{base}/map?",
        f"{base}/hallmarks?max_points=8&",
        f"{base}/layers?",
        f"{base}/spectrum?",
    ]
    with listening(web.address, server.token, "shared") as events:
        versions: list[int] = []
        _, data = next(events)
        for checkpoint in range(3, 20):
            push(client, run, epoch, run.record(checkpoint))
            while data["checkpoint"] < checkpoint:
                _, data = next(events)
            versions.append(data["version"])
            for path in paths:
                told = web.get(f"{path}version={data['version']}")
                assert told.status == 200
                # Nothing has come since: it is what is told without a version, and what is told the second time.
                assert told.body == web.get(path).body, path
                again = web.get(f"{path}version={data['version']}")
                assert (again.body, again.headers["content-type"]) == (
                    told.body,
                    told.headers["content-type"],
                )
        assert versions == sorted(set(versions))
    # Nobody listens: a version says nothing.
    assert web.get(f"{base}/map?version=1").body == web.get(f"{base}/map").body


def test_versions_of_runs_of_others_and_bad_ones(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("versions")
    push_all(client, run, 3)
    web = Web(server.addresses["http"], server.token)
    with listening(web.address, server.token, "versions") as events:
        next(events)
        assert web.get("/api/v1/runs/versions/map?version=1").status == 200
        stranger = Web(web.address, "no-token-at-all")
        assert stranger.get("/api/v1/runs/versions/map?version=1").reason == "UNAUTHENTICATED"
        bad = web.get("/api/v1/runs/versions/map?version=-1")
        assert (bad.status, bad.reason) == (400, "INVALID_REQUEST")
        missing = web.get("/api/v1/runs/versions/map?scope=group:none&version=1")
        assert (missing.status, missing.reason) == (404, "NO_SUCH_SCOPE")
        assert web.get("/api/v1/runs/versions/map?version=1", "HEAD").body == b""
