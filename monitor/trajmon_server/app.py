"""The composition root: the only place that builds everything and takes it down again."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from trajmon_protos.v1 import ingest_pb2, ingest_pb2_grpc, query_pb2, query_pb2_grpc
from trajmon_server.auth import Authenticator, load_or_create_token
from trajmon_server.config import Settings, parse_address
from trajmon_server.errors import ConfigError, reason_of
from trajmon_server.export.prometheus import Exporter
from trajmon_server.ingest.service import Ingest
from trajmon_server.ports import announced, listen, served_http, written
from trajmon_server.query.core import Query
from trajmon_server.query.cross import CrossQuery
from trajmon_server.rpc.activity import Activity
from trajmon_server.rpc.gate import Gate
from trajmon_server.rpc.ingest_servicer import IngestServicer
from trajmon_server.rpc.query_servicer import QueryServicer
from trajmon_server.rpc.readiness import Readiness
from trajmon_server.runs.following import Follower
from trajmon_server.runs.ownership import Alone, Ownership
from trajmon_server.runs.registry import Registry
from trajmon_server.runs.replicas import Replica
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.runs.worker import Worker
from trajmon_server.signals.policies import make_policy
from trajmon_server.store.base import Journal
from trajmon_server.store.errors import StoreError
from trajmon_server.store.header_cache import HeaderCache
from trajmon_server.store.journal import LocalJournal
from trajmon_server.store.leases import Leases
from trajmon_server.store.names import Names
from trajmon_server.store.objects import Objects, open_objects
from trajmon_server.store.record_journal import RecordJournal
from trajmon_server.tls import load_tls
from trajmon_server.web.app import make_app
from trajmon_server.web.backend import Backend, open_readers
from trajmon_server.web.sessions import Sessions

__all__ = ["Serving", "serve", "serving"]

log = structlog.get_logger(__name__)

GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    # A watcher that vanished without a word, or is frozen, gives its place back.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Two servers on one port would share the calls between them.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that takes calls, and where."""

    grpc: str
    http: str
    metrics: str
    registry: Registry
    activity: Activity


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task, is_serving = asyncio.current_task(), False

    def end() -> None:
        if not is_serving and not stop.is_set() and task is not None:
            task.cancel()  # there is nothing yet that could wait for the event
        stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)
    try:
        async with serving(settings) as where:
            is_serving = True
            log.info(
                "serving",
                grpc=where.grpc,
                http=where.http,
                metrics=where.metrics,
                data_dir=str(settings.data_dir),
            )
            await _until(stop, where.activity, settings.exit_when_idle_seconds)
            log.info("stopping", grace_seconds=settings.stop_grace_seconds)
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        log.info("stopped before serving")


async def _until(stop: asyncio.Event, activity: Activity, idle_seconds: float) -> None:
    """Return when told to stop, or when nobody has called for so long (0: that never ends the server)."""
    while not stop.is_set():
        left = idle_seconds - activity.idle_seconds if idle_seconds else math.inf
        if left <= 0:
            log.info("nobody has called", seconds=idle_seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(left, 60.0))


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Serving]:
    """Everything running, for the length of the context."""
    if api_implementation.Type() == "python":
        raise ConfigError(
            "protobuf runs on its pure-Python parser, which is not safe with hostile input; reinstall it"
        )
    addresses = {name: parse_address(getattr(settings, name)) for name in ("grpc", "http", "metrics")}
    tls = load_tls(settings.tls)
    for name, address in addresses.items():
        if not address.is_loopback and tls is None and not settings.allow_remote_plaintext:
            raise ConfigError(
                f"--{name} {address} can be reached from other machines, and tokens would cross the network in clear "
                "text; set tls.certificate and tls.key, put a TLS proxy in front, or accept it with "
                "allow_remote_plaintext = true"
            )
    token = load_or_create_token(settings.token_file)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_only_server(settings.data_dir))
        # Journal writes wait for the disk and must not wait behind computations, nor answers behind a restart's work.
        writers = _threads(stack, 32, "journal")
        workers = _threads(stack, settings.worker_threads, "work")
        readers = _threads(stack, settings.worker_threads, "read")
        storage = _open_storage(settings)
        journal = storage.journal
        readiness = Readiness(lambda: journal.broken)
        # Before the recovery, which may take its time: whoever supervises the server sees that it lives.
        authenticator, activity, backend = Authenticator(token, settings.tokens), Activity(), Backend()
        http_app = make_app(
            why_not_ready=readiness.problem,
            version=version("trajmon"),
            allowed_hosts=(
                "127.0.0.1",
                "localhost",
                "[::1]",
                written(addresses["http"].host),
                *settings.http_hosts,
            ),
            authenticator=authenticator,
            sessions=Sessions(token, settings.tokens),
            activity=activity,
            backend=backend,
        )
        http = await stack.enter_async_context(
            served_http(addresses["http"], http_app, backend, settings.stop_grace_seconds, tls)
        )
        if tls is not None:
            stack.push_async_callback(_ended, asyncio.create_task(tls.keep_renewing()))
        policy = make_policy(settings.signals.policy, settings.signals.settings)
        registry = Registry(journal, settings.data_dir / "maps", policy, settings.stale_after_seconds)
        exporter = Exporter(
            registry,
            settings.limits,
            settings.finished_export_seconds,
            settings.data_dir,
            lambda: not journal.broken,
        )
        worker = Worker(registry, journal, policy, workers)
        registry.on_wake(worker.wake)

        def catch_up(runs: Iterable[Run]) -> None:
            # Whose rows came last is most likely looked at first.
            worker.catch_up(sorted(runs, key=lambda run: -run.last_row_unix_seconds), settings.worker_threads)

        ownership: Ownership = Alone()
        if storage.objects is None or storage.signs is None:
            await _recover(registry, workers)
        else:
            ownership = replica = _replica(
                settings, storage.objects, storage.signs, journal, registry, writers, catch_up
            )
            await _joined(replica)
            readiness.further = replica.problem
            # Last of all that follows: nothing is acknowledged any more, so others may take the runs at once.
            stack.push_async_callback(replica.stop)
        if tls is not None:
            exporter.show_certificate(tls.expires)
        exporter.start(addresses["metrics"], None if tls is None else tls.metrics_context())
        stack.callback(exporter.stop)
        ingest = Ingest(
            journal, registry, settings.limits, writers, settings.data_dir, exporter.observe_row, ownership
        )
        query = Query(registry, journal, settings.limits, readers)
        cross = CrossQuery(query, Rows(journal, registry.count_event), readers)
        backend.open(open_readers(query, cross, registry, journal, settings.limits, readers))
        gate = Gate(authenticator, exporter.observe_call, activity)
        server = grpc.aio.server(
            interceptors=[gate],
            options=GRPC_OPTIONS,
            maximum_concurrent_rpcs=settings.limits.max_concurrent_rpcs,
        )
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(IngestServicer(ingest, settings.limits), server)
        query_pb2_grpc.add_QueryServiceServicer_to_server(
            QueryServicer(query, cross, settings.limits), server
        )
        services = [
            ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
            query_pb2.DESCRIPTOR.services_by_name["QueryService"].full_name,
        ]
        if settings.reflection:
            reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server)
        grpc_address = addresses["grpc"]
        port = listen(server, grpc_address, tls)
        await server.start()
        stack.push_async_callback(worker.stop)
        stack.push_async_callback(ingest.drain)
        stack.push_async_callback(server.stop, settings.stop_grace_seconds)
        stack.push_async_callback(health.enter_graceful_shutdown)
        for service in ("", *services):
            await health.set(service, health_pb2.HealthCheckResponse.SERVING)
        catch_up(registry.runs())
        stack.enter_context(readiness.watched(health, ("", services[0])))
        where = Serving(
            grpc=f"{written(grpc_address.host)}:{port}",
            http=http,
            metrics=f"{written(addresses['metrics'].host)}:{exporter.port}",
            registry=registry,
            activity=activity,
        )
        if settings.announce_file is not None:
            told = {"grpc": where.grpc, "http": where.http, "metrics": where.metrics}
            stack.enter_context(announced(settings.announce_file, told | ({"tls": True} if tls else {})))
        yield where


