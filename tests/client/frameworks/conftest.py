"""One real server for all tests of the callbacks; each of their runs has a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.frameworks.runs import Runs  # noqa: TID251 # tests/client, on the path of the tests
from support.server import ServerProcess


@pytest.fixture(scope="session")
def framework_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("frameworks") / "home").start()
    yield started
    started.stop()


@pytest.fixture
def runs(framework_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """What the server has; callbacks find the server by themselves."""
    monkeypatch.setenv("TRAJMON_HOME", str(framework_server.home))
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "5")
    monkeypatch.delenv("TRAJMON_SERVER", raising=False)
    with Runs(framework_server.addresses["grpc"], framework_server.token) as opened:
        yield opened


@pytest.fixture
def lonely_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for trainings whose server is away."""
    home = tmp_path / "lonely"
    monkeypatch.setenv("TRAJMON_HOME", str(home))
    # Without an address an agent would start a server here, and leave it running.
    monkeypatch.setenv("TRAJMON_SERVER", "127.0.0.1:1")
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "0")
    return home
