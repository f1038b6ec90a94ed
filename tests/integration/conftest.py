"""Real servers: one of its own for a test that stops or damages it, else one that a module's tests share.

On a shared server each test is a team of its own, so that names and runs never meet.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path / "home").start()
    yield started
    started.stop()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.addresses["grpc"], server.token) as connected:
        yield connected


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    environment = {"TRAJMON_SERVER_TOKENS": team_settings()}
    started = ServerProcess(tmp_path_factory.mktemp("server") / "home", environment=environment).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture
def team_client(shared_server: ServerProcess) -> Iterator[Client]:
    with Client(shared_server.addresses["grpc"], next(_unused)) as connected:
        yield connected


@pytest.fixture(autouse=True)
def own_run_ids(request: pytest.FixtureRequest) -> Iterator[None]:
    token = SALT.set(request.node.nodeid)
    yield
    SALT.reset(token)
