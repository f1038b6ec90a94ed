"""The API does what its own OpenAPI document says, for requests that are right and for ones that are not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from support.calls import push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketches import sketch_record
from support.web import Web

REQUESTS = 200
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
KNOWN = {
    "run": st.sampled_from(["demo", "demo", "demo", None]),
    "other": st.sampled_from(["demo", "demo", "demo", None]),
    "path": st.sampled_from(["zarr.json", "step/c.0", None]),
    "scope": st.sampled_from(["network", "group:first", "layer:layer1.weight", None]),
}
OPERATIONS = {
    "getOpenApi",
    "listRuns",
    "getRun",
    "getHallmarks",
    "getMap",
    "getLayers",
    "getSpectrum",
    "getNull",
    "getCrossMap",
    "getZarrFile",
    "watchRun",
}


@pytest.fixture(scope="module")
def web(shared_server: ServerProcess) -> Web:
    with Client(shared_server.addresses["grpc"], shared_server.token) as client:
        run = SyntheticRun("demo", num_checkpoints=5)
        epoch = push_all(client, run)
        for checkpoint in range(run.num_checkpoints):
            push(client, run, epoch, sketch_record(run, checkpoint))
    return Web(shared_server.addresses["http"], shared_server.token)


def test_requests_by_the_document(web: Web) -> None:
    told = web.json("/api/v1/openapi.json")
    names = {path["get"]["operationId"] for path in told["paths"].values()}
    assert names == OPERATIONS
    schema = schemathesis.openapi.from_dict(told)
    statuses: Counter[tuple[str, int]] = Counter()
    each = max(10, REQUESTS // (len(names) - 1))
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # a wrong document raises here
        if operation.definition.raw["operationId"] != "watchRun":  # its answer does not end
            ask(operation, web, statuses, each)
    assert all(statuses[name, 200] for name in names - {"watchRun"}), statuses
    assert {status for _, status in statuses} <= {200, 400, 404, 416}
    assert sum(statuses.values()) >= min(REQUESTS, 10 * (len(names) - 1)) // 2


def ask(operation: Any, web: Web, statuses: Counter[tuple[str, int]], count: int) -> None:
    """Make `count` requests of one operation, right and wrong ones, and check what comes back."""
    name = operation.definition.raw["operationId"]
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=right | wrong, known=st.fixed_dictionaries(KNOWN))
    def one(case: Any, known: dict[str, str | None]) -> None:
        # Names that are there: else hardly a request would get past them.
        put = {key: value for key, value in known.items() if value is not None}
        for where in (case.path_parameters, case.query):
            where.update({key: put[key] for key in put if key in (where or {})})
        headers = {"Authorization": f"Bearer {web.token}"}
        answer = case.call(base_url=f"http://{web.address}", headers=headers, timeout=60)
        statuses[name, answer.status_code] += 1
        # What was wrong about the request may have been the very name.
        case.validate_response(answer, checks=CHECKS if put else [*CHECKS, negative_data_rejection])

    one()
