"""What requests must look like, below the wire; tests/integration/test_ingest.py has the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from support.house import describe
from support.rows import SyntheticRun
from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.v1 import ingest_pb2, types_pb2
from trajmon_server.config import Limits
from trajmon_server.errors import Exhausted
from trajmon_server.ingest.quota import ByteBudget, Usage, check_record_size, check_row
from trajmon_server.ingest.validation import MAX_VIOLATIONS, validate_open, validate_report, validate_row

LIMITS = Limits()


def test_a_right_request_has_no_violations() -> None:
    run = SyntheticRun("right")
    assert validate_open(run.open_request(), LIMITS) == []
    for checkpoint in range(3):
        assert validate_row(run.row(checkpoint), describe(run), attempt=1) == []


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (lambda r: r.tags.append("a\nb"), "tags", "at most 32 tags of 1 to 64 printable characters"),
        (lambda r: r.tags.extend(["t"] * 40), "tags", "at most 32 tags"),
        (lambda r: r.layout.groups[1].layers.append(0), "layout.groups[1].layers", "ascending, distinct"),
        (lambda r: setattr(r.layout.groups[1], "name", "network"), "layout.groups[1].name", "appears twice"),
        (lambda r: r.layout.ClearField("groups"), "layout.groups", "0 groups; this server takes 1 to"),
        (lambda r: r.layout.layers[0].shape.extend([1] * 40), "layout.layers[0].shape", "32 dimensions"),
        (lambda r: r.layout.layers[0].shape.append(1 << 62), "layout.layers[0].shape", "parameters"),
        (
            lambda r: [layer.shape.append(1 << 59) for layer in r.layout.layers],
            "layout.layers",
            f"more than {1 << 62} parameters in all",
        ),
    ],
)
def test_a_wrong_open_request(
    change: Callable[[ingest_pb2.OpenRunRequest], object], field: str, text: str
) -> None:
    request = SyntheticRun("wrong").open_request()
    change(request)
    (violation,) = validate_open(request, LIMITS)
    assert violation.field == field
    assert text in violation.text


def test_every_violation_is_named_up_to_a_number() -> None:
    request = SyntheticRun("many", num_layers=60).open_request()
    request.run_id, request.name = "x", "/"
    for layer in request.layout.layers:
        layer.dtype = "int8"
    violations = validate_open(request, LIMITS)
    assert len(violations) == MAX_VIOLATIONS
    assert [violation.field for violation in violations[:3]] == ["run_id", "name", "layout.layers[0].dtype"]


def test_a_snapshot_that_is_missing_leaves_holes_that_are_allowed() -> None:
    run = SyntheticRun("holes")
    row = run.row(3)
    gram, status = row.gram.copy(), row.status.copy()
    gram[1, 0] = np.nan
    status[1] = LayerStatus.SNAPSHOT_MISSING
    assert validate_row(Row(row.header, gram, row.products, status), describe(run), 1) == []


def test_numbers_that_no_training_has_are_refused() -> None:
    run = SyntheticRun("numbers")
    row = run.row(1)
    row.header.info.time_unix_seconds = np.inf
    row.header.info.metrics["x" * 65] = 1.0
    fields = {violation.field: violation.text for violation in validate_row(row, describe(run), 1)}
    assert fields == {
        "info.metrics": "at most 64 metrics with names of at most 64 characters",
        "info.time_unix_seconds": "must be finite",
    }


@pytest.mark.parametrize(
    "plan",
    [
        types_pb2.Plan(),
        types_pb2.Plan(steps_ahead=0, rate_sum_ahead=0.0, rate_squared_sum_ahead=0.0),
        types_pb2.Plan(steps_ahead=2**63, objective="ä" * 64, objective_tolerance=0.0),
        # A constant rate of 0.1, whose sums are rounded.
        types_pb2.Plan(steps_ahead=3, rate_sum_ahead=0.1 + 0.1 + 0.1, rate_squared_sum_ahead=0.03),
        # All of it in one step.
        types_pb2.Plan(steps_ahead=3, rate_sum_ahead=0.5, rate_squared_sum_ahead=0.25),
    ],
)
def test_a_plan_that_a_training_can_have(plan: types_pb2.Plan) -> None:
    run = SyntheticRun("plan")
    row = run.row(1)
    row.header.info.plan.CopyFrom(plan)
    assert validate_row(row, describe(run), 1) == []


@pytest.mark.parametrize(
    ("plan", "field", "text"),
    [
        (
            types_pb2.Plan(rate_sum_ahead=1.0, rate_squared_sum_ahead=1.0),
            "info.plan.steps_ahead",
            "learning rates ahead need the number of steps ahead",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_sum_ahead=1.0),
            "info.plan.rate_sum_ahead",
            "both sums of learning rates are needed, or none",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_squared_sum_ahead=1.0),
            "info.plan.rate_sum_ahead",
            "both sums of learning rates are needed, or none",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_sum_ahead=-1.0, rate_squared_sum_ahead=1.0),
            "info.plan.rate_sum_ahead",
            "no learning rates over 3 steps have the sum -1 and the sum of squares 1",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_sum_ahead=3.0, rate_squared_sum_ahead=2.9),
            "info.plan.rate_sum_ahead",
            "no learning rates over 3 steps have the sum 3 and the sum of squares 2.9",
        ),
        (
            types_pb2.Plan(steps_ahead=0, rate_sum_ahead=0.1, rate_squared_sum_ahead=0.01),
            "info.plan.rate_sum_ahead",
            "no learning rates over 0 steps have the sum 0.1 and the sum of squares 0.01",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_sum_ahead=np.nan, rate_squared_sum_ahead=np.nan),
            "info.plan.rate_sum_ahead",
            "no learning rates over 3 steps have the sum nan and the sum of squares nan",
        ),
        (
            types_pb2.Plan(steps_ahead=3, rate_sum_ahead=np.inf, rate_squared_sum_ahead=np.inf),
            "info.plan.rate_sum_ahead",
            "no learning rates over 3 steps have the sum inf and the sum of squares inf",
        ),
        (types_pb2.Plan(objective="a\nb"), "info.plan.objective", "at most 64 printable characters"),
        (types_pb2.Plan(objective="a" * 65), "info.plan.objective", "at most 64 printable characters"),
        (
            types_pb2.Plan(objective="loss", objective_tolerance=-0.1),
            "info.plan.objective_tolerance",
            "-0.1 of the objective 'loss'; a number of at least 0, of one with a name",
        ),
        (
            types_pb2.Plan(objective="loss", objective_tolerance=np.nan),
            "info.plan.objective_tolerance",
            "nan of the objective 'loss'; a number of at least 0, of one with a name",
        ),
        (
            types_pb2.Plan(objective_tolerance=0.1),
            "info.plan.objective_tolerance",
            "0.1 of the objective ''; a number of at least 0, of one with a name",
        ),
    ],
)
def test_a_plan_that_no_training_has(plan: types_pb2.Plan, field: str, text: str) -> None:
    run = SyntheticRun("plan")
    row = run.row(1)
    row.header.info.plan.CopyFrom(plan)
    (violation,) = validate_row(row, describe(run), 1)
    assert (violation.field, violation.text) == (field, text)


def test_a_phase_is_a_known_one() -> None:
    for phase in ingest_pb2.RunPhase.values():
        assert validate_report(ingest_pb2.ReportStatusRequest(phase=phase)) == []
    request = ingest_pb2.ReportStatusRequest()
    request.ParseFromString(b"\x18\x63")  # field 3, 99
    (violation,) = validate_report(request)
    assert violation.text == "99 is no phase that this server knows; update the server"


def test_limits_hold_up_to_and_including_their_value() -> None:
    limits = Limits(max_record_bytes=4096, max_run_bytes=10_000, min_free_disk_bytes=1000)
    check_record_size(4096, limits)
    with pytest.raises(
        Exhausted, match=r"record has 4097 bytes, the limit is 4096 \(limits.max_record_bytes\)"
    ):
        check_record_size(4097, limits)
    check_row(4000, Usage(run_bytes=6000, free_disk_bytes=5000), limits)
    with pytest.raises(Exhausted, match=r"run uses 6001 bytes, the limit is 10000 \(limits.max_run_bytes\)"):
        check_row(4000, Usage(run_bytes=6001, free_disk_bytes=5000), limits)
    with pytest.raises(Exhausted, match=r"has 4999 bytes free and keeps 1000 in reserve .*; free some space"):
        check_row(4000, Usage(run_bytes=0, free_disk_bytes=4999), limits)
    check_row(4000, Usage(run_bytes=0, free_disk_bytes=0), Limits(min_free_disk_bytes=0))


def test_a_budget_is_given_back() -> None:
    budget = ByteBudget(100, "records")
    text = "records under way hold 500 bytes, 100 is the most; try again"
    # Alone, even the largest fits.
    with budget.reserve(500), pytest.raises(Exhausted, match=text):
        budget.reserve(1).__enter__()
    with budget.reserve(60), budget.reserve(40), pytest.raises(Exhausted, match="hold 100 bytes"):
        budget.reserve(1).__enter__()
    with budget.reserve(100):
        pass
