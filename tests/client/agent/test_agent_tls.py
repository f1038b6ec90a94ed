"""The agent and a server that speaks TLS: rows are kept while the two do not agree, and delivered after the mend."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.agent.notes import agent_note  # noqa: TID251 # tests/client, on the path of the tests
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    assert_rows_equal,
    names,
    record_run,
    run_agent,
    wait_until,
)
from support.tls import Authority, Pair, client_environment
from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.loop import Agent
from trajmon.rundir import RecorderNote
from trajmon_protos.v1 import ingest_pb2_grpc


class Listening(grpc.ServerInterceptor):
    """Notes the metadata of every call before the service sees it, as a proxy would."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        self.heard.append((details.method.rpartition("/")[2], dict(details.invocation_metadata)))
        return continuation(details)


class TlsServer(IngestServer):
    """The server of these tests over TLS; without a pair in clear text."""

    def __init__(self, pair: Pair | None, client_ca: Path | None = None) -> None:
        super().__init__()
        self.pair, self.client_ca = pair, client_ca
        self.listening = Listening()

    def start(self) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)], interceptors=[self.listening]
        )
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        if self.pair is None:
            assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        else:
            ca = None if self.client_ca is None else self.client_ca.read_bytes()
            credentials = grpc.ssl_server_credentials(
                [(self.pair.key.read_bytes(), self.pair.certificate.read_bytes())],
                ca,
                require_client_auth=ca is not None,
            )
            assert self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials) == self.port
        self._server.start()

    @property
    def address(self) -> str:
        return f"grpcs://127.0.0.1:{self.port}"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    made = Authority(tmp_path / "tls")
    monkeypatch.setenv("TRAJMON_TLS_CA", str(made.file))
    return made


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[TlsServer]:
    made = TlsServer(authority.issue("server"))
    made.start()
    yield made
    made.stop()


