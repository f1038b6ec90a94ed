"""What goes wrong in reading from a monitor server, and how it is said.

    QueryError (TrajmonError)
    ├── AddressError          the address, or the TLS files named for it, cannot be used
    ├── UntrustedError        the two sides do not agree on TLS: certificate, name, or whether there is any
    ├── UnreachableError      nobody answers at the address, or not in time
    ├── NotAuthorisedError    the token is missing, wrong, or may not read
    ├── NotFoundError         no such run, scope or checkpoint
    ├── InvalidRequestError   the server says that the request makes no sense
    ├── BrokenReplyError      the reply breaks the wire contract
    └── ServerFailedError     anything else that went wrong on the server

Every message holds the server's own text and says what to do. Texts from a server are data: whoever prints
them removes control characters first.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from trajmon.errors import TrajmonError

__all__ = [
    "AddressError",
    "BrokenReplyError",
    "InvalidRequestError",
    "NotAuthorisedError",
    "NotFoundError",
    "QueryError",
    "ServerFailedError",
    "UnreachableError",
    "UntrustedError",
    "translate",
]


class QueryError(TrajmonError):
    """Reading from a server failed; the text says why and what to do."""


class AddressError(QueryError):
    """The address, or the TLS files named for it, cannot be used."""


class UntrustedError(QueryError):
    """The two sides do not agree on TLS: certificate, name, or whether there is any."""


class UnreachableError(QueryError):
    """Nobody answers at the address, or not in time."""


class NotAuthorisedError(QueryError):
    """The token is missing, wrong, or may not read."""


class NotFoundError(QueryError):
    """No such run, scope or checkpoint."""


class InvalidRequestError(QueryError):
    """The server says that the request makes no sense."""


class BrokenReplyError(QueryError):
    """The reply breaks the wire contract; nothing of it is used."""


class ServerFailedError(QueryError):
    """Something went wrong on the server."""


def translate(error: grpc.RpcError, address: str, seconds: float) -> QueryError:
    """What a failed call to `address`, made with a deadline of so many seconds, means."""
    if not isinstance(error, grpc.Call):
        return ServerFailedError(f"call to {address} failed: {error}")
    code = error.code()
    by_server, violations = _details(error)
    message = error.details() or "no reason given"
    text = "; ".join([message, *(a for a in violations if a.rpartition(": ")[2] not in message)])
    match code:
        case grpc.StatusCode.UNAVAILABLE if by_server:
            return ServerFailedError(f"server at {address} is not ready: {text}; try again soon")
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(
                f"no server answers at {address}: start one with `trajmon-server serve`, or name another "
                f"with --server or TRAJMON_SERVER ({text})"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(
                f"server at {address} gave no answer in {seconds:.0f} s: look at its log, then try again"
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            mend = (
                "set TRAJMON_TOKEN, or point TRAJMON_HOME at the folder whose `token` file the server reads"
            )
            if "TRAJMON_TOKEN" not in text:
                text = f"{text}; {mend}"
            return NotAuthorisedError(f"server at {address} refused the token: {text}")
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(text)
        case (
            grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.OUT_OF_RANGE
            | grpc.StatusCode.FAILED_PRECONDITION
        ):
            return InvalidRequestError(text)
        case grpc.StatusCode.UNIMPLEMENTED:
            return ServerFailedError(
                f"{address} does not know this call: is it a trajmon server, and not an older one? ({text})"
            )
        case _:
            return ServerFailedError(f"server at {address} failed ({code.name}): {text}")


def _details(error: grpc.Call) -> tuple[bool, Sequence[str]]:
    """Whether the server itself spoke (transport errors have no details), and its field violations."""
    try:
        status = rpc_status.from_call(error)
    except ValueError as problem:
        return True, [f"its details cannot be read: {problem}"]
    found: list[str] = []
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Is(bad.DESCRIPTOR) and detail.Unpack(bad):
            found += [f"{a.field}: {a.description}" for a in bad.field_violations]
    return status is not None, found
