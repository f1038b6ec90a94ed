"""From the server's errors to rich gRPC statuses."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from trajmon_server.errors import ServiceError, Violation

__all__ = ["DOMAIN", "to_status"]

DOMAIN = "trajmon"
# In the trailers a message takes up to three times its bytes, and once more a third more beside the violations.
MESSAGE_BYTES = 1000
VIOLATIONS_BYTES = 2000


def to_status(error: ServiceError) -> status_pb2.Status:
    """Code, message and details: ErrorInfo always, BadRequest and RetryInfo where they apply.

    Both travel in the trailers, and a caller that gets more than 8 KiB of those sees another error in their place:
    long messages are cut, and violations that do not fit are left out.
    """
    packed = [_pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.details))]
    if error.violations:
        packed.append(_pack(_bad_request(error.violations)))
    if error.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_seconds * 1000))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=_cut(error.message, MESSAGE_BYTES), details=packed
    )


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    fitting = error_details_pb2.BadRequest()
    left = VIOLATIONS_BYTES
    for violation in violations:
        text = _cut(violation.text, MESSAGE_BYTES)
        left -= len(violation.field.encode()) + len(text.encode()) + 8
        if left < 0:
            break
        fitting.field_violations.add(field=violation.field, description=text)
    return fitting


def _cut(text: str, count_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= count_bytes:
        return text
    return encoded[: count_bytes - 4].decode(errors="ignore") + " ..."


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
