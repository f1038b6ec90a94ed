"""The client against real servers that speak TLS, or not, or with the wrong certificate: what it says."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from support.tls import Authority, Pair, client_environment
from trajmon._address import parse_server
from trajmon._channel import trusted_roots
from trajmon._handshake import explain
from trajmon._settings import TlsFiles
from trajmon.cli import main
from trajmon.query import AddressError, QueryClient, QueryError, UnreachableError, UntrustedError
from trajmon_protos.v1 import query_pb2, query_pb2_grpc

TOKEN = "a-token-for-tests"


class Runs(query_pb2_grpc.QueryServiceServicer):
    """No runs, for whoever has the token."""

    GetCrossMap = GetHallmarks = GetMap = GetRun = WatchRun = None  # type: ignore[assignment] # never called

    def ListRuns(self, request: Any, context: Any) -> Any:
        sent = dict(context.invocation_metadata()).get("authorization")
        assert sent == f"Bearer {TOKEN}"
        return query_pb2.ListRunsResponse()


@contextmanager
def serving(pair: Pair | None, client_ca: Path | None = None) -> Iterator[str]:
    """A server on 127.0.0.1; its HOST:PORT."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    query_pb2_grpc.add_QueryServiceServicer_to_server(Runs(), server)
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        files = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
        ca = None if client_ca is None else client_ca.read_bytes()
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials(files, ca, require_client_auth=ca is not None)
        )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Whom this client trusts."""
    made = Authority(tmp_path / "tls")
    monkeypatch.setenv("TRAJMON_TLS_CA", str(made.file))
    return made


def ask(address: str) -> None:
    with QueryClient(address, TOKEN) as client:
        assert client.serving()
        assert client.list_runs() == []


def problem(address: str, kind: type[QueryError] = UntrustedError) -> str:
    """What the client says against a server."""
    with pytest.raises(kind) as caught:
        ask(address)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_server_with_a_certificate_of_the_trusted_authority(authority: Authority) -> None:
    with serving(authority.issue("server")) as address:
        ask(f"grpcs://{address}")
        ask(f"grpcs://{address.replace('127.0.0.1', 'localhost')}")


def test_a_certificate_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "strangers")
    with serving(stranger.issue("server")) as address:
        assert problem(f"grpcs://{address}") == (
            f"the certificate of the server at grpcs://{address} is not trusted (unable to get local issuer "
            f"certificate) by the authorities that count here, those in {authority.file}, which TRAJMON_TLS_CA names: "
            "it must hold the certificate of the authority that signed the server's"
        )


def test_without_a_file_the_machines_authorities_count(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRAJMON_TLS_CA")
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    with serving(authority.issue("server")) as address:
        text = problem(f"grpcs://{address}")
        assert "those of this machine: set TRAJMON_TLS_CA to a PEM file with the certificate" in text
        # Where OpenSSL is told to look for them, an institute's own authority among them.
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        ask(f"grpcs://{address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path / "strangers").file))
        assert "is not trusted" in problem(f"grpcs://{address}")


def test_the_machines_authorities_are_not_those_that_grpc_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Authority(tmp_path / "chosen").file
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(chosen))
    assert trusted_roots(TlsFiles()) == chosen.read_bytes()
    for name in ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    roots = trusted_roots(TlsFiles())
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    assert bundle.exists()
    assert roots == bundle.read_bytes()


def test_a_certificate_for_another_name(authority: Authority) -> None:
    with serving(authority.issue("server", "monitor.example.org")) as address:
        assert problem(f"grpcs://{address}") == (
            f"the certificate of the server at grpcs://{address} is not for the name '127.0.0.1': call the server by "
            "a name that is in it"
        )
        named = address.replace("127.0.0.1", "localhost")
        assert "is not for the name 'localhost'" in problem(f"grpcs://{named}")


@pytest.mark.parametrize(("begins", "ends", "words"), [(-9, -1, "has expired"), (1, 9, "is not valid yet")])
def test_a_certificate_of_another_time(authority: Authority, begins: int, ends: int, words: str) -> None:
    now = datetime.now(UTC)
    pair = authority.issue("server", begins=now + timedelta(begins), ends=now + timedelta(ends))
    with serving(pair) as address:
        assert problem(f"grpcs://{address}") == (
            f"the certificate of the server at grpcs://{address} {words}: renew it there, and see the clocks of both "
            "machines"
        )


def test_clear_text_to_a_server_that_speaks_tls(authority: Authority) -> None:
    with serving(authority.issue("server")) as address:
        assert problem(address) == f"the server at {address} speaks TLS: name it as grpcs://{address}"
    with serving(authority.issue("server"), authority.file) as address:
        assert problem(address) == f"the server at {address} speaks TLS: name it as grpcs://{address}"


def test_tls_to_a_server_that_speaks_clear_text() -> None:
    with serving(None) as address:
        assert problem(f"grpcs://{address}") == (
            f"no TLS is spoken at grpcs://{address}: name the server as {address} if it is to be called in clear text, "
            "or set tls.certificate and tls.key on the server"
        )


def test_a_server_that_asks_for_a_certificate(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(authority.issue("server"), authority.file) as address:
        server = f"grpcs://{address}"
        assert problem(server) == (
            f"the server at {server} asks for a certificate of the caller: set TRAJMON_TLS_CERT and TRAJMON_TLS_KEY"
        )
        for pair in (
            Authority(tmp_path / "strangers").issue("stranger", "someone"),
            authority.issue("old", "someone", ends=datetime.now(UTC) - timedelta(1)),
        ):
            for name, value in client_environment(authority.file, pair).items():
                monkeypatch.setenv(name, value)
            assert problem(server) == (
                f"the server at {server} does not take the certificate in {pair.certificate}: it must be signed by "
                "the server's tls.client_ca, and be valid now"
            )
        for name, value in client_environment(authority.file, authority.issue("mine", "me")).items():
            monkeypatch.setenv(name, value)
        ask(server)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    for text in (address, f"grpcs://{address}"):
        assert f"no server answers at {text}" in problem(text, UnreachableError)


def test_something_else_there() -> None:
    """A port that hangs up at once, and one that answers in its own tongue."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        greeting = b""

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(greeting)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert "no server answers" in problem(address, UnreachableError)
            assert "no server answers" in problem(f"grpcs://{address}", UnreachableError)
            greeting = b"SSH-2.0-OpenSSH_9.2\r\n"
            assert "no server answers" in problem(address, UnreachableError)
            assert "no TLS is spoken" in problem(f"grpcs://{address}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def shake_once(context: ssl.SSLContext) -> str:
    """What is said against a server that speaks TLS in its own way, over one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:

        def answer() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as shaken:
                shaken.recv(1)

        done = executor.submit(answer)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        found = explain(parse_server(f"grpcs://{address}"), TlsFiles.from_environment())
        done.result(timeout=30)
        return found.replace(address, "ADDRESS")


def test_a_server_that_speaks_another_tls(authority: Authority) -> None:
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    assert shake_once(context) == (
        "what answers at grpcs://ADDRESS speaks TLS, but not HTTP/2, which gRPC needs: name the server's gRPC port, "
        "not another of its ports; a proxy must offer h2 by ALPN"
    )
    # No cipher that both have: not a matter of certificates.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-SHA")
    found = shake_once(context)
    assert found.startswith("the server at grpcs://ADDRESS breaks the TLS handshake off (")
    assert "handshake_failure); if it asks for a certificate of the caller, set TRAJMON_TLS_CERT" in found


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("TRAJMON_TLS_CA", "certificate"),
        ("TRAJMON_TLS_CERT", "certificate"),
        ("TRAJMON_TLS_KEY", "private key"),
    ],
)
def test_files_that_cannot_be_used(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    for name, value in client_environment(authority.file, authority.issue("mine", "me")).items():
        monkeypatch.setenv(name, value)
    other, fifo = tmp_path / "other.pem", tmp_path / "fifo"
    other.write_text("something else")
    os.mkfifo(fifo)
    for path, text in (
        (tmp_path / "nowhere.pem", "No such file or directory"),
        (tmp_path, "is not a file"),
        (fifo, "is not a file"),
        (other, f"holds no {kind} in PEM form"),
    ):
        monkeypatch.setenv(variable, str(path))
        found = problem("grpcs://127.0.0.1:1", AddressError)
        assert found.startswith(f"{variable}: {path}")
        assert found.endswith(text)


def test_a_key_of_another_certificate(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = authority.issue("mine", "me"), authority.issue("other", "me")
    for name, value in client_environment(authority.file, Pair(mine.certificate, other.key)).items():
        monkeypatch.setenv(name, value)
    found = problem("grpcs://127.0.0.1:1", AddressError)
    assert found == f"TRAJMON_TLS_KEY: {other.key} is not the key of the certificate in {mine.certificate}"


def test_a_token_is_not_sent_in_clear_text_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a connection made: the address is one of those that exist nowhere (RFC 5737)."""
    with pytest.raises(AddressError, match=r"the token is not sent to 192\.0\.2\.1:50051 in clear text"):
        QueryClient("192.0.2.1:50051", TOKEN)
    QueryClient("192.0.2.1:50051", None).close()
    monkeypatch.setenv("TRAJMON_ALLOW_PLAINTEXT", "1")
    QueryClient("192.0.2.1:50051", TOKEN).close()


def doctor(home: Path, server: str) -> dict[str, dict[str, str]]:
    environment = {"TRAJMON_HOME": str(home), "TRAJMON_TOKEN": TOKEN}
    result = CliRunner().invoke(main, ["doctor", "--json", "--server", server], env=environment)
    return {check["name"]: check for check in json.loads(result.output)}


def test_the_doctor_looks_at_tls(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with serving(authority.issue("server")) as address:
        found = doctor(home, f"grpcs://{address}")
        assert found["tls"]["level"] == found["server"]["level"] == "ok"
        assert found["tls"]["text"] == f"trusts those in {authority.file}; shows no certificate"
        assert "tls" not in doctor(home, address)
        assert found["server"]["text"].startswith(f"grpcs://{address} answers and takes the token")
        pair = authority.issue("mine", "me")
        for name, value in client_environment(authority.file, pair).items():
            monkeypatch.setenv(name, value)
        pair.key.chmod(0o640)
        check = doctor(home, f"grpcs://{address}")["tls"]
        assert (check["level"], check["fix"]) == ("warning", f"chmod 600 {pair.key}")
        monkeypatch.setenv("TRAJMON_TLS_CA", str(Authority(tmp_path / "strangers").file))
        check = doctor(home, f"grpcs://{address}")["server"]
        assert check["level"] == "problem"
        assert "is not trusted" in check["text"]
        monkeypatch.setenv("TRAJMON_TLS_CA", str(tmp_path / "nowhere"))
        check = doctor(home, f"grpcs://{address}")["tls"]
        assert (check["level"], check["text"]) == (
            "problem",
            f"TRAJMON_TLS_CA: {tmp_path}/nowhere: No such file or directory",
        )


def test_the_doctor_warns_of_clear_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trajmon.cli.checks import _check_tls

    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    found = doctor(home, "192.0.2.1:50051")["server"]
    assert found["level"] == "problem"
    assert "the token is not sent to 192.0.2.1:50051 in clear text" in found["text"]
    monkeypatch.setenv("TRAJMON_ALLOW_PLAINTEXT", "1")
    (check,) = _check_tls("192.0.2.1:50051")
    assert check.level == "warning"
    assert "crosses the network to 192.0.2.1:50051 in clear text" in check.text
