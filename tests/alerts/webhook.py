"""A receiver of Alertmanager's webhook, on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["Notice", "Webhook"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a message said of one alert."""

    alert: str
    status: str
    """`firing` or `resolved`."""
    labels: dict[str, str]
    annotations: dict[str, str]
    path: str
    """Where the message went: the receiver's address."""
    unix_seconds: float
    """When it came."""


class Webhook:
    """Listens on a free port and keeps every notice, oldest first. A context manager."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []
        self._came = threading.Condition()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                webhook._take(self.path, body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True)

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def notices(self) -> list[Notice]:
        """All that came so far."""
        with self._came:
            return list(self._notices)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def find(self, alert: str, status: str, run: str | None = None) -> Notice | None:
        """The first notice that says so."""
        return next((notice for notice in self.notices if _is(notice, alert, status, run)), None)

    def wait(self, alert: str, status: str, run: str | None = None, *, seconds: float) -> Notice:
        """The first notice that says so, once it is there; AssertionError with what came instead."""

        def is_there() -> bool:
            return any(_is(notice, alert, status, run) for notice in self._notices)

        with self._came:
            self._came.wait_for(is_there, seconds)
            came = [(notice.alert, notice.status, notice.labels.get("run")) for notice in self._notices]
        found = self.find(alert, status, run)
        assert found is not None, (
            f"no {alert} {status} for run {run} within {seconds:.0f} s; there came {came}"
        )
        return found

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> None:
        """Until something holds, at most so long; looked at whenever a notice comes, and twice a second."""
        deadline = time.monotonic() + seconds
        while not is_done() and time.monotonic() < deadline:
            with self._came:
                self._came.wait(0.5)

    def _take(self, path: str, body: dict[str, Any]) -> None:
        now = time.time()
        with self._came:
            for alert in body["alerts"]:
                name = alert["labels"]["alertname"]
                self._notices.append(
                    Notice(name, alert["status"], alert["labels"], alert["annotations"], path, now)
                )
            self._came.notify_all()


def _is(notice: Notice, alert: str, status: str, run: str | None) -> bool:
    return (
        notice.alert == alert and notice.status == status and (run is None or notice.labels.get("run") == run)
    )
