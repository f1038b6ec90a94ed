"""Before the journal has been read, and when something breaks: what the application says then."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from trajmon_server.auth import Authenticator
from trajmon_server.rpc.activity import Activity
from trajmon_server.web.app import make_app
from trajmon_server.web.backend import Backend
from trajmon_server.web.gate import Gate
from trajmon_server.web.sessions import Sessions

TOKEN = "token-of-this-test"


def made(backend: Backend | None = None, why: str = "the journal is being read") -> Gate:
    return make_app(
        why_not_ready=lambda: why,
        version="1.2",
        allowed_hosts=["here"],
        authenticator=Authenticator(TOKEN),
        sessions=Sessions(TOKEN),
        activity=Activity(),
        backend=backend or Backend(),
    )


def get(
    app: Gate, path: str, *, token: str | None = TOKEN, kind: str = "http"
) -> tuple[int, dict[str, str], bytes]:
    """One request without a server around it."""
    headers = [(b"host", b"here:80")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    scope = {
        "type": kind,
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "http_version": "1.1",
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers_sent = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers_sent, b"".join(part.get("body", b"") for part in sent[1:])


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/openapi.json", "/api/v1/runs/x/events"])
def test_the_api_says_that_it_is_not_ready_yet(path: str) -> None:
    status, headers, body = get(made(), path)
    told = json.loads(body)
    assert (status, told["reason"], headers["retry-after"]) == (503, "NOT_READY", "2")
    assert told["detail"] == "the server is starting: the journal is being read"


def test_a_page_says_it_in_words() -> None:
    status, headers, body = get(made(), "/runs/x")
    assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert b"The server is starting: the journal is being read." in body


def test_strangers_learn_nothing_of_it() -> None:
    for path in ("/api/v1/runs", "/", "/static/x"):
        status, _, body = get(made(), path, token=None)
        assert status == 401
        assert b"journal" not in body


def test_life_and_readiness_are_told_all_the_while() -> None:
    assert json.loads(get(made(), "/healthz", token=None)[2]) == {"status": "ok", "version": "1.2"}
    status, _, body = get(made(), "/readyz", token=None)
    assert (status, json.loads(body)["reason"]) == (503, "the journal is being read")


def test_a_fault_is_an_incident_and_not_told_to_the_caller() -> None:
    class Broken(Backend):
        @property
        def is_open(self) -> bool:
            return True

        @property
        def readers(self) -> Any:
            raise RuntimeError("secret of the inside")

    app = made(Broken())
    status, headers, body = get(app, "/api/v1/runs")
    told = json.loads(body)
    assert (status, told["reason"]) == (500, "INTERNAL")
    assert "incident" in told["detail"]
    assert "secret" not in body.decode()
    assert "content-security-policy" in headers


def test_only_http_is_served() -> None:
    with pytest.raises(ValueError, match="websocket is not served"):
        get(made(), "/", kind="websocket")
