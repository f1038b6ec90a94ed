"""The port that is scraped: formats, compression, and callers that mean no good."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from trajmon_server.config import Address
from trajmon_server.errors import ConfigError
from trajmon_server.export.endpoint import MOST_AT_ONCE, Endpoint, accepts_gzip, wants_open_metrics

PLAIN = b"trajmon_plain 1.0\n"
OPEN = b"trajmon_open 1.0\n# EOF\n"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def page(is_open_metrics: bool) -> list[bytes]:
    text = OPEN if is_open_metrics else PLAIN
    return [text[:5], text[5:]]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    started = Endpoint(Address(host="127.0.0.1", port=0), page)
    yield started
    started.close()


def ask(
    endpoint: Endpoint, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=20)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("accept", "is_open_metrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("text/plain;version=0.0.4", False),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=1.0.0;q=0", False),
        ("application/openmetrics-text;version=1.0.0;q=0.1,text/plain;q=0.9", False),
        ("application/openmetrics-text;version=1.0.0;q=bad", False),
        (";;,,;q=,", False),
    ],
)
def test_formats(endpoint: Endpoint, accept: str, is_open_metrics: bool) -> None:
    assert wants_open_metrics(accept) is is_open_metrics
    answer, body = ask(endpoint, Accept=accept)
    kind = (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if is_open_metrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert body == (OPEN if is_open_metrics else PLAIN)
    assert answer.headers["Content-Encoding"] is None


@pytest.mark.parametrize(
    ("encoding", "is_packed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br, zstd", False),
    ],
)
def test_compression(endpoint: Endpoint, encoding: str, is_packed: bool) -> None:
    assert accepts_gzip(encoding) is is_packed
    answer, body = ask(endpoint, Accept_Encoding=encoding)
    assert answer.headers["Content-Encoding"] == ("gzip" if is_packed else None)
    assert (gzip.decompress(body) if is_packed else body) == PLAIN
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"


def test_head_has_no_body(endpoint: Endpoint) -> None:
    answer, body = ask(endpoint, method="HEAD")
    assert (answer.status, body, answer.headers["Content-Length"]) == (200, b"", str(len(PLAIN)))


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/../metrics", "/metrics%00"])
def test_other_paths(endpoint: Endpoint, path: str) -> None:
    answer, body = ask(endpoint, path)
    assert (answer.status, body) == (404, b"metrics are at /metrics\n")


def test_parameters_change_nothing(endpoint: Endpoint) -> None:
    assert ask(endpoint, "/metrics?name[]=x")[1] == PLAIN


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(endpoint: Endpoint, method: str) -> None:
    assert ask(endpoint, method=method)[0].status == 501
    assert ask(endpoint)[1] == PLAIN


@pytest.mark.parametrize(
    "junk", [b"\r\n", b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET /metrics HTTP/9\r\n\r\n"]
)
def test_junk(endpoint: Endpoint, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=20) as caller:
        caller.sendall(junk)
        caller.shutdown(socket.SHUT_WR)
        caller.recv(1000)
    assert ask(endpoint)[1] == PLAIN


def test_silent_callers_hold_up_nobody_else(endpoint: Endpoint) -> None:
    silent = [socket.create_connection(("127.0.0.1", endpoint.port)) for _ in range(MOST_AT_ONCE - 1)]
    try:
        assert ask(endpoint)[1] == PLAIN
    finally:
        for caller in silent:
            caller.close()


def test_more_callers_than_places_are_sent_away() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(is_open_metrics: bool) -> list[bytes]:
        begun.release()
        assert go_on.wait(60)
        return page(is_open_metrics)

    endpoint = Endpoint(Address(host="127.0.0.1", port=0), slow)
    answers: list[bytes] = []
    try:
        callers = [
            threading.Thread(target=lambda: answers.append(ask(endpoint)[1])) for _ in range(MOST_AT_ONCE)
        ]
        for caller in callers:
            caller.start()
        for _ in callers:
            assert begun.acquire(timeout=60)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(endpoint)
        go_on.set()
        for caller in callers:
            caller.join(60)
        assert answers == [PLAIN] * MOST_AT_ONCE
        # The places are free again.
        assert ask(endpoint)[1] == PLAIN
    finally:
        go_on.set()
        endpoint.close()


def test_callers_that_leave_free_their_places() -> None:
    endpoint = Endpoint(Address(host="127.0.0.1", port=0), lambda _: [b"x" * (1 << 20)] * 16)
    answered = 0
    try:
        deadline = time.monotonic() + 60
        # Some may be sent away, until the server has seen that those before them have left.
        while answered < 2 * MOST_AT_ONCE and time.monotonic() < deadline:
            with (
                contextlib.suppress(ConnectionResetError),
                socket.create_connection(("127.0.0.1", endpoint.port), timeout=20) as caller,
            ):
                caller.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                answered += caller.recv(100).startswith(b"HTTP/1.0 200 OK\r\n")
    finally:
        endpoint.close()
    assert answered == 2 * MOST_AT_ONCE


def test_a_page_that_cannot_be_made_is_said() -> None:
    problems = [ValueError("a run that cannot be shown")]

    def once(is_open_metrics: bool) -> list[bytes]:
        if problems:
            raise problems.pop()
        return page(is_open_metrics)

    with capture_logs() as logs:
        endpoint = Endpoint(Address(host="127.0.0.1", port=0), once)
        try:
            with pytest.raises(http.client.RemoteDisconnected):
                ask(endpoint)
            assert ask(endpoint)[1] == PLAIN
        finally:
            endpoint.close()
    (said,) = logs
    assert (said["event"], str(said["exc_info"])) == ("scrape failed", "a run that cannot be shown")


def test_a_taken_port_is_named(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(Address(host="127.0.0.1", port=endpoint.port), page)
    text = f"metrics address 127.0.0.1:{endpoint.port}: Address already in use; give another with --metrics"
    assert str(caught.value) == text


def test_the_sixth_version_of_the_protocol() -> None:
    endpoint = Endpoint(Address(host="::1", port=0), page)
    try:
        connection = http.client.HTTPConnection("::1", endpoint.port, timeout=20)
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == PLAIN
        connection.close()
    finally:
        endpoint.close()


def test_a_closed_endpoint_answers_nobody(endpoint: Endpoint) -> None:
    other = Endpoint(Address(host="127.0.0.1", port=0), page)
    port = other.port
    other.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert ask(endpoint)[1] == PLAIN
