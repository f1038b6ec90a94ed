"""`trajmon-server health`: what a container's health check asks; exit code and text."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.server import ServerProcess
from support.tls import Authority, server_environment
from trajmon_server.cli import main


def health(*options: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    outcome = CliRunner().invoke(main, ["health", *options], env=environment)
    return outcome.exit_code, outcome.output.strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path / "home").start()
    yield started
    started.stop()


def test_a_ready_server_and_one_that_has_ended(server: ServerProcess) -> None:
    address = server.addresses["http"]
    assert health("--http", address) == (0, "ready")
    server.stop()
    assert health("--http", address) == (1, f"trajmon-server: not ready: {address}: Connection refused")


def test_settings_say_whom_to_ask(server: ServerProcess, tmp_path: Path) -> None:
    # As in a container: the server listens on every address, and is asked on this machine's own.
    address = server.addresses["http"].replace("127.0.0.1", "0.0.0.0")
    assert health(environment={"TRAJMON_SERVER_HTTP": address}) == (0, "ready")
    config = tmp_path / "server.toml"
    config.write_text(f'http = "{address}"\n')
    assert health("--config", str(config)) == (0, "ready")


def test_a_frozen_server_is_not_waited_for(server: ServerProcess) -> None:
    server.signal(signal.SIGSTOP)
    try:
        code, text = health("--http", server.addresses["http"], "--timeout", "0.2")
    finally:
        server.signal(signal.SIGCONT)
    assert (code, text) == (1, f"trajmon-server: not ready: {server.addresses['http']}: timed out")


@pytest.mark.parametrize("asks_for_certificates", [False, True])
def test_a_server_with_tls(tmp_path: Path, asks_for_certificates: bool) -> None:
    authority = Authority(tmp_path / "pki")
    # Made out to another name: within the container nobody calls the server by its public one.
    pair = authority.issue("server", "trajmon.example.org")
    environment = server_environment(pair)
    if asks_for_certificates:
        environment = server_environment(pair, authority.file, client_ca_http=True)
    server = ServerProcess(tmp_path / "home", environment=environment).start()
    try:
        address = server.addresses["http"]
        assert health("--http", address, environment=environment) == (0, "ready")
        code, text = health("--http", address)
        assert code == 1
        assert text.startswith(f"trajmon-server: not ready: {address}")
    finally:
        server.stop()


class _Answers(http.server.BaseHTTPRequestHandler):
    status, body = 503, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            503,
            json.dumps({"ready": False, "reason": "the journal is being read"}).encode(),
            "answers 503: the jo",
        ),
        (503, b"<html>", "answers 503: no reason given"),
        (503, b"[]", "answers 503: no reason given"),
        (404, b"", "answers 404: no reason given"),
    ],
)
def test_another_answer_is_told(status: int, body: bytes, said: str) -> None:
    handler = type("Answers", (_Answers,), {"status": status, "body": body})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        code, text = health("--http", f"127.0.0.1:{other.server_port}")
        thread.join(timeout=10)
    assert code == 1
    assert said in text


def test_what_is_no_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-other\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code, text = health("--http", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(timeout=10)
    assert code == 1
    assert text.endswith("does not speak HTTP: BadStatusLine")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--http", "127.0.0.1:0"], 1, "http has port 0, so nobody knows where the server listens"),
        (["--http", "8080"], 1, "address '8080' is not HOST:PORT"),
        (["--config", "nowhere.toml"], 1, "configuration file nowhere.toml does not exist"),
        (["--timeout", "0"], 2, "Invalid value for '--timeout'"),
        (["--timeout", "soon"], 2, "Invalid value for '--timeout'"),
    ],
)
def test_bad_input_is_named(options: list[str], code: int, said: str) -> None:
    outcome, text = health(*options)
    assert outcome == code
    assert said in text


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    environment = {
        "TRAJMON_SERVER_TLS__CERTIFICATE": str(tmp_path / "gone.crt"),
        "TRAJMON_SERVER_TLS__KEY": str(tmp_path / "gone.key"),
        "TRAJMON_SERVER_TLS__CLIENT_CA_HTTP": "true",
    }
    code, text = health("--http", "127.0.0.1:1", environment=environment)
    assert code == 1
    assert text.endswith(f"tls.certificate {tmp_path / 'gone.crt'}: No such file or directory")


def test_asking_loads_neither_arrays_nor_grpc() -> None:
    script = (
        "import sys\n"
        "from trajmon_server.cli import main\n"
        "try:\n    main(['health', '--http', '127.0.0.1:1'])\n"
        "except SystemExit as end:\n    print(end.code, sorted({'numpy', 'grpc', 'zarr'} & set(sys.modules)))\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    assert outcome.stdout.strip() == "1 []"
