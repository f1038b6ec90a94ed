"""Rows of an ingest on a server: those of a live run, each once, whatever is in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from client.ingest.ingesting import SETTINGS, SMALL, ingest  # noqa: TID251 # tests/client, on the path of the tests
from client.ingest.written import Shapes, in_memory, save_series, snapshots_of, walk  # noqa: TID251
from client.recording import IngestServer, names, record_run, run_agent  # noqa: TID251
from trajmon.cli.machine import inspect_run_dir
from trajmon.errors import DamagedRunError
from trajmon.ingest.deliver import path_indices
from trajmon.ingest.gram import Step
from trajmon.ingest.run import Options
from trajmon.numerics.gram import gram_row
from trajmon.rundir import RunDir
from trajmon_protos.v1 import ingest_pb2

SHAPES: Shapes = {
    "h.0.attn.q_proj.weight": ((40, 50), "float32"),
    "h.0.ln_1.weight": ((40,), "float32"),
    "wte.weight": ((99, 40), "bfloat16"),
}
POINTS = walk(SHAPES, 7)


def options(server: IngestServer) -> Options:
    return Options(run="run", tags=("old",), server=server.address, threads=2, memory_bytes=SMALL)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return save_series(tmp_path / "saved", POINTS, SHAPES)


def test_rows_arrive_as_a_live_run_would_have_sent_them(
    home: Path, server: IngestServer, paths: list[Path]
) -> None:
    delivery = ingest(home, paths, options(server))
    assert (delivery.total, delivery.acknowledged, delivery.spooled, delivery.problem) == (7, 7, 0, "")
    assert delivery.server == server.address
    stored = server.run("run")
    layout, snapshots = snapshots_of(in_memory(POINTS, SHAPES))
    for t, row in enumerate(stored.rows):
        live = gram_row(layout, snapshots[t], snapshots[:t], path_indices(t))
        np.testing.assert_allclose(row.gram, live.gram, rtol=1e-12)
        np.testing.assert_allclose(row.products, live.products, rtol=1e-12)
        np.testing.assert_array_equal(row.status, live.status)
        header = row.header
        assert (header.checkpoint, header.attempt, header.part, header.num_parts) == (t, 1, 0, 1)
        assert (header.previous if header.HasField("previous") else None) == (t - 1 if t else None)
        assert header.info.step == 10 * t
        assert header.info.time_unix_seconds == pytest.approx(paths[t].stat().st_mtime, abs=1e-6)
    request = stored.request
    assert (request.name, list(request.tags), request.attempt) == ("run", ["old"], 1)
    groups = {
        group.name: [request.layout.layers[i].name for i in group.layers] for group in request.layout.groups
    }
    assert groups["norm"] == ["h.0.ln_1.weight"]
    assert groups["attention.qkv"] == ["h.0.attn.q_proj.weight"]
    assert stored.reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED
    assert stored.duplicates == 0
    assert names(RunDir.of(home, "run").spool) == []


def test_without_a_server_rows_wait_and_go_later(home: Path, server: IngestServer, paths: list[Path]) -> None:
    server.stop()
    delivery = ingest(home, paths, options(server), settings=replace(SETTINGS, linger_seconds=0.5))
    assert (delivery.acknowledged, delivery.spooled) == (0, 7)
    assert delivery.problem.startswith("UNAVAILABLE: ")
    folder = inspect_run_dir(RunDir.of(home, "run").path)
    assert (folder.waiting, folder.training_pid, folder.agent_pid) == (7, None, None)
    server.start()
    steps: list[Step] = []
    delivery = ingest(home, paths, options(server), on_step=steps.append)
    assert (delivery.acknowledged, delivery.spooled, delivery.problem) == (7, 0, "")
    assert steps == []
    assert len(server.run("run").rows) == 7


def test_rows_go_through_a_spool_with_room_for_two(
    home: Path, server: IngestServer, paths: list[Path]
) -> None:
    server.unavailable = 3
    small = replace(SETTINGS, spool_cap_bytes=500, backoff_seconds=(0.01, 0.05))
    assert ingest(home, paths, options(server), settings=small).acknowledged == 7
    assert server.run("run").duplicates == 0


def test_a_lost_answer(home: Path, server: IngestServer, paths: list[Path]) -> None:
    server.lose_answers = 2
    quick = replace(SETTINGS, backoff_seconds=(0.01, 0.05))
    assert ingest(home, paths, options(server), settings=quick).acknowledged == 7
    assert len(server.run("run").rows) == 7


def test_a_server_that_refuses(home: Path, server: IngestServer, paths: list[Path]) -> None:
    server.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no such rows here", "")
    delivery = ingest(home, paths, options(server))
    assert (delivery.acknowledged, delivery.spooled) == (0, 7)
    assert delivery.problem == "INVALID_ARGUMENT: no such rows here"


def test_the_agent_hands_in_what_was_left(home: Path, server: IngestServer, paths: list[Path]) -> None:
    """The run's folder is an ordinary one."""
    server.stop()
    ingest(home, paths, options(server), settings=replace(SETTINGS, linger_seconds=0.3))
    server.start()
    assert run_agent(RunDir.of(home, "run")) == 0
    assert len(server.run("run").rows) == 7


def test_a_server_that_has_lost_its_rows_gets_them_again(
    home: Path, server: IngestServer, paths: list[Path]
) -> None:
    ingest(home, paths, options(server))
    server.runs.clear()
    # The journal still has the sums; only the program frees them once all is handed in.
    with pytest.raises(DamagedRunError, match="is gone, and the server asks for rows; run the ingest again"):
        ingest(home, paths, options(server))
    assert ingest(home, paths, options(server)).acknowledged == 7


def test_other_runs_are_left_alone(home: Path, server: IngestServer, paths: list[Path]) -> None:
    other = record_run(home, server.address, 2, name="other")
    before = {path: path.read_bytes() for path in sorted(other.run_dir.path.rglob("*")) if path.is_file()}
    ingest(home, paths, options(server))
    assert {
        path: path.read_bytes() for path in sorted(other.run_dir.path.rglob("*")) if path.is_file()
    } == before
