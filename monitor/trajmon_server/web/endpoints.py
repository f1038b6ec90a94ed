"""One endpoint of the API: its path, its parameters, what it answers, and who answers it.

Requests are read and the OpenAPI document is written from the same table, so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trajmon_server.auth import Principal
from trajmon_server.web.backend import Backend
from trajmon_server.web.parameters import Parameter, read_query

__all__ = ["Call", "Endpoint", "route_of"]


@dataclass(frozen=True, slots=True)
class Call:
    """A request as its endpoint sees it: read, and allowed."""

    request: Request
    principal: Principal
    values: Mapping[str, Any]
    """All parameters of the query by name."""

    @property
    def run(self) -> str:
        """Name or id of the run in the path."""
        return str(self.request.path_params["run"])


class Answer(Protocol):
    """Answers a call; ServiceError passes and becomes problem+json."""

    def __call__(self, backend: Backend, call: Call) -> Awaitable[Response]:
        """Answer it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table."""

    path: str
    """As Starlette has it, ``{run}`` for the run's name or id."""
    name: str
    """Its operation id."""
    summary: str
    answer: Answer
    parameters: tuple[Parameter, ...] = ()
    content: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Media types that it answers with, and the JSON schema of each, where it has one."""
    statuses: tuple[int, ...] = ()
    """Further statuses of success or refusal beside 200, 400, 401, 404, 429 and 503."""


def route_of(endpoint: Endpoint, backend: Backend) -> Route:
    """The route that reads a request by the table and hands it on; with a `version`, among those who ask the same."""

    async def serve(request: Request) -> Response:
        values = read_query(request.scope["query_string"], endpoint.parameters)
        call = Call(request, request.state.principal, values)
        version = values.get("version")
        if version is None or request.method != "GET":
            return await endpoint.answer(backend, call)
        run = backend.readers.query.require(call.run, call.principal)
        asked = sorted((name, value) for name, value in values.items() if name != "version")
        return await backend.feeds.shared(
            run, f"{endpoint.name} {asked!r}", version, lambda: endpoint.answer(backend, call)
        )

    return Route(endpoint.path, serve, methods=["GET"], name=endpoint.name)
