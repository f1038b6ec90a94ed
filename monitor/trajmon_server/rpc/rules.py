"""Which role a method needs. A method that is not listed here is refused."""

from __future__ import annotations

from typing import Literal

__all__ = ["RULES", "Rule"]

Rule = Literal["open", "read", "write"]
"""``open`` needs no token."""

RULES: dict[str, Rule] = {
    "/grpc.health.v1.Health/Check": "open",
    "/grpc.health.v1.Health/List": "open",
    # Lasts as long as the caller likes: strangers must not take the server's places.
    "/grpc.health.v1.Health/Watch": "read",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "read",
    "/trajmon_protos.v1.IngestService/OpenRun": "write",
    "/trajmon_protos.v1.IngestService/PushRow": "write",
    "/trajmon_protos.v1.IngestService/PushRowStream": "write",
    "/trajmon_protos.v1.IngestService/ReportStatus": "write",
    "/trajmon_protos.v1.QueryService/GetHallmarks": "read",
    "/trajmon_protos.v1.QueryService/GetMap": "read",
    "/trajmon_protos.v1.QueryService/GetCrossMap": "read",
    "/trajmon_protos.v1.QueryService/GetRun": "read",
    "/trajmon_protos.v1.QueryService/ListRuns": "read",
    "/trajmon_protos.v1.QueryService/WatchRun": "read",
}
