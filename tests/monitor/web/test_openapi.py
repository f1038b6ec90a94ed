"""The document says what the table says, and the table what the router does."""

from __future__ import annotations

from starlette.routing import Route

from trajmon_server.web.app import all_routes
from trajmon_server.web.backend import Backend
from trajmon_server.web.openapi import document
from trajmon_server.web.table import ENDPOINTS, PREFIX


def test_every_route_of_the_api_is_in_the_document_and_no_other() -> None:
    told = document(ENDPOINTS, "1.0")["paths"]
    routes = [route for route in all_routes(lambda: "", "0", Backend()) if isinstance(route, Route)]
    served = {route.path.replace(":path}", "}") for route in routes if route.path.startswith("/api")}
    assert set(told) == served
    assert all(path.startswith(PREFIX) for path in told)
    assert all(route.methods == {"GET", "HEAD"} for route in routes)


def test_parameters_of_every_operation() -> None:
    told = document(ENDPOINTS, "1.0")
    for endpoint in ENDPOINTS:
        operation = told["paths"][endpoint.path.replace(":path}", "}")]["get"]
        in_query = [a for a in operation["parameters"] if a["in"] == "query"]
        assert [a["name"] for a in in_query] == [a.name for a in endpoint.parameters]
        in_path = {a["name"] for a in operation["parameters"] if a["in"] == "path"}
        assert in_path == {name for name in ("run", "path") if f"{{{name}" in endpoint.path}
        assert all(a["description"] for a in operation["parameters"])
        assert {"200", "400", "401", "404", "405", "429", "503"} <= set(operation["responses"])


def test_names_are_unique() -> None:
    assert len({endpoint.name for endpoint in ENDPOINTS}) == len(ENDPOINTS)