def test_every_call_names_its_run_in_the_metadata(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Then every row goes in pieces.
    monkeypatch.setattr("trajmon.agent.transport.STREAM_FROM_BYTES", 0)
    server = TlsServer(None)
    server.start()
    try:
        recorded = record_run(home, f"127.0.0.1:{server.port}", checkpoints=2)
        ProcessLock(recorded.run_dir.agent_lock).acquire()
        Agent(recorded.run_dir, AgentSettings.from_environment()).run()
        monkeypatch.undo()
        monkeypatch.setenv("TRAJMON_HOME", str(home))
        other = record_run(home, f"127.0.0.1:{server.port}", checkpoints=2, name="other")
        assert run_agent(other.run_dir) == 0
    finally:
        server.stop()
    heard = {(method, metadata["x-trajmon-run"]) for method, metadata in server.listening.heard}
    first, second = recorded.description.run_id, other.description.run_id
    assert heard == {
        ("OpenRun", first),
        ("PushRowStream", first),
        ("ReportStatus", first),
        ("OpenRun", second),
        ("PushRow", second),
        ("ReportStatus", second),
    }


def test_rows_over_tls(home: Path, tls_server: TlsServer) -> None:
    recorded = record_run(home, tls_server.address, checkpoints=3)
    assert run_agent(recorded.run_dir) == 0
    assert recorded.run_dir.acked() == 3
    assert_rows_equal(tls_server.run("run"), recorded)


def test_a_server_named_by_the_environment(
    home: Path, tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_SERVER", tls_server.address)
    recorded = record_run(home, None, checkpoints=1)
    assert run_agent(recorded.run_dir) == 0
    assert recorded.run_dir.acked() == 1
    assert agent_note(recorded.run_dir)["server"] == tls_server.address


def test_an_untrusted_server_gets_no_row_until_it_is_trusted(
    home: Path, authority: Authority, tls_server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "trusted.pem"
    shutil.copy(Authority(tmp_path / "strangers").file, trusted)
    monkeypatch.setenv("TRAJMON_TLS_CA", str(trusted))
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    recorded = record_run(home, tls_server.address, checkpoints=3)
    assert run_agent(recorded.run_dir) == 0
    assert agent_note(recorded.run_dir)["problem"] == (
        f"the certificate of the server at {tls_server.address} is not trusted (unable to get local issuer "
        f"certificate) by the authorities that count here, those in {trusted}, which TRAJMON_TLS_CA names: it must "
        "hold the certificate of the authority that signed the server's"
    )
    assert tls_server.calls == []
    assert len([name for name in names(recorded.run_dir.spool) if name.endswith(".row")]) == 3
    shutil.copy(authority.file, trusted)
    assert run_agent(recorded.run_dir) == 0
    assert recorded.run_dir.acked() == 3
    assert_rows_equal(tls_server.run("run"), recorded)


def test_a_living_agent_takes_up_the_mended_file(
    home: Path, authority: Authority, tls_server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "trusted.pem"
    monkeypatch.setenv("TRAJMON_TLS_CA", str(trusted))
    recorded = record_run(home, tls_server.address, checkpoints=2)
    lock = ProcessLock(recorded.run_dir.agent_lock)
    assert lock.acquire()
    settings = AgentSettings(slow_retry_seconds=0.1, backoff_seconds=(0.05, 0.1), linger_seconds=60.0)
    problems: list[str] = []

    def says(words: str) -> bool:
        problem = agent_note(recorded.run_dir).get("problem")
        return problem == "" if not words else words in (problem or "")

    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(Agent(recorded.run_dir, settings).run)
        for file, words in (
            (None, "No such file or directory"),
            (Authority(tmp_path / "strangers").file, "is not trusted"),
            (authority.file, ""),
        ):
            if file is not None:
                shutil.copy(file, trusted)
            wait_until(partial(says, words), words or "no problem")
            problems.append(agent_note(recorded.run_dir)["problem"])
        wait_until(lambda: recorded.run_dir.acked() == 2, "the rows")
        running.result(timeout=60)
    assert problems[0] == f"TRAJMON_TLS_CA: {trusted}: No such file or directory"
    assert_rows_equal(tls_server.run("run"), recorded)


def test_a_server_that_turns_to_tls_is_named_so(
    home: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clear text to a TLS port: the rows wait, and go once the run is told the other address."""
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    server = TlsServer(authority.issue("server"))
    server.start()
    try:
        recorded = record_run(home, f"127.0.0.1:{server.port}", checkpoints=2)
        assert run_agent(recorded.run_dir) == 0
        assert agent_note(recorded.run_dir)["problem"] == (
            f"the server at 127.0.0.1:{server.port} speaks TLS: name it as {server.address}"
        )
        assert server.calls == []
        RecorderNote(attempt=1, state="finished", server=server.address, threads=2).write(recorded.run_dir)
        assert run_agent(recorded.run_dir) == 0
        assert recorded.run_dir.acked() == 2
    finally:
        server.stop()


def test_a_certificate_of_the_agents_own(
    home: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    server = TlsServer(authority.issue("server"), authority.file)
    server.start()
    try:
        recorded = record_run(home, server.address, checkpoints=2)
        assert run_agent(recorded.run_dir) == 0
        assert agent_note(recorded.run_dir)["problem"] == (
            f"the server at {server.address} asks for a certificate of the caller: set TRAJMON_TLS_CERT and "
            "TRAJMON_TLS_KEY"
        )
        for name, value in client_environment(authority.file, authority.issue("mine", "me")).items():
            monkeypatch.setenv(name, value)
        assert run_agent(recorded.run_dir) == 0
        assert recorded.run_dir.acked() == 2
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            "192.0.2.1:50051",
            "the token is not sent to 192.0.2.1:50051 in clear text: name the server as grpcs://192.0.2.1:50051 if it "
            "speaks TLS, or set TRAJMON_ALLOW_PLAINTEXT=1 if nobody else can listen on the way",
        ),
        (
            "https://monitor:443",
            "'https://monitor:443' is not HOST:PORT, for example 127.0.0.1:50051, or grpcs://HOST:PORT: the scheme "
            "'https' is not known",
        ),
    ],
)
def test_an_address_that_is_not_called(
    home: Path, address: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_AGENT_LINGER_SECONDS", "1")
    recorded = record_run(home, address, checkpoints=2)
    assert run_agent(recorded.run_dir) == 0
    assert agent_note(recorded.run_dir)["problem"] == text
    assert len([name for name in names(recorded.run_dir.spool) if name.endswith(".row")]) == 2
    log = recorded.run_dir.agent_log
    assert not log.exists() or "Traceback" not in log.read_text()
