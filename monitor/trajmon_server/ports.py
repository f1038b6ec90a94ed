"""The server's ports, and where it says which they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import uvicorn
from starlette.types import ASGIApp

from trajmon_server.config import Address
from trajmon_server.errors import ConfigError, reason_of
from trajmon_server.strict_transport import StrictTransport
from trajmon_server.tls import ServerTls
from trajmon_server.web.backend import Backend

__all__ = ["announced", "listen", "served_http", "written"]


def written(host: str) -> str:
    """A host as it stands before a colon and a port.

    >>> written("::1")
    '[::1]'
    """
    return f"[{host}]" if ":" in host else host


def listen(server: grpc.aio.Server, address: Address, tls: ServerTls | None) -> int:
    """Bind the gRPC port; returns it."""
    try:
        # gRPC itself does not say what is wrong.
        socket.create_server(
            (address.host, address.port), family=socket.AF_INET6 if ":" in address.host else socket.AF_INET
        ).close()
        if tls is None:
            return server.add_insecure_port(str(address))
        return server.add_secure_port(str(address), tls.grpc_credentials())
    except (OSError, RuntimeError) as error:
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"gRPC address {address}: {why}; give another with --grpc") from error


@contextlib.asynccontextmanager
async def served_http(
    address: Address, app: ASGIApp, backend: Backend, stop_seconds: float, tls: ServerTls | None
) -> AsyncIterator[str]:
    """Serve HTTP on the same loop; yields where."""
    try:
        listener = socket.create_server((address.host, address.port), reuse_port=False)
    except OSError as error:
        raise ConfigError(f"HTTP address {address}: {reason_of(error)}; give another with --http") from error
    # Taken over by every connection. Else an answer's body waits 40 ms for the caller to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app if tls is None else StrictTransport(app),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        # A browser holds up to six connections for each page that is open.
        limit_concurrency=1024,
        # A caller that never takes its answer must not hold up the stop.
        timeout_graceful_shutdown=math.ceil(stop_seconds),
    )
    config.load()
    config.ssl = None if tls is None else tls.http_context()
    server = _Uvicorn(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        yield f"{written(address.host)}:{listener.getsockname()[1]}"
    finally:
        backend.close()
        server.should_exit = True
        await task
        listener.close()


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever owns the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


@contextlib.contextmanager
def announced(path: Path, addresses: Mapping[str, object]) -> Iterator[None]:
    """Tell local clients where the server listens."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps({**addresses, "pid": os.getpid()}))
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(
            f"announce file {path}: {reason_of(error)}; give another with announce_file"
        ) from error
    try:
        yield
    finally:
        # Another server may have announced itself since.
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()).get("pid") == os.getpid():
                path.unlink()
