"""Strict-Transport-Security (RFC 6797), where it harms no neighbour."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["StrictTransport"]

_SECONDS = 365 * 86400


class StrictTransport:
    """An ASGI application around another: browsers shall not come back without TLS.

    Said only where the address needs no port number: browsers apply it to every port of the host name, and at another
    port the name is shared with servers that may speak plain HTTP.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        host = next((value for name, value in scope.get("headers", ()) if name == b"host"), b"")
        if scope["type"] != "http" or not _is_whole_name(host):
            await self._app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                value = f"max-age={_SECONDS}"
                MutableHeaders(scope=message)["Strict-Transport-Security"] = value
            await send(message)

        await self._app(scope, receive, strict)


def _is_whole_name(host: bytes) -> bool:
    """Whether a Host header names a host without a port, or with that of https."""
    _, colon, port = host.rpartition(b":")
    return not colon or port == b"443" or port.endswith(b"]")
