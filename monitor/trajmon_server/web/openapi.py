"""The OpenAPI document, written from the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trajmon_server.web.endpoints import Endpoint
from trajmon_server.web.problems import MEDIA_TYPE
from trajmon_server.web.schemas import PROBLEM

__all__ = ["document"]

_PATH_PARAMETERS = {
    "run": ("name or id of a run", {"type": "string"}),
    "path": ("path of a file in the store, such as zarr.json or gram/c.0.0.0", {"type": "string"}),
}
_REFUSALS = {
    400: "the request is wrong; `violations` names every parameter that is",
    401: "no token, or not a valid one",
    404: "no such run, scope or file, or not for this caller",
    405: "only GET and HEAD are served",
    429: "too much at once; try again after Retry-After seconds",
    503: "the server is starting, or the run's rows are still being worked on",
}
_FURTHER = {206: "the part that was asked for", 416: "the range is not in the file"}


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """OpenAPI 3.1. Every parameter and every status that the endpoints know, and no other."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trajmon",
            "version": version,
            "description": "Directions of neural-network trainings: runs, hallmarks and trajectory maps. Read only.",
        },
        "security": [{"token": []}, {"session": []}],
        "paths": {_path(endpoint.path): {"get": _operation(endpoint)} for endpoint in endpoints},
        "components": {
            "schemas": {"Problem": PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "trajmon_session"},
            },
        },
    }


def _path(path: str) -> str:
    return re.sub(r":path\}", "}", path)


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)", endpoint.path)
    in_path = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
        for name, (text, schema) in ((name, _PATH_PARAMETERS[name]) for name in names)
    ]
    responses: dict[str, Any] = {"200": {"description": "the answer", "content": _content(endpoint.content)}}
    for status in endpoint.statuses:
        is_problem = status >= 400
        responses[str(status)] = (
            _refusal(_FURTHER[status])
            if is_problem
            else {
                "description": _FURTHER[status],
                "content": _content(endpoint.content),
            }
        )
    responses |= {str(status): _refusal(text) for status, text in _REFUSALS.items()}
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": [*in_path, *(parameter.document() for parameter in endpoint.parameters)],
        "responses": responses,
    }


def _content(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {media_type: {"schema": dict(schema)} if schema else {} for media_type, schema in content.items()}


def _refusal(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
