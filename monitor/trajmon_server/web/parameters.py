"""What a request may ask for: parameters by which requests are read, and the OpenAPI document is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from trajmon_server.errors import InvalidRequest, Violation

__all__ = ["Parameter", "choice", "flag", "read_query", "text", "whole"]

_LARGEST = 2**53 - 1
"""Largest number that JavaScript holds exactly."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """JSON schema of one value."""
    read: Callable[[str], Any]
    """From its text; ValueError says what is expected."""
    default: Any = None
    repeated: bool = False
    """May be given several times; its value is then a list."""
    required: bool = field(default=False)

    def document(self) -> dict[str, Any]:
        """Its entry in the OpenAPI document."""
        schema = dict(self.schema)
        if self.repeated:
            schema = {"type": "array", "items": schema, "maxItems": _MOST_REPEATED}
        elif self.default is not None:
            schema["default"] = self.default
        return {
            "name": self.name,
            "in": "query",
            "required": self.required,
            "description": self.description,
            "schema": schema,
        }


_MOST_REPEATED = 32


def text(
    name: str, description: str, *, longest: int = 300, default: str | None = None, repeated: bool = False
) -> Parameter:
    """Any text."""

    def read(value: str) -> str:
        if len(value) > longest:
            raise ValueError(f"{len(value)} characters, at most {longest} are read")
        return value

    schema = {"type": "string", "maxLength": longest}
    return Parameter(name, description, schema, read, default, repeated)


def whole(
    name: str, description: str, *, least: int = 0, most: int = _LARGEST, default: int | None = None
) -> Parameter:
    """A whole number within bounds, both inclusive."""

    def read(value: str) -> int:
        if not (value.isascii() and value.isdecimal() and len(value) <= 16 and least <= int(value) <= most):
            raise ValueError(f"{value[:40]!r} is not a whole number from {least} to {most}")
        return int(value)

    return Parameter(name, description, {"type": "integer", "minimum": least, "maximum": most}, read, default)


def choice(name: str, description: str, values: tuple[str, ...], *, default: str) -> Parameter:
    """One of some words."""

    def read(value: str) -> str:
        if value not in values:
            raise ValueError(f"{value[:40]!r} is not one of {', '.join(values)}")
        return value

    return Parameter(name, description, {"type": "string", "enum": list(values)}, read, default)


def flag(name: str, description: str) -> Parameter:
    """`true` or `false`."""

    def read(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError(f"{value[:40]!r} is neither true nor false")
        return value == "true"

    return Parameter(name, description, {"type": "boolean"}, read, False)


def read_query(query_string: bytes, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """All parameters by name, defaults filled in; InvalidRequest names everything that is wrong."""
    known = {parameter.name: parameter for parameter in parameters}
    given: dict[str, list[str]] = {}
    violations = []
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        given.setdefault(name, []).append(value)
    for name in given.keys() - known.keys():
        there = ", ".join(known) or "none"
        violations.append(Violation(name[:40], f"there is no such parameter; there are: {there}"))
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        texts = given.get(name, [])
        try:
            values[name] = _read(parameter, texts)
        except ValueError as error:
            violations.append(Violation(name, str(error)))
    if violations:
        raise InvalidRequest.from_violations(sorted(violations, key=lambda a: a.field))
    return values


def _read(parameter: Parameter, texts: list[str]) -> Any:
    if parameter.repeated:
        if len(texts) > _MOST_REPEATED:
            raise ValueError(f"given {len(texts)} times, at most {_MOST_REPEATED} are read")
        return [parameter.read(value) for value in texts]
    if len(texts) > 1:
        raise ValueError(f"given {len(texts)} times, once is enough")
    if not texts:
        if parameter.required:
            raise ValueError("is needed")
        return parameter.default
    return parameter.read(texts[0])
