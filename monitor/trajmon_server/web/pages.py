"""The pages: shells without data, which their scripts fill from the API, and the files that they load.

No page holds anything of a run but the name that was asked for. Files are served below a digest of them all,
``/static/DIGEST/...``: a browser may keep them for ever, and a server with other files has other addresses.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from trajmon_server.web.backend import Backend
from trajmon_server.web.problems import page

__all__ = ["StaticFile", "page_routes", "render", "static_digest", "static_files"]

_HERE = Path(__file__).parent
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOR_EVER = "private, max-age=31536000, immutable"
_COMPRESSED_FROM_BYTES = 1024


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, as it goes out."""

    body: bytes
    compressed: bytes
    """The same with gzip."""
    media_type: str


def page_routes(backend: Backend) -> list[Route]:
    """All pages and their files; GET and HEAD. Who may see them is decided before they are reached."""

    def of_run(template: str) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            # NotFound for a run that is not there, or is another team's.
            run = backend.readers.query.require(request.path_params["run"], request.state.principal)
            return render(template, run=run.description.name)

        return show

    def of_all(template: str) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            return render(template)

        return show

    return [
        Route("/", of_all("list.html"), methods=["GET"]),
        Route("/runs/{run}", of_run("run.html"), methods=["GET"]),
        Route("/runs/{run}/layers", of_run("layers.html"), methods=["GET"]),
        Route("/compare", of_all("compare.html"), methods=["GET"]),
        Route("/static/{digest}/{path:path}", _static, methods=["GET"]),
    ]


def render(template: str, **values: Any) -> Response:
    """A page out of a template; every value is escaped."""
    content = _environment().get_template(template).render(static=f"/static/{static_digest()}", **values)
    return HTMLResponse(content, headers={"Cache-Control": "no-store"})


@cache
def static_files() -> Mapping[str, StaticFile]:
    """Every file below ``static/``, by its path there."""
    root = _HERE / "static"
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in _MEDIA_TYPES and path.is_file():
            body = path.read_bytes()
            packed = gzip.compress(body, 6, mtime=0) if len(body) >= _COMPRESSED_FROM_BYTES else body
            found[path.relative_to(root).as_posix()] = StaticFile(body, packed, _MEDIA_TYPES[path.suffix])
    return found


@cache
def static_digest() -> str:
    """A digest of all names and contents: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, file in static_files().items():
        for part in (name.encode(), file.body):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


async def _static(request: Request) -> Response:
    file = static_files().get(request.path_params["path"])
    if file is None or request.path_params["digest"] != static_digest():
        text = "There is no such file in this version of the server; load the page again."
        return page(404, text, link="/")
    headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding", "ETag": f'"{static_digest()}"'}
    body = file.body
    if file.compressed is not file.body and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = file.compressed
    return Response(body, media_type=file.media_type, headers=headers)
