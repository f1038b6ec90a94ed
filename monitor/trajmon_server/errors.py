"""Errors that cross the server's surfaces.

ServiceError                 a request that cannot be served; carries all that a caller needs
├── InvalidRequest           the request is wrong; lists every violation
├── NotFound                 no such run, scope or checkpoint (or not for this caller)
├── Conflict                 contradicts what is stored: other digest, other model, name taken
├── OutOfOrder               a gap, an older writer epoch: the caller's picture is stale
├── Exhausted                a quota, a limit or the disk; trying later may help
└── Unavailable              the server cannot do it now; trying later helps
ConfigError                  the server cannot start with this configuration
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = [
    "ConfigError",
    "Conflict",
    "Exhausted",
    "InvalidRequest",
    "NotFound",
    "OutOfOrder",
    "ServiceError",
    "Unavailable",
    "Violation",
    "reason_of",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, e.g. ``layout.layers[3].dtype``."""
    text: str
    """What is wrong and what is expected."""


@dataclass(eq=False)
class ServiceError(Exception):
    """A request that cannot be served."""

    reason: str
    """Machine-readable, UPPER_SNAKE_CASE."""
    message: str
    """One or two sentences: what was wrong, what to do."""
    violations: tuple[Violation, ...] = ()
    retry_seconds: float | None = None
    """When trying again makes sense; None if it does not."""
    details: dict[str, str] = field(default_factory=dict)
    """Further machine-readable facts, e.g. ``expected_checkpoint``."""
    code: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code."""

    def __str__(self) -> str:
        return self.message


class InvalidRequest(ServiceError):
    """The request is wrong, whatever is stored."""

    code: ClassVar[str] = "INVALID_ARGUMENT"

    @classmethod
    def from_violations(cls, violations: list[Violation]) -> InvalidRequest:
        """Name every violation in the message as well, for callers that only print it."""
        text = "; ".join(f"{violation.field}: {violation.text}" for violation in violations)
        return cls("INVALID_REQUEST", text, tuple(violations))


class NotFound(ServiceError):
    """No such thing, or not for this caller: the two are not told apart."""

    code: ClassVar[str] = "NOT_FOUND"


class Conflict(ServiceError):
    """The request contradicts what is stored. Nothing was changed."""

    code: ClassVar[str] = "ALREADY_EXISTS"


class OutOfOrder(ServiceError):
    """The caller's picture of the run is stale."""

    code: ClassVar[str] = "FAILED_PRECONDITION"


class Exhausted(ServiceError):
    """A quota, a limit or the disk is used up."""

    code: ClassVar[str] = "RESOURCE_EXHAUSTED"


class Unavailable(ServiceError):
    """The server cannot do it now."""

    code: ClassVar[str] = "UNAVAILABLE"


class ConfigError(Exception):
    """The server cannot start with this configuration; the message says what to change."""


def reason_of(error: OSError) -> str:
    """What the system says, without the paths and numbers around it.

    >>> import errno
    >>> reason_of(OSError(errno.ENOSPC, "/some/file"))
    'No space left on device'
    """
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    return os.strerror(error.errno)
