"""A real server that speaks TLS on its three ports, and a real training that is watched through it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest

import trajmon
from support.calls import open_run
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.tls import (
    Authority,
    Pair,
    TlsClient,
    client_environment,
    context_of,
    get,
    server_environment,
    shown_certificate,
)
from support.training import make_model, make_optimizer, one_thread, parameters, train_step
from support.truth import Truth
from trajmon.query import QueryClient, UntrustedError
from trajmon_protos.v1 import query_pb2

WAIT_SECONDS = 60.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
def server(tmp_path: Path, pair: Pair) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path / "home", environment=server_environment(pair)).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


@pytest.fixture
def strict_server(tmp_path: Path, authority: Authority, pair: Pair) -> Iterator[ServerProcess]:
    """Asks callers for certificates."""
    environment = server_environment(pair, authority.file)
    started = ServerProcess(tmp_path / "home", environment=environment).start()
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log


def list_runs(client: Client) -> list[str]:
    reply = client.query.ListRuns(query_pb2.ListRunsRequest(), metadata=client.metadata, timeout=20)
    return [run.name for run in reply.runs]


def test_grpc_over_tls_and_not_without(server: ServerProcess, authority: Authority) -> None:
    address = server.addresses["grpc"]
    with TlsClient(address, server.token, authority.file) as client:
        assert list_runs(client) == []
    with Client(address, server.token) as plain, pytest.raises(grpc.RpcError) as caught:
        list_runs(plain)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with TlsClient(address, None, authority.file) as stranger, pytest.raises(grpc.RpcError) as caught:
        list_runs(stranger)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_http_over_tls(server: ServerProcess, authority: Authority) -> None:
    address, context = server.addresses["http"], context_of(authority.file)
    assert get(address, "/healthz", context).status == 200
    assert get(address, "/api/v1/runs", context).status == 401
    assert get(address, "/api/v1/runs", context, Authorization=f"Bearer {server.token}").status == 200
    login = get(address, f"/?token={server.token}", context)
    assert login.status == 303
    attributes = {part.strip() for part in login.headers["set-cookie"].split(";")[1:]}
    assert {"Secure", "HttpOnly", "SameSite=strict"} <= attributes
    cookie = login.headers["set-cookie"].partition(";")[0]
    assert get(address, "/", context, Cookie=cookie).status == 200
    assert get(address, "/healthz", context, Host="elsewhere.example.org").status == 400
    plain = http.client.HTTPConnection(address, timeout=20)
    plain.request("GET", "/healthz")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    plain.close()


def test_a_client_that_names_another_port_of_the_server_is_told_so(
    server: ServerProcess, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_TLS_CA", str(authority.file))
    for name in ("http", "metrics"):
        address = f"grpcs://{server.addresses[name]}"
        with QueryClient(address, server.token) as client, pytest.raises(UntrustedError) as caught:
            client.list_runs()
        assert str(caught.value) == (
            f"what answers at {address} speaks TLS, but not HTTP/2, which gRPC needs: name the server's gRPC port, not "
            "another of its ports; a proxy must offer h2 by ALPN"
        )


def test_strict_transport_is_said_where_the_name_is_the_servers_own(
    server: ServerProcess, authority: Authority
) -> None:
    address, context = server.addresses["http"], context_of(authority.file)
    for host, is_said in (
        ("localhost", True),
        ("localhost:443", True),
        ("localhost:8080", False),
        ("[::1]", True),
        ("[::1]:8080", False),
    ):
        for path in ("/healthz", "/", "/api/v1/runs"):
            headers = get(address, path, context, Host=host).headers
            assert headers.get("strict-transport-security") == ("max-age=31536000" if is_said else None)


def test_a_caller_that_never_shakes_hands_holds_nobody_up(
    server: ServerProcess, authority: Authority
) -> None:
    context = context_of(authority.file)
    silent = []
    for name in ("grpc", "http", "metrics"):
        host, _, port = server.addresses[name].rpartition(":")
        silent += [socket.create_connection((host, int(port)), timeout=20) for _ in range(4)]
    try:
        assert get(server.addresses["http"], "/readyz", context).status == 200
        assert get(server.addresses["metrics"], "/metrics", context).status == 200
        with TlsClient(server.addresses["grpc"], server.token, authority.file) as client:
            assert list_runs(client) == []
    finally:
        for connection in silent:
            connection.close()


def test_metrics_over_tls_tell_when_the_certificate_ends(tmp_path: Path, authority: Authority) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=40)
    pair = authority.issue("server", begins=ends - timedelta(days=90), ends=ends)
    server = ServerProcess(tmp_path / "home", environment=server_environment(pair)).start()
    try:
        context = context_of(authority.file)
        name = "trajmon_tls_certificate_expiry_timestamp_seconds"

        def shown() -> float:
            text = get(server.addresses["metrics"], "/metrics", context).text
            (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
            return float(value)

        assert shown() == ends.timestamp()
        authority.issue("server", begins=ends - timedelta(days=90), ends=ends + timedelta(days=30))
        wait_for(lambda: shown() == (ends + timedelta(days=30)).timestamp())
        assert shown_certificate(server.addresses["metrics"], context) == pair.der
    finally:
        server.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_renewal_while_callers_are_connected(
    server: ServerProcess, authority: Authority, pair: Pair
) -> None:
    address, context = server.addresses["grpc"], context_of(authority.file)
    first = pair.der
    with TlsClient(address, server.token, authority.file) as connected:
        assert list_runs(connected) == []
        open_run(connected, SyntheticRun("renewed"))
        authority.issue("server")
        places = [server.addresses[name] for name in ("grpc", "http")]
        wait_for(lambda: all(shown_certificate(place, context) == pair.der for place in places))
        assert pair.der != first
        # The old connection lives on, a new one begins with the new certificate.
        assert list_runs(connected) == ["renewed"]
        with TlsClient(address, server.token, authority.file) as fresh:
            assert list_runs(fresh) == ["renewed"]
        # A file that is broken meanwhile takes nothing away.
        pair.certificate.write_text("nothing")
        wait_for(lambda: "renewed TLS files cannot be used" in server.log)
        assert get(server.addresses["http"], "/readyz", context).status == 200
        with TlsClient(address, server.token, authority.file) as fresh:
            assert list_runs(fresh) == ["renewed"]


def test_callers_must_show_a_certificate(
    strict_server: ServerProcess, authority: Authority, tmp_path: Path
) -> None:
    server = strict_server
    mine = authority.issue("mine", "someone")
    stranger = Authority(tmp_path / "strangers").issue("stranger", "someone")
    with TlsClient(server.addresses["grpc"], server.token, authority.file, mine) as client:
        assert list_runs(client) == []
    for pair in (None, stranger):
        with (
            TlsClient(server.addresses["grpc"], server.token, authority.file, pair) as client,
            pytest.raises(grpc.RpcError) as caught,
        ):
            list_runs(client)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            get(server.addresses["metrics"], "/metrics", context_of(authority.file, pair))
    assert get(server.addresses["metrics"], "/metrics", context_of(authority.file, mine)).status == 200
    # Whoever supervises the server has no certificate.
    assert get(server.addresses["http"], "/healthz", context_of(authority.file)).status == 200
    assert get(server.addresses["http"], "/readyz", context_of(authority.file)).status == 200


def test_http_asks_for_a_certificate_if_told_to(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    environment = server_environment(pair, authority.file, client_ca_http="true")
    server = ServerProcess(tmp_path / "home", environment=environment).start()
    try:
        address = server.addresses["http"]
        mine = authority.issue("mine", "someone")
        assert get(address, "/healthz", context_of(authority.file, mine)).status == 200
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            get(address, "/healthz", context_of(authority.file))
    finally:
        assert server.stop() == 0


def test_addresses_beyond_loopback_need_tls_or_a_word(tmp_path: Path, pair: Pair) -> None:
    everywhere = ("--grpc", "0.0.0.0:0", "--http", "0.0.0.0:0", "--metrics", "0.0.0.0:0")
    refused = ServerProcess(tmp_path / "refused")
    done = subprocess.run(
        refused.command(*everywhere),
        env={**os.environ, "TRAJMON_HOME": str(refused.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "trajmon-server: --grpc 0.0.0.0:0 can be reached from other machines, and tokens would cross the network in "
        "clear text; set tls.certificate and tls.key, put a TLS proxy in front, or accept it with "
        "allow_remote_plaintext = true\n"
    )
    server = ServerProcess(tmp_path / "home", environment=server_environment(pair)).start(*everywhere)
    assert server.stop() == 0


def test_a_server_without_its_key_does_not_start(tmp_path: Path, pair: Pair) -> None:
    pair.key.unlink()
    server = ServerProcess(tmp_path / "home", environment=server_environment(pair))
    done = subprocess.run(
        server.command(),
        env={**os.environ, "TRAJMON_HOME": str(server.home), **server.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"trajmon-server: tls.key {pair.key}: No such file or directory\n",
    )


def test_a_training_over_tls(
    strict_server: ServerProcess, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With certificates on both sides, named by a path relative to where the training runs, not its agent."""
    server, mine = strict_server, authority.issue("mine", "someone")
    monkeypatch.chdir(authority.folder)
    for name, path in client_environment(Path(authority.file.name), mine).items():
        monkeypatch.setenv(name, path)
    address = f"grpcs://{server.addresses['grpc']}"
    model = make_model(seed=0)
    optimizer = make_optimizer(model)
    steps, kept = [0], [parameters(model)]
    home = tmp_path / "training"
    home.mkdir()
    monkeypatch.setenv("TRAJMON_TOKEN", server.token)
    with (
        one_thread(),
        trajmon.watch(model, run="over-tls", server=address, home=home, strict=True) as recorder,
    ):
        for step in range(1, 9):
            train_step(model, optimizer, 0, step)
            recorder.checkpoint(step=step)
            steps.append(step)
            kept.append(parameters(model))
        recorder.close(timeout=WAIT_SECONDS)
    assert recorder.status.pending == 0, recorder.status
    truth = Truth.of({name: np.stack([values[name] for values in kept]) for name in kept[0]}, steps)
    with QueryClient(address, server.token) as client:
        truth.assert_gram(client.get_map("over-tls").gram, steps)
    with trajmon.open_run("over-tls", server=address, home=home) as view:
        truth.assert_gram(view.gram().values, steps)
    environment = {**os.environ, "TRAJMON_HOME": str(home), "TRAJMON_SERVER": address}
    for command in (("runs", "--json"), ("doctor", "--json"), ("runs", "--json", "--server", address)):
        done = subprocess.run(
            [sys.executable, "-m", "trajmon", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        if command[0] == "runs":
            assert [run["name"] for run in found] == ["over-tls"]
        else:
            (check,) = [check for check in found if check["name"] == "tls"]
            assert check["text"] == f"trusts those in {authority.file}; shows {mine.certificate}"


def test_a_local_server_that_speaks_tls_is_found_as_such(
    server: ServerProcess, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajmon.local_server import find_server

    address = find_server(server.home)
    assert address == f"grpcs://{server.addresses['grpc']}"
    monkeypatch.setenv("TRAJMON_TLS_CA", str(authority.file))
    with QueryClient(address, server.token) as client:
        assert client.list_runs() == []
    monkeypatch.delenv("TRAJMON_TLS_CA")
    with QueryClient(address, server.token) as client, pytest.raises(UntrustedError, match="is not trusted"):
        client.list_runs()


def test_renewals_under_load_lose_no_call(server: ServerProcess, authority: Authority, pair: Pair) -> None:
    """New connections all the while, half of the files at a time: each is served, by the old or the new one."""
    stop = threading.Event()
    failures: list[BaseException] = []
    counts = [0, 0]

    def call(index: int) -> None:
        context = context_of(authority.file)
        while not stop.is_set():
            try:
                if index:
                    assert get(server.addresses["http"], "/readyz", context).status == 200
                else:
                    with TlsClient(server.addresses["grpc"], server.token, authority.file) as client:
                        list_runs(client)
                counts[index] += 1
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=call, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            authority.issue("server")
            wait_for(
                lambda: shown_certificate(server.addresses["http"], context_of(authority.file)) == pair.der
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(counts) >= 5
