"""Requests by chance, out of the API's own table and out of malice: none makes the server fail.

A few thousand in the ordinary tests; ``make api-fuzz`` asks for 100,000.
"""

from __future__ import annotations

import http.client
import json
import os
import random
from collections import Counter
from urllib.parse import quote

from support.calls import open_run, push, push_all
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.sketches import sketch_record
from trajmon_server.web.endpoints import Endpoint
from trajmon_server.web.parameters import Parameter
from trajmon_server.web.table import ENDPOINTS

REQUESTS = int(os.environ.get("TRAJMON_API_REQUESTS", "2000"))
PAGES = (
    "/",
    "/runs/{run}",
    "/runs/{run}/layers",
    "/compare",
    "/static/{digest}/{path:path}",
    "/healthz",
    "/{run}",
)
RUNS = ("many", "one", "empty", "none", "..", "")
FILES = ("zarr.json", "step/c.0", "gram_tail/c.0.3.0", "step", "../../server.lock", "layer/c.0")
WORDS = (
    "", "0", "1", "5", "-1", "99", "9007199254740991", "9007199254740992", "1e3", "0x1", "NaN", "true", "TRUE", "None",
    "network", "group:first", "group:", "layer:layer1.weight", "layer:\u202e", "json", "f32", "csv", "linear", "rbf",
    "<script>", "'\"`;--", "%s%n", "../..", "\x00", "\r\nX: 1", "\U0001f4a9", "a" * 700, "٣", "ＡＢ", "{}", "[]",
    "&a=b",
)  # fmt: skip
HEADERS = (
    ("Range", ("bytes=0-3", "bytes=-1", "bytes=9999999-", "bytes=--", "x" * 300, "bytes=" + "0-1," * 99)),
    ("Cookie", ("trajmon_session=x", "trajmon_session=1.2; a", "=" * 200, ";;;")),
    ("Last-Event-ID", ("0", "x", "\u00ff")),
    ("Accept", ("text/html", "*/*", "application/json;q=x")),
    ("If-None-Match", ("*", '"x"')),
    ("Expect", ("nothing",)),
)


def value_of(parameter: Parameter, chance: random.Random) -> str:
    """Mostly one that the parameter takes."""
    schema = parameter.schema
    if chance.random() < 0.25:
        return chance.choice(WORDS)
    if "enum" in schema:
        # A picture takes as long as some hundred other answers.
        words = [word for word in schema["enum"] if word not in ("png", "svg") or chance.random() < 0.02]
        return str(chance.choice(words))
    if schema["type"] == "boolean":
        return chance.choice(("true", "false"))
    if parameter.name in ("run", "other"):
        return chance.choice((*["many"] * 8, *RUNS))
    if schema["type"] == "integer":
        return str(chance.randint(schema["minimum"], min(schema["maximum"], schema["minimum"] + 12)))
    return chance.choice(("network", "group:first", "layer:layer0.weight", "demo", "test"))


def target_of(path: str, parameters: tuple[Parameter, ...], chance: random.Random) -> str:
    """A path with its query, encoded one way or another."""
    run = chance.choice(RUNS) if chance.random() < 0.8 else chance.choice(WORDS)
    file = chance.choice(FILES) if chance.random() < 0.8 else chance.choice(WORDS)
    safe = chance.choice(("", "/", "/:.<>"))
    filled = path.replace("{run}", quote(run, safe=safe)).replace("{path:path}", quote(file, safe="/"))
    filled = filled.replace("{digest}", quote(chance.choice(WORDS), safe=""))
    chosen = chance.sample(parameters, chance.randint(0, min(4, len(parameters))))
    # Without these two there is no other answer than that they are needed.
    chosen += [
        one
        for one in parameters
        if one.name in ("run", "other") and one not in chosen and chance.random() < 0.7
    ]
    pairs = [(parameter.name, value_of(parameter, chance)) for parameter in chosen]
    if chance.random() < 0.1:
        pairs.append((chance.choice(("tau", "token", "", "scope", "\x00")), chance.choice(WORDS)))
    chance.shuffle(pairs)
    query = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in pairs)
    if chance.random() < 0.03:
        query += chance.choice(("&", "&&=", "%", "%zz", "&%ff=%fe", "=" * 50, "?x"))
    return filled + (f"?{query}" if query else "")


def fill(server: ServerProcess) -> None:
    with Client(server.addresses["grpc"], server.token) as client:
        many = SyntheticRun("many", num_checkpoints=9)
        epoch = push_all(client, many)
        for checkpoint in range(9):
            push(client, many, epoch, sketch_record(many, checkpoint))
        push_all(client, SyntheticRun("one", num_checkpoints=1))
        open_run(client, SyntheticRun("empty"))


def test_no_request_makes_the_server_fail(server: ServerProcess) -> None:
    fill(server)
    chance = random.Random(20260101)
    pages = [Endpoint(path, path, "", None) for path in PAGES]  # type: ignore[arg-type]
    statuses: Counter[int] = Counter()
    answered: set[str] = set()
    connection = http.client.HTTPConnection(server.addresses["http"], timeout=60)
    for count in range(REQUESTS):
        endpoint = chance.choice([*ENDPOINTS, *ENDPOINTS, *pages])
        target = target_of(endpoint.path, endpoint.parameters, chance)
        # The answer to a GET of events does not end.
        plain = ("GET", "GET", "GET", "HEAD") if endpoint.name != "watchRun" else ("HEAD",)
        method = chance.choice((*plain, *plain, *plain, "POST", "DELETE"))
        headers = {"Authorization": f"Bearer {server.token}"}
        if chance.random() < 0.03:
            headers["Authorization"] = chance.choice(("Bearer", "Bearer x", "\u00e9", "Basic eA=="))
        headers |= {name: chance.choice(values) for name, values in HEADERS if chance.random() < 0.05}
        connection.request(method, target, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        statuses[answer.status] += 1
        assert answer.status < 500, (method, target, headers, body)
        if answer.status == 200:
            answered.add(endpoint.name)
        kind = answer.headers.get("content-type", "")
        if answer.status >= 400 and target.startswith("/api/") and method == "GET" and kind:
            assert kind == "application/problem+json", (target, headers, body)
            assert json.loads(body)["status"] == answer.status
        if count % 500 == 0:
            # Whatever was asked, rows are taken.
            with Client(server.addresses["grpc"], server.token) as client:
                run = SyntheticRun(f"between-{count}", num_checkpoints=1)
                push(client, run, open_run(client, run).writer_epoch, run.record(0))
    connection.close()
    assert {endpoint.name for endpoint in ENDPOINTS} <= answered
    assert set(statuses) <= {200, 206, 303, 400, 401, 404, 405, 416}, statuses
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert "internal error" not in server.log
