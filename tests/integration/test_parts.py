"""Rows in parts over the wire: several ranks, a server that is killed, other world sizes, ranks that never come."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from support.calls import (
    TIMEOUT_SECONDS,
    get_hallmarks,
    get_map,
    get_run,
    open_part,
    open_run,
    push,
    push_part,
    refused,
)
from support.rows import Cut, SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.record import decode, encode
from trajmon_protos.v1 import ingest_pb2, query_pb2, types_pb2


def assert_gram(seen: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Equal to rounding: relative to the norms, since inner products cancel."""
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-14 * expected.diagonal().max())


def rows_folder(server: ServerProcess, run: SyntheticRun) -> Path:
    return server.data_dir / "journal" / run.run_id / "rows"


def stored(server: ServerProcess, run: SyntheticRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(rows_folder(server, run).glob("*"))}


def push_parts(client: Client, run: SyntheticRun, cut: Cut, checkpoints: range) -> list[int]:
    """Every rank's parts, rank by rank; returns the writer epochs."""
    epochs = [open_part(client, run, cut, part).writer_epoch for part in range(cut.num_parts)]
    for part, epoch in enumerate(epochs):
        for number in checkpoints:
            push_part(client, run, cut, part, epoch, run.part_record(number, cut, part))
    return epochs


def metric(server: ServerProcess, name: str, run: SyntheticRun) -> float:
    with urllib.request.urlopen(f"http://{server.addresses['metrics']}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    # On a shared server, the team stands before the name.
    (found,) = re.findall(rf'^{name}{{run="(?:[^"/]*/)?{run.name}"}} (\S+)$', text, re.MULTILINE)
    return float(found)


def test_a_run_in_parts_reads_like_any_other(shared_server: ServerProcess, team_client: Client) -> None:
    client = team_client
    run = SyntheticRun("sharded", num_checkpoints=70)
    cut = Cut.of(run, 3)
    push_parts(client, run, cut, range(70))
    numbers = list(range(70))
    assert_gram(get_map(client, "sharded")["gram"], run.gram(numbers))
    layer = get_map(client, "sharded", "layer:layer1.weight")["gram"]
    assert_gram(layer, run.gram(numbers, "layer:layer1.weight"))
    reference = SyntheticRun("whole", num_checkpoints=70)
    epoch = open_run(client, reference).writer_epoch
    for number in numbers:
        push(client, reference, epoch, reference.record(number))
    ours, theirs = get_hallmarks(client, "sharded"), get_hallmarks(client, "whole")
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"time_unix_seconds"}:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9, err_msg=name)
    summary = get_run(client, "sharded").summary
    assert (summary.checkpoints, summary.open_checkpoints, summary.last_step) == (70, 0, 690)
    # The earliest clock of the ranks is the row's.
    np.testing.assert_array_equal(ours["time_unix_seconds"], run.started + np.arange(70) + 0.25)


@pytest.mark.parametrize("is_made", [True, False])
def test_killed_between_the_last_part_and_the_sum(server: ServerProcess, is_made: bool) -> None:
    run = SyntheticRun("between", num_checkpoints=4)
    cut = Cut.of(run, 3)
    folder = rows_folder(server, run)
    with Client(server.addresses["grpc"], server.token) as client:
        epochs = push_parts(client, run, cut, range(3))
        for part in (0, 2):
            push_part(client, run, cut, part, epochs[part], run.part_record(3, cut, part))
        record = run.part_record(3, cut, 1)
        request = ingest_pb2.PushRowRequest(
            run_id=run.run_id, writer_epoch=epochs[1], record=record, writer=cut.writer(1)
        )
        call = client.ingest.PushRow.future(request, metadata=client.metadata, timeout=TIMEOUT_SECONDS)
        deadline = time.monotonic() + 20
        while not (folder / "00000003.0002.row").exists():
            assert time.monotonic() < deadline
        server.kill()
        call.exception(timeout=20)
    if not is_made:
        # Whether the kill came before the sum was written is a matter of luck; here it did.
        (folder / "00000003.0000.row").unlink(missing_ok=True)
    server.start()
    assert stored(server, run)["00000003.0000.row"] == run.sum_record(3, cut)
    with Client(server.addresses["grpc"], server.token) as client:
        np.testing.assert_allclose(get_map(client, "between")["gram"], run.gram(list(range(4))))
        opened = open_part(client, run, cut, 1)
        assert opened.next_checkpoint == 4
        assert push_part(client, run, cut, 1, opened.writer_epoch, record).duplicate


