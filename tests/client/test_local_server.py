"""Finding the local server, and starting it."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from client.recording import IngestServer, free_port, wait_until  # noqa: TID251 # tests/client, on the path of the tests
from trajmon.cli.checks import run_checks
from trajmon.local_server import ensure_local_server, find_page, find_server


def announce(home: Path, **value: object) -> None:
    (home / "server.json").write_text(json.dumps(value))


def test_a_server_that_lives_and_listens_is_found(home: Path, server: IngestServer) -> None:
    assert find_server(home) is None
    announce(home, grpc=server.address, pid=os.getpid())
    assert find_server(home) == server.address
    assert ensure_local_server(home) == server.address
    assert find_page(home) is None
    announce(home, grpc=server.address, http=7, pid=os.getpid())
    assert find_page(home) is None
    announce(home, grpc=server.address, http="127.0.0.1:81", pid=os.getpid(), tls=True)
    assert find_page(home) == "https://127.0.0.1:81/"


@pytest.mark.parametrize(
    "value",
    [{}, {"grpc": 3, "pid": 1}, {"grpc": "nonsense", "pid": 1}, {"grpc": "127.0.0.1:1", "pid": 2**22 + 1}],
)
def test_an_announcement_that_leads_nowhere_is_none(home: Path, value: dict[str, object]) -> None:
    announce(home, **value)
    assert find_server(home) is None


def test_a_process_that_does_not_listen_is_no_server(home: Path) -> None:
    announce(home, grpc=f"127.0.0.1:{free_port()}", pid=os.getpid())
    assert find_server(home) is None


def test_a_local_server_is_started_once_and_found_again(home: Path) -> None:
    address = ensure_local_server(home)
    assert address is not None, (home / "server.log").read_text()
    pid = json.loads((home / "server.json").read_text())["pid"]
    try:
        assert ensure_local_server(home) == address == find_server(home)
        assert json.loads((home / "server.json").read_text())["pid"] == pid
        page = find_page(home)
        assert page is not None
        with urllib.request.urlopen(f"{page}healthz", timeout=20) as answer:
            assert answer.status == 200
        told = {check.name: check.text for check in run_checks(home, None)}
        assert told["page"] == f"{page} (once with ?token= and the token behind it)"
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: find_server(home) is None, "the server to end")
    assert find_page(home) is None
