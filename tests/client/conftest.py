"""A home folder and a server for the tests of the client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.recording import TOKEN, IngestServer  # noqa: TID251 # tests/client, on the path of the tests
from trajmon._files import read_json


@pytest.fixture
def server() -> Iterator[IngestServer]:
    """A server that answers."""
    ingest = IngestServer()
    ingest.start()
    yield ingest
    ingest.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder with the server's token; agents that lose their server give up soon."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    monkeypatch.setenv("TRAJMON_HOME", str(folder))
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "5")
    yield folder
    # A killed agent leaves its slot to the next one, which never comes here.
    for pointer in folder.glob("client/*/slot.json"):
        Path((read_json(pointer) or {}).get("path", pointer)).unlink(missing_ok=True)