def test_ranks_and_server_are_killed_and_the_run_is_whole(server: ServerProcess) -> None:
    """Three ranks hand in on their own; the server is killed twice, each rank opens anew and goes on."""
    run = SyntheticRun("kills", num_checkpoints=24)
    cut = Cut.of(run, 3)
    failures: list[str] = []

    def rank(part: int) -> None:
        deadline = time.monotonic() + 50
        number = 0
        while number < 24 and time.monotonic() < deadline:
            try:
                with Client(server.grpc_address, server.token) as client:
                    opened = open_part(client, run, cut, part)
                    number = opened.next_checkpoint
                    # A rank dies after some rows, and another takes its place.
                    for _ in range(7):
                        if number < 24:
                            record = run.part_record(number, cut, part)
                            receipt = push_part(client, run, cut, part, opened.writer_epoch, record)
                            number = receipt.next_checkpoint
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    failures.append(f"part {part}: {error.code()}: {error.details()}")
                    return
                time.sleep(0.05)

    ranks = [threading.Thread(target=rank, args=(part,)) for part in range(3)]
    for thread in ranks:
        thread.start()
    for wanted in (10, 45):
        deadline = time.monotonic() + 20
        while len(list(rows_folder(server, run).glob("*"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        server.kill()
        server.start()
    for thread in ranks:
        thread.join(timeout=60)
    assert failures == []
    with Client(server.addresses["grpc"], server.token) as client:
        assert_gram(get_map(client, "kills")["gram"], run.gram(list(range(24))))
        assert get_run(client, "kills").summary.open_checkpoints == 0
    expected = {f"{number:08d}.0000.row": run.sum_record(number, cut) for number in range(24)}
    found = stored(server, run)
    assert {name: found[name] for name in expected} == expected
    assert len(found) == 4 * 24


def test_another_world_size_and_a_rank_that_never_delivers(server: ServerProcess, client: Client) -> None:
    run = SyntheticRun("elastic", num_checkpoints=6)
    old, new = Cut.of(run, 4), Cut.of(run, 2, attempt=2)
    epochs = push_parts(client, run, old, range(3))
    # Of checkpoint 3, the ranks 1 and 3 are killed before they deliver; the run goes on with two ranks.
    for part in (0, 2):
        push_part(client, run, old, part, epochs[part], run.part_record(3, old, part))
    for part in range(2):
        opened = open_part(client, run, new, part, first_checkpoint=4)
        assert opened.next_checkpoint == 4
        for number in (4, 5):
            push_part(client, run, new, part, opened.writer_epoch, run.part_record(number, new, part))
    others = [0, 1, 2, 4, 5]
    for again in range(2):
        answer = get_run(client, "elastic")
        assert (answer.summary.checkpoints, answer.summary.open_checkpoints) == (5, 1)
        assert (answer.summary.attempt, answer.summary.last_step) == (2, 50)
        assert list(answer.open) == [
            query_pb2.OpenCheckpoint(checkpoint=3, attempt=1, num_parts=4, missing_parts=[1, 3])
        ]
        assert metric(server, "trajmon_open_checkpoints", run) == 1.0
        gram = get_map(client, "elastic")["gram"]
        assert np.isnan(gram[3, :4]).all()
        expected = run.gram(list(range(6)))
        assert_gram(gram[np.ix_(others, others)], expected[np.ix_(others, others)])
        if not again:
            server.kill()
            server.start()
            client = Client(server.addresses["grpc"], server.token)
    # Rank 1 comes back; one of two is not enough, and the last makes it whole.
    for part, left in ((1, 1), (3, 0)):
        opened = open_part(client, run, old, part)
        assert opened.next_checkpoint == 3
        push_part(client, run, old, part, opened.writer_epoch, run.part_record(3, old, part))
        assert get_run(client, "elastic").summary.open_checkpoints == left
    assert_gram(get_map(client, "elastic")["gram"], run.gram(list(range(6))))
    assert metric(server, "trajmon_open_checkpoints", run) == 0.0
    client.channel.close()


def test_refusals_say_why_and_store_nothing(shared_server: ServerProcess, team_client: Client) -> None:
    server, client = shared_server, team_client
    run = SyntheticRun("refused", num_checkpoints=3)
    cut, other = Cut.of(run, 2), Cut.of(run, 3)
    epochs = push_parts(client, run, cut, range(1))
    stranger = open_part(client, run, other, 2).writer_epoch
    before = stored(server, run)
    exists, failed = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION
    refused(
        exists,
        "PART_MISMATCH",
        "checkpoint 0, part 2 of 3: num_parts is 3, the parts that are stored have 2; nothing was stored",
        lambda: push_part(client, run, other, 2, stranger, run.part_record(0, other, 2)),
    )
    refused(
        failed,
        "FENCED",
        "writer epoch 7 of run 'refused' is over, 1 is current",
        lambda: push_part(client, run, cut, 0, 7, run.part_record(1, cut, 0)),
    )
    refused(
        failed,
        "GAP",
        "checkpoint 2 came, 1 is expected",
        lambda: push_part(client, run, cut, 0, epochs[0], run.part_record(2, cut, 0)),
    )
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "part 0 of 2: this server takes part 1 of 2 from this writer",
        lambda: push_part(client, run, cut, 1, epochs[1], run.part_record(1, cut, 0)),
    )
    assert stored(server, run) == before


def test_a_part_in_pieces(shared_server: ServerProcess, team_client: Client) -> None:
    server, client = shared_server, team_client
    run = SyntheticRun("pieces", num_checkpoints=1)
    cut = Cut.of(run, 2)
    epochs = [open_part(client, run, cut, part).writer_epoch for part in range(2)]
    for part, epoch in enumerate(epochs):
        record = run.part_record(0, cut, part)
        header = ingest_pb2.PushRowStreamRequest.Header(
            run_id=run.run_id, writer_epoch=epoch, record_bytes=len(record), writer=cut.writer(part)
        )
        pieces = [
            ingest_pb2.PushRowStreamRequest(header=header),
            ingest_pb2.PushRowStreamRequest(data=record[:50]),
            ingest_pb2.PushRowStreamRequest(data=record[50:]),
        ]
        answer = client.ingest.PushRowStream(iter(pieces), metadata=client.metadata, timeout=TIMEOUT_SECONDS)
        assert answer.receipt.next_checkpoint == 1
    assert stored(server, run)["00000000.0000.row"] == run.sum_record(0, cut)


def test_a_damaged_sum_and_a_damaged_part(server: ServerProcess) -> None:
    run = SyntheticRun("damaged", num_checkpoints=5)
    cut = Cut.of(run, 3)
    with Client(server.addresses["grpc"], server.token) as client:
        push_parts(client, run, cut, range(5))
    server.stop()
    before = stored(server, run)
    for name in ("00000001.0000.row", "00000002.0000.row", "00000002.0002.row"):
        content = bytearray(before[name])
        content[-30] ^= 1
        (rows_folder(server, run) / name).write_bytes(content)
    for path in (server.data_dir / "maps").rglob("c.*"):
        path.write_bytes(b"damaged too: the rows have to be read")
    server.start()
    with Client(server.addresses["grpc"], server.token) as client:
        gram = get_map(client, "damaged")["gram"]
        deadline = time.monotonic() + 20
        while not get_run(client, "damaged").open and time.monotonic() < deadline:
            time.sleep(0.02)
        (known,) = get_run(client, "damaged").open
        assert (known.checkpoint, list(known.missing_parts)) == (2, [1])
        assert np.isnan(gram[2, :3]).all()
        others, expected = [0, 1, 3, 4], run.gram(list(range(5)))
        assert_gram(gram[np.ix_(others, others)], expected[np.ix_(others, others)])
        assert [open_part(client, run, cut, part).next_checkpoint for part in (0, 2)] == [5, 5]
        opened = open_part(client, run, cut, 1)
        assert opened.next_checkpoint == 2
        push_part(client, run, cut, 1, opened.writer_epoch, run.part_record(2, cut, 1))
        assert_gram(get_map(client, "damaged")["gram"], expected)
    assert stored(server, run) == before
    kept = sorted(path.name for path in rows_folder(server, run).parent.joinpath("damaged").iterdir())
    assert kept == ["00000001.0000.row.1", "00000002.0000.row.1", "00000002.0002.row.1"]


def test_what_is_trained_is_told(shared_server: ServerProcess, team_client: Client) -> None:
    server, client = shared_server, team_client
    run = SyntheticRun("modes", num_checkpoints=5)
    epoch = open_run(client, run).writer_epoch
    full, norm_only = types_pb2.TRAINING_MODE_FULL, types_pb2.TRAINING_MODE_NORM_ONLY
    told = [types_pb2.TRAINING_MODE_UNSPECIFIED, full, norm_only, norm_only, full]
    for number, mode in enumerate(told):
        row = run.row(number)
        row.header.info.mode, row.header.info.copy = mode, "overlap"
        push(client, run, epoch, encode(row))
        summary = get_run(client, "modes").summary
        assert summary.mode == mode
        assert metric(server, "trajmon_norm_only", run) == float(mode == norm_only)
    for arrays in (get_map(client, "modes"), get_hallmarks(client, "modes")):
        assert arrays["mode"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["mode"], [0, 0, 1, 1, 0])
    relative = get_map(client, "modes", relative_to=2)
    np.testing.assert_array_equal(relative["mode"], [0, 0, 1, 0])
    infos = [detail.info for detail in get_run(client, "modes").checkpoints]
    assert [info.mode for info in infos] == told
    assert {info.copy for info in infos} == {"overlap"}


def test_how_the_agents_do(shared_server: ServerProcess, team_client: Client) -> None:
    server, client = shared_server, team_client
    run = SyntheticRun("agents")
    cut = Cut.of(run, 2)
    epochs = push_parts(client, run, cut, range(2))
    for part, lag, uncomputed in ((0, 1.5, 4), (1, 7.25, 2)):
        report = ingest_pb2.ReportStatusRequest(
            run_id=run.run_id,
            writer_epoch=epochs[part],
            writer=cut.writer(part),
            lag_seconds=lag,
            checkpoints_uncomputed=uncomputed,
            snapshot_bytes=1000,
            phase=ingest_pb2.RUN_PHASE_FINISHED if part else ingest_pb2.RUN_PHASE_RUNNING,
        )
        client.ingest.ReportStatus(report, metadata=client.metadata, timeout=TIMEOUT_SECONDS)
    answer = get_run(client, "agents")
    assert (answer.agent.lag_seconds, answer.agent.checkpoints_uncomputed) == (7.25, 4)
    assert (answer.agent.snapshot_bytes, answer.summary.phase) == (2000, ingest_pb2.RUN_PHASE_RUNNING)
    assert metric(server, "trajmon_agent_lag_seconds", run) == 7.25
    assert metric(server, "trajmon_checkpoints_uncomputed", run) == 4.0


def test_the_parts_stay_as_they_came(shared_server: ServerProcess, team_client: Client) -> None:
    server, client = shared_server, team_client
    run = SyntheticRun("truth", num_checkpoints=2)
    cut = Cut.of(run, 2)
    push_parts(client, run, cut, range(2))
    found = stored(server, run)
    for number in range(2):
        for part in range(2):
            record = found[f"{number:08d}.{part + 1:04d}.row"]
            assert record == run.part_record(number, cut, part)
            assert decode(record).header.part == part
