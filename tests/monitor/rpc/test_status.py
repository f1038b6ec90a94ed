"""Errors as statuses: what arrives, and that it always fits."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2, error_details_pb2

from trajmon_server import errors
from trajmon_server.rpc.status import to_status


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidRequest, code_pb2.INVALID_ARGUMENT),
        (errors.NotFound, code_pb2.NOT_FOUND),
        (errors.Conflict, code_pb2.ALREADY_EXISTS),
        (errors.OutOfOrder, code_pb2.FAILED_PRECONDITION),
        (errors.Exhausted, code_pb2.RESOURCE_EXHAUSTED),
        (errors.Unavailable, code_pb2.UNAVAILABLE),
    ],
)
def test_each_error_has_its_code_and_details(kind: type[errors.ServiceError], code: int) -> None:
    error = kind(
        "SOME_REASON",
        "what was wrong; what to do",
        (errors.Violation("field", "text"),),
        retry_seconds=1.5,
        details={"expected_checkpoint": "4"},
    )
    status = to_status(error)
    assert (status.code, status.message) == (code, "what was wrong; what to do")
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert status.details[2].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "SOME_REASON",
        "trajmon",
        {"expected_checkpoint": "4"},
    )
    assert (request.field_violations[0].field, request.field_violations[0].description) == ("field", "text")
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_details_that_do_not_apply_are_left_out() -> None:
    assert len(to_status(errors.NotFound("NO_SUCH_RUN", "no run")).details) == 1


def test_a_status_always_fits_into_the_trailers() -> None:
    violations = [errors.Violation(f"layout.layers[{n}]", "é" * 700) for n in range(20)]
    status = to_status(errors.InvalidRequest.from_violations(violations))
    assert status.message.endswith(" ...")
    # As percent-encoded text, and as base64 beside it.
    assert 3 * len(status.message.encode()) + 4 * status.ByteSize() // 3 < 8000
