"""A real server for each module of tests, and for each test a team of its own: names and runs never meet.

Modules that stop or damage their server define a `server` of their own, one for each test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator

import pytest

from support.rows import SALT
from support.server import Client, ServerProcess

TOKENS = [f"token-of-the-team-number-{index}" for index in range(200)]
_unused = itertools.cycle(TOKENS)


def team_settings() -> str:
    """The teams as the server's environment takes them."""
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "team": f"team-{index}", "role": "write"}
        for index, token in enumerate(TOKENS)
    ]
    return json.dumps(entries)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    environment = {"TRAJMON_SERVER_TOKENS": team_settings()}
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home", environment=environment).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture(autouse=True)
def own_run_ids(request: pytest.FixtureRequest) -> Iterator[None]:
    token = SALT.set(request.node.nodeid)
    yield
    SALT.reset(token)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.addresses["grpc"], next(_unused)) as connected:
        yield connected
