"""The port that Prometheus scrapes: own threads, so that the event loop never waits for it."""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Any

import structlog

from trajmon_server.config import Address
from trajmon_server.errors import ConfigError, reason_of

__all__ = ["Endpoint", "accepts_gzip", "wants_open_metrics"]

log = structlog.get_logger(__name__)

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MOST_AT_ONCE = 16
"""Answers under way: each holds a page."""
SILENCE_SECONDS = 10.0
"""A caller that neither asks nor reads for so long is left."""


def _weights(header: str) -> dict[str, float]:
    """What a header like Accept names, and how much it is wanted; parameters other than `q` are part of the name.

    >>> _weights("text/plain;version=0.0.4;q=0.5, gzip")
    {'text/plain;version=0.0.4': 0.5, 'gzip': 1.0}
    """
    found: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = [part.strip().lower() for part in entry.split(";")]
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
            elif key == "version":
                name = f"{name};{parameter}"
        if name:
            found[name] = max(weight, found.get(name, 0.0))
    return found


def wants_open_metrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0.0 is asked for, and not less than plain text.

    >>> wants_open_metrics("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    True
    >>> wants_open_metrics("text/plain;version=0.0.4")
    False
    """
    weights = _weights(accept)
    wanted = max(
        weights.get("application/openmetrics-text;version=1.0.0", 0.0),
        weights.get("application/openmetrics-text", 0.0),
    )
    plain = max(weights.get("text/plain;version=0.0.4", 0.0), weights.get("text/plain", 0.0))
    return wanted > 0.0 and wanted >= plain


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an answer may be compressed."""
    weights = _weights(accept_encoding)
    return weights.get("gzip", weights.get("*", 0.0)) > 0.0


def _gzip(pieces: Sequence[bytes]) -> list[bytes]:
    # Level 1: a page is read once, and numbers do not shrink much further. Other threads run meanwhile.
    packer = zlib.compressobj(level=1, wbits=31)
    return [*(packer.compress(piece) for piece in pieces), packer.flush()]


class Endpoint:
    """``/metrics`` over HTTP, or HTTPS. `page` makes it, as OpenMetrics if so told, from any thread."""

    def __init__(
        self,
        address: Address,
        page: Callable[[bool], Sequence[bytes]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Listen; raises ConfigError if the port is taken."""
        try:
            self._server = _Server(address, page, context)
        except OSError as error:
            raise ConfigError(
                f"metrics address {address}: {reason_of(error)}; give another with --metrics"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Close the port and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: Address, page: Callable[[bool], Sequence[bytes]], context: ssl.SSLContext | None
    ) -> None:
        self.address_family = AF_INET6 if ":" in address.host else AF_INET
        self.page = page
        self.context = context
        self.places = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the name service for this machine's name, which may take long.
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. The handshake is the first read's, in the answer's thread: a silent caller holds nobody up."""
        request, client_address = super().get_request()
        if self.context is not None:
            request.settimeout(SILENCE_SECONDS)
            request = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        return request, client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close at once if there are too many."""
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong; a caller that left, or speaks no TLS, is nothing wrong."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
            log.error("scrape failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENCE_SECONDS
    # One answer a connection.
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """The page, or where it is."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", [b"metrics are at /metrics\n"])
            return
        is_open_metrics = wants_open_metrics(self.headers.get("Accept", ""))
        pieces = self.server.page(is_open_metrics)
        encoding = None
        if accepts_gzip(self.headers.get("Accept-Encoding", "")):
            pieces, encoding = _gzip(pieces), "gzip"
        self._answer(HTTPStatus.OK, OPEN_METRICS if is_open_metrics else PLAIN, pieces, encoding)

    def do_HEAD(self) -> None:
        """The same without the page."""
        self.do_GET()

    def _answer(
        self, status: HTTPStatus, kind: str, pieces: Sequence[bytes], encoding: str | None = None
    ) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Vary", "Accept, Accept-Encoding")
        if encoding is not None:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if self.command != "HEAD":
            for piece in pieces:
                self.wfile.write(piece)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing: scrapes come all the time."""
