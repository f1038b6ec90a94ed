"""Three real servers behind a real HAProxy with the configuration that users get: calls land where their run lives."""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.calls import TIMEOUT_SECONDS
from support.deployment import haproxy
from support.haproxy import CONFIG, HaProxy, proxied
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from support.tls import Authority, TlsClient, context_of, get, server_environment
from trajmon_protos.v1 import ingest_pb2, query_pb2

TOKEN = "the-token-of-all-three-replicas"
RUNS = 24
# Three servers start within the first test.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """Three servers with a data directory each, and one token."""
    folder, started = tmp_path_factory.mktemp("replicas"), []
    try:
        for index in range(3):
            server = ServerProcess(folder / f"replica-{index}")
            give_token(server)
            started.append(server.start())
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="module")
def running(servers: list[ServerProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaProxy]:
    with proxied(servers, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture
def proxy(servers: list[ServerProcess], running: HaProxy) -> HaProxy:
    """The proxy with all servers up, whatever the test before has done to them."""
    for server in servers:
        assert server.process is not None
        if server.process.poll() is not None:
            server.start("--http", server.addresses["http"])
    running.await_up(3)
    return running


@pytest.fixture
def client(proxy: HaProxy) -> Iterator[Client]:
    with Client(proxy.grpc, TOKEN) as connected:
        yield connected


def give_token(server: ServerProcess) -> None:
    server.home.mkdir()
    (server.home / "token").touch(mode=0o600)
    (server.home / "token").write_text(TOKEN)


def named(client: Client, run: SyntheticRun) -> tuple[tuple[str, str | bytes], ...]:
    return (*client.metadata, ("x-trajmon-run", run.run_id))


def open_run(client: Client, run: SyntheticRun) -> int:
    answer = client.ingest.OpenRun(run.open_request(), metadata=named(client, run), timeout=TIMEOUT_SECONDS)
    return answer.writer_epoch


def push(client: Client, run: SyntheticRun, epoch: int, checkpoint: int) -> None:
    request = ingest_pb2.PushRowRequest(run_id=run.run_id, writer_epoch=epoch, record=run.record(checkpoint))
    client.ingest.PushRow(request, metadata=named(client, run), timeout=TIMEOUT_SECONDS)


def holders(servers: list[ServerProcess], run: SyntheticRun) -> set[int]:
    """The servers that have heard of a run."""
    return {
        index for index, server in enumerate(servers) if (server.data_dir / "journal" / run.run_id).is_dir()
    }


def runs_of(prefix: str) -> list[SyntheticRun]:
    return [SyntheticRun(f"{prefix}-{index}", num_checkpoints=3) for index in range(RUNS)]


def test_all_calls_of_a_run_land_on_one_server_and_every_server_has_some(
    servers: list[ServerProcess], client: Client
) -> None:
    runs = runs_of("spread")
    for run in runs:
        epoch = open_run(client, run)
        for checkpoint in range(3):
            push(client, run, epoch, checkpoint)
    places = [holders(servers, run) for run in runs]
    assert all(len(place) == 1 for place in places)
    assert set.union(*places) == {0, 1, 2}


def test_without_the_header_calls_take_turns(servers: list[ServerProcess], client: Client) -> None:
    run = SyntheticRun("nameless")
    for _ in range(6):
        client.ingest.OpenRun(run.open_request(), metadata=client.metadata, timeout=TIMEOUT_SECONDS)
    assert holders(servers, run) == {0, 1, 2}


def test_a_killed_server_gives_away_its_runs_and_no_others_and_gets_them_back(
    servers: list[ServerProcess], proxy: HaProxy, client: Client
) -> None:
    runs = runs_of("moving")
    for run in runs:
        open_run(client, run)
    before = {run.run_id: holders(servers, run) for run in runs}
    assert {0} in before.values()
    addresses = servers[0].addresses
    servers[0].kill()
    # At once, while the proxy still believes in it: the connection is refused, and the call goes to the next.
    for run in runs:
        open_run(client, run)
    for run in runs:
        moved = holders(servers, run) - before[run.run_id]
        assert (len(moved) == 1) == (before[run.run_id] == {0}), run.name
    proxy.await_up(2)
    servers[0].start("--http", addresses["http"])
    proxy.await_up(3)
    newcomers = runs_of("back")
    for run in newcomers:
        open_run(client, run)
    assert set.union(*(holders(servers, run) for run in newcomers)) == {0, 1, 2}


def test_a_frozen_server_holds_up_nobody_for_long(
    servers: list[ServerProcess], proxy: HaProxy, client: Client
) -> None:
    runs = runs_of("frozen")
    for run in runs:
        open_run(client, run)
    stuck = next(run for run in runs if holders(servers, run) == {1})
    servers[1].signal(signal.SIGSTOP)
    try:
        # The proxy ends the call when its health check fails; the deadline, ten times as far off, never comes.
        with pytest.raises(grpc.RpcError) as caught:
            client.ingest.OpenRun(stuck.open_request(), metadata=named(client, stuck), timeout=90)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        open_run(client, stuck)
    finally:
        servers[1].signal(signal.SIGCONT)
    assert len(holders(servers, stuck)) == 2


def test_a_server_that_stops_leaves_no_call_unanswered(
    servers: list[ServerProcess], proxy: HaProxy, client: Client
) -> None:
    run = SyntheticRun("stopping", num_checkpoints=3)
    open_run(client, run)
    (place,) = holders(servers, run)
    assert servers[place].stop() == 0
    epoch = open_run(client, run)
    push(client, run, epoch, 0)
    assert len(holders(servers, run)) == 2


def test_reads_and_the_page_go_through(proxy: HaProxy, client: Client) -> None:
    client.query.ListRuns(query_pb2.ListRunsRequest(), metadata=client.metadata, timeout=TIMEOUT_SECONDS)
    host, _, port = proxy.http.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_SECONDS)
    try:
        # Each goes to another server: a session that one began is good at all.
        connection.request("GET", f"/?token={TOKEN}")
        login = connection.getresponse()
        login.read()
        assert login.status == 303
        cookie = login.getheader("Set-Cookie", "").partition(";")[0]
        for _ in range(3):
            connection.request("GET", "/", headers={"Cookie": cookie})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
    finally:
        connection.close()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while proxy.log.count(" http http/") < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {f"http/replica-{index}" for index in range(3)} <= set(proxy.log.split())
    assert TOKEN not in proxy.log


def with_tls(folder: Path, authority: Authority) -> Path:
    """The configuration with its lines for TLS in force."""
    pair = authority.issue("proxy")
    pem = folder / "proxy.pem"
    pem.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    lines: list[str] = []
    for line in CONFIG.read_text().splitlines():
        plain = line.replace("# With TLS: ", "")
        if plain != line and plain.strip().startswith("bind "):
            lines.pop()
        lines.append(plain)
    text = "\n".join(lines) + "\n"
    text = text.replace("/etc/haproxy/trajmon.pem", str(pem))
    path = folder / "haproxy-tls.cfg"
    path.write_text(text.replace("/etc/haproxy/trajmon-ca.pem", str(authority.file)))
    return path


def test_tls_from_the_caller_to_the_servers(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    environment = server_environment(authority.issue("server"))
    servers = [ServerProcess(tmp_path / f"replica-{index}", environment=environment) for index in range(3)]
    try:
        for server in servers:
            give_token(server)
            server.start()
        with proxied(servers, tmp_path, with_tls(tmp_path, authority)) as proxy:
            proxy.await_up(3)
            with TlsClient(proxy.grpc, TOKEN, authority.file) as caller:
                runs = runs_of("tls")
                for run in runs:
                    metadata = (*caller.metadata, ("x-trajmon-run", run.run_id))
                    caller.ingest.OpenRun(run.open_request(), metadata=metadata, timeout=TIMEOUT_SECONDS)
            places = [holders(servers, run) for run in runs]
            assert all(len(place) == 1 for place in places)
            assert set.union(*places) == {0, 1, 2}
            context = context_of(authority.file)
            assert get(proxy.http, "/readyz", context).status == 200
            assert get(proxy.http, "/readyz", context, Host="elsewhere.example.org").status == 400
    finally:
        for server in servers:
            server.stop()


def test_the_proxy_gives_no_call_to_a_server_whose_certificate_it_does_not_trust(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "pki"), Authority(tmp_path / "stranger")
    trusted, other = (server_environment(signer.issue("server")) for signer in (authority, stranger))
    servers = [
        ServerProcess(tmp_path / f"replica-{index}", environment=other if index == 1 else trusted)
        for index in range(3)
    ]
    try:
        for server in servers:
            server.start()
        with proxied(servers, tmp_path, with_tls(tmp_path, authority)) as proxy:
            proxy.await_up(2)
            assert proxy.states()[1] != "UP"
    finally:
        for server in servers:
            server.stop()


def test_haproxy_takes_the_configuration_without_a_warning(tmp_path: Path) -> None:
    assert haproxy() == []
    assert haproxy(with_tls(tmp_path, Authority(tmp_path / "pki"))) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hash-type consistent", "hash-type constant", "hash-type"),
        ("default_backend grpc", "default_backend grcp", "grcp"),
        # A warning alone: haproxy would start with it.
        ("    timeout connect 2s\n", "", "timeout"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = CONFIG.read_text()
    assert text.count(old) == 1
    broken = tmp_path / "haproxy.cfg"
    broken.write_text(text.replace(old, new))
    assert said in " ".join(haproxy(broken))
