"""What stands before every route: headers, Host check, GET and HEAD alone, and who is calling.

There is no way around it: the routes lie behind it as one application, so that a new one is guarded from its first day.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote, urlencode

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trajmon_server.auth import Authenticator, Principal
from trajmon_server.errors import ServiceError
from trajmon_server.rpc.activity import Activity
from trajmon_server.web.problems import failure_problem, is_api, page, problem, status_of
from trajmon_server.web.sessions import COOKIE, SESSION_SECONDS, Sessions

__all__ = ["CONTENT_SECURITY_POLICY", "OPEN_PATHS", "Gate"]

log = structlog.get_logger(__name__)

OPEN_PATHS = ("/healthz", "/readyz")
"""Whoever supervises the server asks here, without a token."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOW_TO_GET_IN = (
    "This is a trajmon server. It answers those who hold its token: send it as `Authorization: Bearer TOKEN`, or open "
    "this address once with ?token=TOKEN behind it. The token is in the file `token` of the server's TRAJMON_HOME."
)


class Gate:
    """An ASGI application around another, which finds the caller in ``scope["state"]["principal"]``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        sessions: Sessions,
        allowed_hosts: frozenset[str],
        activity: Activity,
        why_closed: Callable[[], str],
    ) -> None:
        """`why_closed` says why nothing can be answered yet; empty once it can."""
        self._app = app
        self._authenticator = authenticator
        self._sessions = sessions
        self._allowed_hosts = allowed_hosts
        self._activity = activity
        self._why_closed = why_closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a websocket is refused by saying nothing that it understands."""
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served")
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, guarded)
            return
        with self._activity.call():
            try:
                await self._app(scope, receive, guarded)
            except Exception as error:  # becomes an answer, if there is still room for one
                if started:
                    raise
                await _failed(scope, error)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; else None, and the caller is noted in the scope."""
        path, headers = scope["path"], Headers(scope=scope)
        api = is_api(path)
        if _host(headers.get("host", "")) not in self._allowed_hosts:
            # A page of another site whose name was pointed at this machine must get nothing.
            text = "the Host header names another server"
            return problem(400, "WRONG_HOST", text) if api else page(400, f"{text}.")
        if scope["method"] not in ("GET", "HEAD"):
            detail = f"{scope['method'][:16]!r} is not served; everything here is read only"
            return problem(405, "METHOD_NOT_ALLOWED", detail, headers={"Allow": "GET, HEAD"})
        if path in OPEN_PATHS:
            return None
        login = None if api else self._login(scope)
        if login is not None:
            return login
        principal = self._principal(headers)
        if principal is None:
            if api:
                sent = "authorization" in headers or COOKIE in headers.get("cookie", "")
                what = "the token is not valid" if sent else "no token was sent"
                return problem(401, "UNAUTHENTICATED", f"{what}; send it as `Authorization: Bearer TOKEN`")
            return page(401, _HOW_TO_GET_IN, link=_own_path(scope, without_query=False))
        scope.setdefault("state", {})["principal"] = principal
        closed = self._why_closed()
        if closed and not path.startswith("/static/"):
            if api:
                return problem(503, "NOT_READY", f"the server is starting: {closed}", retry_seconds=2.0)
            return page(503, f"The server is starting: {closed}.", link=_own_path(scope, without_query=False))
        return None

    def _login(self, scope: Scope) -> Response | None:
        """A visit with ?token=...: the token leaves the address, a session takes its place."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        if not tokens:
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        target = _own_path(scope, without_query=True) + (f"?{rest}" if rest else "")
        value = self._sessions.begin(tokens[-1])
        if value is None:
            return page(401, f"This token is not valid. {_HOW_TO_GET_IN}")
        answer = RedirectResponse(target, 303)
        answer.set_cookie(
            COOKIE,
            value,
            max_age=SESSION_SECONDS,
            path="/",
            secure=scope.get("scheme") == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    def _principal(self, headers: Mapping[str, str]) -> Principal | None:
        authorization = headers.get("authorization")
        if authorization is not None:
            return self._authenticator.authenticate(authorization)
        value = _cookie(headers.get("cookie", ""))
        return self._sessions.principal(value) if value else None


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdecimal() else header).lower()


def _cookie(header: str) -> str:
    # By hand: other servers on this host share the cookie jar, and a parser gives up at the first odd one.
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _own_path(scope: Scope, *, without_query: bool) -> str:
    """Where the request went, as a path of this server: two slashes at its start would name another."""
    path = "/" + quote(scope["path"].lstrip("/\\"), safe="/~!$&'()*+,;=:@")
    query = scope["query_string"].decode("latin-1")
    return path if without_query or not query else f"{path}?{query}"


def _failed(scope: Scope, error: Exception) -> Response:
    """The answer to a request that could not be served."""
    api = is_api(scope["path"])
    if isinstance(error, ServiceError):
        return failure_problem(error) if api else page(status_of(error), error.message)
    if isinstance(error, HTTPException):
        text = error.detail or "there is no such thing"
        return problem(error.status_code, "NO_SUCH_PATH", text) if api else page(error.status_code, text)
    incident = uuid.uuid4().hex[:12]
    log.error("request failed", path=scope["path"][:200], incident=incident, exc_info=error)
    text = f"internal error, see incident {incident} in the server's log"
    return problem(500, "INTERNAL", text) if api else page(500, text)
