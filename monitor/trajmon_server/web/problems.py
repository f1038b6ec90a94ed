"""Errors as answers: `application/problem+json` (RFC 9457) under /api, a plain page elsewhere."""

from __future__ import annotations

import html
import json
import math
from typing import Any

from starlette.responses import Response

from trajmon_server.errors import ServiceError

__all__ = ["MEDIA_TYPE", "failure_problem", "is_api", "page", "problem", "status_of"]

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
_TITLES = {
    400: "The request is wrong",
    401: "A token is needed",
    404: "There is no such thing",
    405: "Only GET and HEAD are served",
    409: "This contradicts what is stored",
    416: "This range is not in the file",
    429: "Too much at once",
    500: "The server failed",
    503: "Not now",
}


def is_api(path: str) -> bool:
    """Whether programs ask here, not people."""
    return path.startswith("/api/") or path in ("/api", "/healthz", "/readyz")


def problem(
    status: int,
    reason: str,
    detail: str,
    *,
    violations: tuple[tuple[str, str], ...] = (),
    retry_seconds: float | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An error for programs. `reason` is machine-readable, `violations` name fields and what is wrong with each."""
    content: dict[str, Any] = {
        "type": f"about:blank#{reason}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    if violations:
        content["violations"] = [{"field": name, "text": text} for name, text in violations]
    sent = dict(headers or {})
    if retry_seconds is not None:
        sent["Retry-After"] = str(max(1, math.ceil(retry_seconds)))
    if status == 401:
        sent["WWW-Authenticate"] = 'Bearer realm="trajmon"'
    return Response(json.dumps(content), status, sent, MEDIA_TYPE)


def failure_problem(error: ServiceError) -> Response:
    """The same from one of the server's own errors."""
    return problem(
        _STATUS.get(error.code, 500),
        error.reason,
        error.message,
        violations=tuple((a.field, a.text) for a in error.violations),
        retry_seconds=error.retry_seconds,
    )


def status_of(error: ServiceError) -> int:
    """Its HTTP status."""
    return _STATUS.get(error.code, 500)


def page(status: int, text: str, *, link: str = "", headers: dict[str, str] | None = None) -> Response:
    """A page of one sentence, without scripts, styles or anything of the house; `link` is a path here."""
    title = html.escape(_TITLES.get(status, "Error"))
    below = f'<p><a href="{html.escape(link)}">Open this page again</a></p>' if link else ""
    content = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title></head><body><h1>{title}</h1><p>{html.escape(text)}</p>{below}</body></html>"
    )
    return Response(content, status, headers, "text/html; charset=utf-8")