@contextlib.contextmanager
def _only_server(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: one server at a time. The lock ends with the process, however that ends."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            f"data directory {data_dir}: {reason_of(error)}; give another with --data-dir"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"data directory {data_dir} is in use by another server (pid {file.read().strip() or 'unknown'})"
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise ConfigError(
                f"data directory {data_dir}: {reason_of(error)}; free space on this disk, or give another with "
                "--data-dir"
            ) from error
        yield


def _threads(stack: contextlib.AsyncExitStack, count: int, name: str) -> ThreadPoolExecutor:
    executor = ThreadPoolExecutor(count, thread_name_prefix=name)
    stack.callback(executor.shutdown)
    return executor


@dataclass(frozen=True, slots=True)
class _Storage:
    journal: RecordJournal
    objects: Objects | None
    """What several servers share; None where the journal is this server's alone."""
    signs: Objects | None = None
    """The same for signs of life: a request that hangs is given up before the leases end."""


def _open_storage(settings: Settings) -> _Storage:
    if not settings.journal_url:
        try:
            return _Storage(LocalJournal(settings.data_dir / "journal"), None)
        except StoreError as error:
            raise ConfigError(f"data directory {settings.data_dir}: {error}") from error
    from trajmon_server.store.object_journal import ObjectJournal

    try:
        objects = open_objects(settings.journal_url, settings.object_store)
        # A renewal that hangs leaves time for another one, which a slow store may need as well.
        patience = 0.4 * settings.lease_seconds
        signs = open_objects(settings.journal_url, settings.object_store, patience, patience)
        return _Storage(ObjectJournal(objects, HeaderCache(settings.data_dir / "headers")), objects, signs)
    except (ValueError, StoreError) as error:
        raise ConfigError(f"journal_url: {error}") from error


def _replica(
    settings: Settings,
    objects: Objects,
    signs: Objects,
    journal: Journal,
    registry: Registry,
    executor: Executor,
    catch_up: Callable[[Iterable[Run]], None],
) -> Replica:
    return Replica(
        Leases(signs, settings.replica_id, settings.lease_seconds),
        Names(objects),
        journal,
        registry,
        Follower(journal, Rows(journal, registry.count_event)),
        executor,
        catch_up,
        settings.follow_seconds,
    )


async def _joined(replica: Replica) -> None:
    try:
        await replica.start()
    except StoreError as error:
        raise ConfigError(f"journal_url: {error}") from error


async def _recover(registry: Registry, executor: Executor) -> None:
    """Recover in a thread; stop early if the server is to stop."""
    stopping = threading.Event()
    recovery = asyncio.get_running_loop().run_in_executor(executor, registry.recover, stopping.is_set)
    try:
        await asyncio.shield(recovery)
    except asyncio.CancelledError:
        stopping.set()
        await recovery
        raise


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
