"""The generated messages: words of the contract that other parts rely on."""

from __future__ import annotations

import pytest

from trajmon_protos.record import LayerStatus
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2


def test_services_and_their_methods() -> None:
    methods = {
        service.full_name: [method.name for method in service.methods]
        for module in (ingest_pb2, query_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    assert methods == {
        "trajmon_protos.v1.IngestService": ["OpenRun", "PushRow", "PushRowStream", "ReportStatus"],
        "trajmon_protos.v1.QueryService": [
            "ListRuns",
            "GetRun",
            "GetMap",
            "GetCrossMap",
            "GetHallmarks",
            "WatchRun",
        ],
    }


def test_advice_states() -> None:
    words = [
        name.removeprefix("ADVICE_STATE_").lower() for name in types_pb2.AdviceState.DESCRIPTOR.values_by_name
    ]
    assert words == ["unspecified", "explore", "candidate", "switch", "resume", "unknown"]


def test_layer_statuses_are_fixed_numbers() -> None:
    assert {status.name: status.value for status in LayerStatus} == {
        "EXACT": 0,
        "NON_FINITE": 1,
        "SNAPSHOT_MISSING": 2,
        "NOT_KEPT": 3,
    }


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (types_pb2.RowHeader, "previous"),
        (types_pb2.CheckpointInfo, "epoch"),
        (types_pb2.CheckpointInfo, "learning_rate"),
        (query_pb2.GetMapRequest, "relative_to"),
        (query_pb2.RunSummary, "mean_directional_similarity"),
    ],
)
def test_unknown_numbers_are_absent_and_not_zero(message: type, field: str) -> None:
    assert message.DESCRIPTOR.fields_by_name[field].has_presence  # type: ignore[attr-defined]
