"""The HTTP application: whether the server lives and is ready, the API, and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from trajmon_server.auth import Authenticator
from trajmon_server.rpc.activity import Activity
from trajmon_server.web.backend import Backend
from trajmon_server.web.endpoints import route_of
from trajmon_server.web.gate import Gate
from trajmon_server.web.pages import page_routes
from trajmon_server.web.problems import is_api, page, problem
from trajmon_server.web.sessions import Sessions
from trajmon_server.web.table import ENDPOINTS

__all__ = ["all_routes", "make_app"]


def all_routes(why_not_ready: Callable[[], str], version: str, backend: Backend) -> list[BaseRoute]:
    """Every route there is. `/healthz` answers while the process lives, `/readyz` while rows are taken."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": version})

    async def readyz(request: Request) -> Response:
        why = why_not_ready()
        if why:
            return JSONResponse({"ready": False, "reason": why}, status_code=503)
        return JSONResponse({"ready": True})

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        *(route_of(endpoint, backend) for endpoint in ENDPOINTS),
        *page_routes(backend),
    ]


def make_app(
    *,
    why_not_ready: Callable[[], str],
    version: str,
    allowed_hosts: Iterable[str],
    authenticator: Authenticator,
    sessions: Sessions,
    activity: Activity,
    backend: Backend,
) -> Gate:
    """Everything behind one gate: no route is reached without a token but `/healthz` and `/readyz`."""
    # Not a Starlette application: its own handling of errors would answer before the gate hears of them.
    inner = Router(all_routes(why_not_ready, version, backend), redirect_slashes=False, default=_no_route)

    def why_closed() -> str:
        return "" if backend.is_open else why_not_ready() or "the journal is being read"

    return Gate(
        inner,
        authenticator=authenticator,
        sessions=sessions,
        allowed_hosts=frozenset(host.lower() for host in allowed_hosts),
        activity=activity,
        why_closed=why_closed,
    )


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    if is_api(scope["path"]):
        detail = "nothing is served at this path; see /api/v1/openapi.json"
        answer = problem(404, "NO_SUCH_PATH", detail)
    else:
        answer = page(404, "Nothing is served at this address.", link="/")
    await answer(scope, receive, send)
