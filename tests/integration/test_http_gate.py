"""Who gets in: every route from the router, tokens, cookies, hosts, methods, headers."""

from __future__ import annotations

import re
import time

import pytest
from starlette.routing import Route

from support.calls import push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.web import Web
from trajmon_server.web.app import all_routes
from trajmon_server.web.backend import Backend

OPEN = {"/healthz", "/readyz"}
NAME = "secret-run-name"


@pytest.fixture
def run(team_client: Client) -> SyntheticRun:
    made = SyntheticRun(NAME, num_checkpoints=3)
    push_all(team_client, made)
    return made


@pytest.fixture
def token(team_client: Client) -> str:
    return str(team_client.metadata[0][1]).removeprefix("Bearer ")


@pytest.fixture
def web(shared_server: ServerProcess, token: str) -> Web:
    return Web(shared_server.addresses["http"], token)


def every_path() -> list[str]:
    """Each route of the router once, with a run that is there."""
    routes = all_routes(lambda: "", "0", Backend())
    assert all(isinstance(route, Route) for route in routes)
    values = {"run": NAME, "path": "zarr.json", "digest": "0" * 16}
    paths = [
        re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values[found.group(1)], route.path)
        for route in routes
        if isinstance(route, Route)
    ]
    assert len(paths) > 12
    return [*paths, "/nothing", "/api/v1/nothing", "/api", "//", "/static/", "/favicon.ico"]


def test_without_a_token_no_route_gives_anything(
    shared_server: ServerProcess, run: SyntheticRun, token: str
) -> None:
    address = shared_server.addresses["http"]
    forged = f"trajmon_session={int(time.time()) + 1000}.{'0' * 64}"
    for path in every_path():
        if path in OPEN:
            continue
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": f"Bearer {token}x"},
            {"Cookie": forged},
            {"Cookie": f"trajmon_session={token}"},
        ):
            for method in ("GET", "HEAD"):
                answer = Web(address).get(path, method, **headers)
                assert answer.status == 401, (path, headers)
                assert NAME.encode() not in answer.body.replace(path.encode(), b"")
                assert run.run_id.encode() not in answer.body
                assert "set-cookie" not in answer.headers
                is_api = path.startswith("/api")
                kind = "application/problem+json" if is_api else "text/html; charset=utf-8"
                assert answer.headers["content-type"] == kind
                if is_api and method == "GET":
                    assert answer.reason == "UNAUTHENTICATED"


def test_with_a_token_every_route_answers(web: Web, run: SyntheticRun) -> None:
    for path in every_path():
        if not path.endswith("/events"):
            asked = f"{path}?run={run.name}&other={run.name}" if path.endswith("/cross") else path
            assert web.get(asked).status in (200, 404), path


def test_the_open_routes_need_no_token(shared_server: ServerProcess) -> None:
    web = Web(shared_server.addresses["http"])
    assert web.get("/healthz").json["status"] == "ok"
    assert web.get("/readyz").json == {"ready": True}


def test_a_host_that_is_not_this_one(web: Web) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.", "[::2]:80", "localhost:80:80"):
        for path in ("/healthz", "/", "/api/v1/runs"):
            answer = web.get(path, Host=host)
            assert answer.status == 400, (host, path)
    assert web.get("/api/v1/runs", Host="evil.example").reason == "WRONG_HOST"
    for host in ("LOCALHOST", "localhost:1234", "[::1]", "[::1]:8080"):
        assert web.get("/api/v1/runs", Host=host).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"])
def test_other_methods_than_get(web: Web, method: str) -> None:
    for path in ("/api/v1/runs", "/api/v1/nothing", "/", "/healthz"):
        answer = web.get(path, method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert web.get("/api/v1/runs", method).reason == "METHOD_NOT_ALLOWED"


def test_headers_on_every_answer(web: Web, shared_server: ServerProcess, run: SyntheticRun) -> None:
    answers = [web.get(path) for path in every_path() if not path.endswith("/events")]
    answers += [
        web.get("/", Host="evil"),
        web.get("/", "POST"),
        Web(shared_server.addresses["http"]).get("/"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_a_first_visit_with_the_token_sets_a_cookie(web: Web, run: SyntheticRun, token: str) -> None:
    browser = Web(web.address)
    answer = browser.get(f"/runs/{NAME}?scope=layer%3Aa&token={token}&x=1")
    assert (answer.status, answer.headers["location"]) == (303, f"/runs/{NAME}?scope=layer%3Aa&x=1")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert token not in cookie
    value = cookie.partition(";")[0]
    assert browser.get("/api/v1/runs", Cookie=f"other=1; {value}").json["runs"][0]["name"] == NAME
    assert browser.get("/", Cookie=value).status == 200
    # One that is wrong beside it: the header is what counts.
    assert browser.get("/api/v1/runs", Cookie=value, Authorization="Bearer wrong").status == 401
    broken = value[:-1] + ("0" if value[-1] != "0" else "1")
    assert browser.get("/api/v1/runs", Cookie=broken).status == 401


def test_the_cookie_is_for_https_where_the_page_is(web: Web, token: str) -> None:
    answer = Web(web.address).get(f"/?token={token}", X_Forwarded_Proto="https")
    assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_a_wrong_token_in_the_address(web: Web) -> None:
    for path in ("/?token=wrong", "/?token=", "/?token=%00%ff"):
        answer = web.get(path)
        assert answer.status == 401
        assert "set-cookie" not in answer.headers


def test_the_redirect_stays_on_this_server(web: Web, token: str) -> None:
    for path in ("//evil.example/x", "/%5Cevil.example", "/\\evil.example", "/%2F%2Fevil.example"):
        answer = web.get(f"{path}?token={token}")
        assert answer.status == 303
        location = answer.headers["location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))
    answer = web.get(f"/a%0d%0aX-Injected:%201?token={token}")
    assert "x-injected" not in answer.headers


def test_the_api_takes_no_token_in_the_address(web: Web, token: str) -> None:
    assert Web(web.address).get(f"/api/v1/runs?token={token}").status == 401


def test_a_team_sees_its_own_runs_alone(web: Web, shared_server: ServerProcess, run: SyntheticRun) -> None:
    other = Web(shared_server.addresses["http"], shared_server.token)
    assert [told["name"] for told in web.json("/api/v1/runs")["runs"]] == [NAME]
    assert NAME not in [told["name"] for told in other.json("/api/v1/runs?limit=1000")["runs"]]
    for name in (NAME, run.run_id):
        for path in every_path():
            if NAME in path and not path.startswith("/runs"):
                answer = other.get(path.replace(NAME, name))
                assert (answer.status, answer.reason) == (404, "NO_SUCH_RUN")
                assert run.fingerprint not in answer.text
