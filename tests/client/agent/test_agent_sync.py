"""Handing in what is left, in the foreground."""

from __future__ import annotations

from pathlib import Path

from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    assert_rows_equal,
    names,
    record_run,
)
from trajmon._files import ProcessLock
from trajmon._settings import AgentSettings
from trajmon.agent.sync import sync
from trajmon_protos.record import decode


def test_sync_hands_in_what_is_left(home: Path, server: IngestServer) -> None:
    recorded = record_run(home, server.address, checkpoints=3)
    assert sync(recorded.run_dir.path) == 0
    assert_rows_equal(server.run("run"), recorded)
    assert sync(recorded.run_dir.path) == 0
    owner = ProcessLock(recorded.run_dir.owner_lock)
    assert owner.acquire()
    recorded.add(step=30, previous=2)
    assert sync(recorded.run_dir.path) == 0
    owner.release()


def test_sync_without_a_server_says_how_much_is_left(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=3)
    assert sync(recorded.run_dir.path, AgentSettings(linger_seconds=0.5)) == 3
    assert decode((recorded.run_dir.spool / "00000002.row").read_bytes()).header.checkpoint == 2


def test_at_the_spools_cap_rows_wait_as_snapshots(home: Path, server: IngestServer) -> None:
    server.stop()
    recorded = record_run(home, server.address, checkpoints=20)
    settings = AgentSettings(linger_seconds=0.5, spool_cap_bytes=3000)
    assert sync(recorded.run_dir.path, settings) == 20
    assert 0 < len(names(recorded.run_dir.spool)) < 20
    server.start()
    assert sync(recorded.run_dir.path, AgentSettings(spool_cap_bytes=3000)) == 0
    assert_rows_equal(server.run("run"), recorded)
