"""What a restart brings back, and what happens to damaged rows."""

from __future__ import annotations

import shutil

import numpy as np

from support.calls import get_hallmarks, get_map, get_run, open_run, push, push_all, report
from support.rows import SyntheticRun
from support.server import Client, ServerProcess
from trajmon_protos.v1 import ingest_pb2


def test_everything_is_back_after_a_kill(server: ServerProcess) -> None:
    run = SyntheticRun("killed", num_checkpoints=80)
    with Client(server.addresses["grpc"], server.token) as client:
        epoch = push_all(client, run, stop=75)
        before = get_map(client, "killed"), get_hallmarks(client, "killed"), get_run(client, "killed")
    server.kill()
    server.start()
    with Client(server.addresses["grpc"], server.token) as client:
        after = get_map(client, "killed"), get_hallmarks(client, "killed"), get_run(client, "killed")
        for name in before[0]:
            np.testing.assert_array_equal(before[0][name], after[0][name])
        for name in before[1]:
            np.testing.assert_array_equal(before[1][name], after[1][name])
        assert before[2].summary == after[2].summary
        assert before[2].hallmarks == after[2].hallmarks
        assert open_run(client, run).writer_epoch == epoch + 1
        assert open_run(client, run).next_checkpoint == 75


def test_maps_are_made_again_from_the_journal(server: ServerProcess) -> None:
    run = SyntheticRun("rebuilt", num_checkpoints=70)
    with Client(server.addresses["grpc"], server.token) as client:
        push_all(client, run)
        before = get_map(client, "rebuilt", "layer:layer1.weight")
    server.stop()
    shutil.rmtree(server.data_dir / "maps")
    server.start()
    with Client(server.addresses["grpc"], server.token) as client:
        after = get_map(client, "rebuilt", "layer:layer1.weight")
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_damaged_row_is_set_aside_shown_as_missing_and_healed_when_sent_again(
    server: ServerProcess,
) -> None:
    run = SyntheticRun("damaged", num_checkpoints=10)
    with Client(server.addresses["grpc"], server.token) as client:
        push_all(client, run)
    server.stop()
    row = server.data_dir / "journal" / run.run_id / "rows" / "00000004.0000.row"
    intact = row.read_bytes()
    row.write_bytes(intact[:200] + bytes([intact[200] ^ 1]) + intact[201:])
    shutil.rmtree(server.data_dir / "maps")
    server.start()
    with Client(server.addresses["grpc"], server.token) as client:
        answer = get_map(client, "damaged")
        assert np.isnan(answer["gram"][4, :5]).all()
        others = np.delete(np.arange(10), 4)
        expected = run.gram([int(n) for n in others])
        np.testing.assert_allclose(answer["gram"][np.ix_(others, others)], expected, rtol=1e-12)
        assert list((server.data_dir / "journal" / run.run_id / "damaged").iterdir())
        response = open_run(client, run)
        assert response.next_checkpoint == 4
        receipt = push(client, run, response.writer_epoch, run.record(4))
        assert receipt.next_checkpoint == 10
        np.testing.assert_allclose(get_map(client, "damaged")["gram"], run.gram(list(range(10))), rtol=1e-12)


def test_the_end_of_a_run_survives_a_restart(server: ServerProcess) -> None:
    run = SyntheticRun("over")
    with Client(server.addresses["grpc"], server.token) as client:
        epoch = push_all(client, run)
        report(client, run, epoch, ingest_pb2.RUN_PHASE_FINISHED)
    server.kill()
    server.start()
    with Client(server.addresses["grpc"], server.token) as client:
        assert get_run(client, "over").summary.phase == ingest_pb2.RUN_PHASE_FINISHED


def test_stopping_is_graceful(server: ServerProcess) -> None:
    with Client(server.addresses["grpc"], server.token) as client:
        push_all(client, SyntheticRun("graceful"))
    assert server.stop() == 0
    assert not (server.home / "server.json").exists()
    assert "Traceback" not in server.log
