"""Disks that fill up or refuse, damaged files, callers that leave: what the caller hears, and what is stored."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.calls import get_hallmarks, get_map, get_run, open_run, push, push_all, refused, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2, query_pb2


def stored(server: ServerProcess) -> dict[str, bytes]:
    """Every file of the journal."""
    root = server.data_dir / "journal"
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def connect(server: ServerProcess) -> Client:
    return Client(server.addresses["grpc"], server.token)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, mounted for the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True, timeout=20)
    yield folder
    subprocess.run(["umount", "--recursive", "--lazy", folder], check=True, timeout=20)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while os.statvfs(disk).f_bfree:
            file.write(bytes(4096))
    return filler


@pytest.fixture
def on_disk(disk: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that keeps its data on the small disk."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(disk / "data")
    (disk / "data" / "journal").mkdir(parents=True)
    server = ServerProcess(tmp_path / "home", environment={"TRAJMON_SERVER_LIMITS__MIN_FREE_DISK_BYTES": "0"})
    yield server
    if server.process is not None:
        server.stop()


def test_a_full_disk_refuses_rows_and_runs_until_there_is_space_again(
    disk: Path, on_disk: ServerProcess
) -> None:
    server = on_disk.start()
    run, other = SyntheticRun("full"), SyntheticRun("other")
    with connect(server) as client:
        epoch = push_all(client, run, stop=3)
        before = get_map(client, "full")
        filler = fill(disk)
        kept = stored(server)
        root = server.data_dir / "journal"
        for action, call in (
            (
                f"store checkpoint 3 part 0 of run {run.run_id}",
                lambda: push(client, run, epoch, run.record(3)),
            ),
            (f"store run.json of run {other.run_id}", lambda: open_run(client, other)),
        ):
            text = f"cannot {action} in {root}: No space left on device; free space on this disk, then send again"
            refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", f"{text}; nothing was stored", call)
        assert stored(server) == kept
        np.testing.assert_array_equal(get_map(client, "full")["map"], before["map"])
        filler.unlink()
        assert push(client, run, epoch, run.record(3)).next_checkpoint == 4
        assert open_run(client, other).next_checkpoint == 0
        assert get_map(client, "full")["map"].shape == (4, 4)
    assert server.stop() == 0


def test_the_disk_reserve_is_kept_free(disk: Path, on_disk: ServerProcess) -> None:
    on_disk.environment["TRAJMON_SERVER_LIMITS__MIN_FREE_DISK_BYTES"] = str(8 << 20)
    server = on_disk.start()
    run = SyntheticRun("reserve")
    with connect(server) as client:
        epoch = open_run(client, run).writer_epoch
        refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "DISK_RESERVE",
            "keeps 8388608 in reserve (limits.min_free_disk_bytes); free some space",
            lambda: push(client, run, epoch, run.record(0)),
        )
    # What alerts are made of: with the reserve left, the disk itself looks well.
    assert 'trajmon_ingest_events_total{event="refused_disk_full"} 1.0' in server.scrape()
    assert server.stop() == 0
    assert not list((disk / "data").rglob("*.row"))


def test_a_disk_that_turns_read_only_refuses_rows_and_still_answers(
    disk: Path, on_disk: ServerProcess
) -> None:
    journal = disk / "data" / "journal"
    # A mount of its own: the system makes none read-only while a file on it is open for writing.
    subprocess.run(["mount", "--bind", journal, journal], check=True, timeout=20)
    server = on_disk.start()
    run = SyntheticRun("frozen")
    with connect(server) as client:
        epoch = push_all(client, run, stop=3)
        before = get_map(client, "frozen")
        kept = stored(server)
        subprocess.run(["mount", "-o", "remount,bind,ro", journal], check=True, timeout=20)
        refused(
            grpc.StatusCode.UNAVAILABLE,
            "READ_ONLY",
            f"cannot store checkpoint 3 part 0 of run {run.run_id} in {server.data_dir}/journal: "
            "Read-only file system; make the directory writable, then send again; nothing was stored",
            lambda: push(client, run, epoch, run.record(3)),
        )
        assert stored(server) == kept
        np.testing.assert_array_equal(get_map(client, "frozen")["map"], before["map"])
        subprocess.run(["mount", "-o", "remount,bind,rw", journal], check=True, timeout=20)
        assert push(client, run, epoch, run.record(3)).next_checkpoint == 4
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("remount,ro", "Read-only file system; give another with --data-dir"),
        (None, "No space left on device"),
    ],
)
def test_a_server_does_not_start_on_a_disk_that_it_cannot_write(
    disk: Path, on_disk: ServerProcess, options: str | None, text: str
) -> None:
    if options:
        subprocess.run(["mount", "-o", options, disk], check=True, timeout=20)
    else:
        fill(disk)
    with pytest.raises(AssertionError) as caught:
        on_disk.start()
    assert f"trajmon-server: data directory {on_disk.data_dir}: " in str(caught.value)
    assert text in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_run_whose_control_file_is_lost_goes_on_behind_a_new_epoch(server: ServerProcess) -> None:
    run, other = SyntheticRun("lost-control"), SyntheticRun("broken-control")
    with connect(server) as client:
        old = push_all(client, run, stop=4)
        push_all(client, other, stop=3)
    server.stop()
    journal = server.data_dir / "journal"
    (journal / run.run_id / "control.json").unlink()
    (journal / other.run_id / "control.json").write_text('{"attempt": "many"')
    server.start()
    with connect(server) as client:
        refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "FENCED",
            "is over",
            lambda: push(client, run, old, run.record(4)),
        )
        for opened, count in ((run, 4), (other, 3)):
            response = open_run(client, opened)
            assert response.next_checkpoint == count
            assert response.writer_epoch > old + 1
            push(client, opened, response.writer_epoch, opened.record(count))
            assert get_map(client, opened.name)["map"].shape == (count + 1, count + 1)
    assert "control file of a run was lost" in server.log


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "run.json is missing; restore it from a copy"),
        ("{", "is not JSON"),
        ('{"run_id": "x"}', "no field 'name'"),
    ],
)
def test_one_unreadable_run_does_not_keep_the_server_from_starting(
    server: ServerProcess, content: str | None, text: str
) -> None:
    bad, good = SyntheticRun("bad"), SyntheticRun("good")
    with connect(server) as client:
        push_all(client, bad, stop=3)
        push_all(client, good, stop=3)
    server.stop()
    description = server.data_dir / "journal" / bad.run_id / "run.json"
    original = description.read_bytes()
    description.unlink()
    if content is not None:
        description.write_text(content)
    server.start()
    kept = stored(server)
    with connect(server) as client:
        assert get_map(client, "good")["map"].shape == (3, 3)
        error = refused(
            grpc.StatusCode.UNAVAILABLE,
            "RUN_UNREADABLE",
            f"run {bad.run_id} is stored here but cannot be read: ",
            lambda: open_run(client, bad),
        )
        assert text in (error.details() or "")
        assert stored(server) == kept
    server.stop()
    description.write_bytes(original)
    server.start()
    with connect(server) as client:
        assert open_run(client, bad).next_checkpoint == 3


def test_a_damaged_header_is_found_out_and_its_row_set_aside(server: ServerProcess) -> None:
    run = SyntheticRun("header")
    with connect(server) as client:
        push_all(client, run, stop=6)
    server.stop()
    path = server.data_dir / "journal" / run.run_id / "rows" / "00000005.0000.row"
    intact = path.read_bytes()
    # `previous`, field 6: it names a checkpoint that was never there.
    position = intact.index(b"\x30\x04", 20)
    path.write_bytes(intact[: position + 1] + b"\x63" + intact[position + 2 :])
    server.start()
    with connect(server) as client:
        response = open_run(client, run)
        assert response.next_checkpoint == 5
        assert push(client, run, response.writer_epoch, intact).next_checkpoint == 6
        np.testing.assert_allclose(get_map(client, "header")["gram"], run.gram(list(range(6))), rtol=1e-12)


def test_products_of_a_row_that_is_lost_while_serving_are_missing_until_it_comes_again(
    server: ServerProcess,
) -> None:
    run = SyntheticRun("vanished")
    with connect(server) as client:
        epoch = push_all(client, run, stop=6)
        before = get_hallmarks(client, "vanished")
        path = server.data_dir / "journal" / run.run_id / "rows" / "00000003.0000.row"
        path.rename(path.with_suffix(".away"))
        after = get_hallmarks(client, "vanished")
        assert np.isnan(after["update_norm"][3])
        np.testing.assert_array_equal(after["update_norm"][:3], before["update_norm"][:3])
        assert push(client, run, epoch, run.record(5)).next_checkpoint == 3
        assert push(client, run, epoch, run.record(3)).next_checkpoint == 6
        np.testing.assert_array_equal(get_hallmarks(client, "vanished")["update_norm"], before["update_norm"])


def test_callers_that_leave_in_the_middle_of_a_row(server: ServerProcess) -> None:
    run = SyntheticRun("impatient", num_checkpoints=60, num_layers=40)
    with connect(server) as client:
        epoch = open_run(client, run).writer_epoch
        for checkpoint in range(60):
            request = ingest_pb2.PushRowRequest(
                run_id=run.run_id, writer_epoch=epoch, record=run.record(checkpoint)
            )
            for pause in (0.0, 0.001, 0.002, 0.004):
                call = client.ingest.PushRow.future(request, metadata=client.metadata, timeout=30)
                time.sleep(pause)
                call.cancel()
            rows = len(list((server.data_dir / "journal" / run.run_id / "rows").iterdir()))
            # A new writer sees what is on disk by then: the old one's row cannot come behind it.
            response = open_run(client, run)
            assert response.next_checkpoint >= rows
            epoch = response.writer_epoch
            push(client, run, epoch, run.record(checkpoint))
        assert get_map(client, "impatient")["map"].shape == (60, 60)
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_every_acknowledged_row_is_there_after_a_stop_under_load(server: ServerProcess) -> None:
    runs = [SyntheticRun(f"load-{index}", seed=index, num_checkpoints=400) for index in range(4)]
    acknowledged: dict[str, int] = {run.run_id: 0 for run in runs}
    enough = threading.Event()

    ends: list[grpc.StatusCode] = []

    def agent(run: SyntheticRun) -> None:
        with connect(server) as client:
            epoch = open_run(client, run).writer_epoch
            try:
                for checkpoint in range(run.num_checkpoints):
                    push(client, run, epoch, run.record(checkpoint))
                    acknowledged[run.run_id] = checkpoint + 1
                    if sum(acknowledged.values()) > 60:
                        enough.set()
            except grpc.RpcError as error:
                ends.append(error.code())

    threads = [threading.Thread(target=agent, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    status = server.stop()
    for thread in threads:
        thread.join(60)
    assert status == 0
    assert "Traceback" not in server.log
    assert len(ends) == len(runs)
    assert set(ends) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    server.start()
    with connect(server) as client:
        for run in runs:
            count = open_run(client, run).next_checkpoint
            assert count >= acknowledged[run.run_id]
            rows = sorted((server.data_dir / "journal" / run.run_id / "rows").iterdir())
            assert [path.read_bytes() for path in rows] == [run.record(n) for n in range(count)]
            assert get_map(client, run.name)["map"].shape == (count, count)


def test_a_run_that_ended_is_opened_again(server: ServerProcess) -> None:
    run = SyntheticRun("again")
    with connect(server) as client:
        epoch = push_all(client, run, stop=3)
        report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
        report(client, run, epoch, ingest_pb2.RUN_PHASE_UNSPECIFIED)
        assert get_run(client, "again").summary.phase == ingest_pb2.RUN_PHASE_FINISHED
        response = open_run(client, run, attempt=2)
        assert get_run(client, "again").summary.phase == ingest_pb2.RUN_PHASE_RUNNING
        push(client, run, response.writer_epoch, run.record(3, attempt=2))
        assert get_run(client, "again").summary.attempt == 2
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "phase: 99 is no phase that this server knows; update the server",
            lambda: report(client, run, response.writer_epoch, 99),  # type: ignore[arg-type] # on purpose
        )
        refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "OLD_ATTEMPT",
            "attempt 1 of run 'again' is over; attempt 2 has started",
            lambda: open_run(client, run, attempt=1),
        )


def test_watchers_give_their_places_back(tmp_path: Path) -> None:
    environment = {"TRAJMON_SERVER_LIMITS__MAX_CONCURRENT_RPCS": "8"}
    server = ServerProcess(tmp_path / "home", environment=environment).start()
    run = SyntheticRun("watched")
    with connect(server) as client:
        epoch = push_all(client, run, stop=2)

        def watch() -> grpc.Call:
            call = client.query.WatchRun(
                query_pb2.WatchRunRequest(run="watched"), metadata=client.metadata, timeout=60
            )
            next(call)
            return call

        calls = [watch() for _ in range(4)]
        refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_WATCHERS",
            "4 calls watch runs, this server has room for 4 (half of limits.max_concurrent_rpcs)",
            watch,
        )
        push(client, run, epoch, run.record(2))
        for call in calls:
            call.cancel()
        for _ in range(100):  # the server hears of a cancellation a little later
            try:
                calls = [watch() for _ in range(4)]
                break
            except grpc.RpcError:
                time.sleep(0.05)
        assert all(call.is_active() for call in calls)
        for call in calls:
            call.cancel()
    assert server.stop() == 0
    assert "Task was destroyed" not in server.log


def test_health_is_open_but_strangers_cannot_take_places_with_it(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"http://{server.addresses['http']}/readyz", timeout=10) as answer:
        assert json.load(answer) == {"ready": True}
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        refused(
            grpc.StatusCode.UNAUTHENTICATED,
            None,
            "no token was sent",
            lambda: list(health.Watch(health_pb2.HealthCheckRequest(), timeout=10)),
        )
