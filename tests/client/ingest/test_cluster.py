"""The same sums on a Dask cluster, bit for bit, also when a worker dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ingest.ingesting import SMALL, records  # noqa: TID251 # tests/client, on the path of the tests
from client.ingest.written import Shapes, save_series, walk  # noqa: TID251
from distributed import LocalCluster
from trajmon.errors import CheckpointFileError, RefusedError
from trajmon.ingest import cluster
from trajmon.ingest.blocks import BlockSource
from trajmon.ingest.gram import Place, Step
from trajmon.ingest.run import Options
from trajmon.ingest.series import find_series

SHAPES: Shapes = {
    "embed.weight": ((150, 300), "float32"),
    "norm.empty": ((0,), "float32"),
    "norm.weight": ((33,), "float32"),
    "out.weight": ((500, 91), "bfloat16"),
}
OPTIONS = Options(run="run", threads=2, memory_bytes=SMALL)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_series(tmp_path_factory.mktemp("saved"), walk(SHAPES, 6), SHAPES)


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    with pytest.MonkeyPatch.context() as patch:
        # Small enough for every tensor to be many tasks.
        patch.setattr(cluster, "_SPAN_BYTES", 50_000)
        with LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=3,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs="ERROR",
        ) as started:
            yield started


def test_a_worker_that_sees_other_files(workers: LocalCluster, home: Path, tmp_path: Path) -> None:
    paths = save_series(tmp_path / "own", walk(SHAPES, 3), SHAPES)
    series = find_series(paths)
    with cluster.connect(workers.scheduler_address, series) as stepper:
        with paths[1].open("ab") as file:
            file.write(b"more")
        source = BlockSource(series.readers, series.tensors, 1024)
        with pytest.raises(
            CheckpointFileError, match=r"step10\.safetensors: a worker sees other files there"
        ):
            list(stepper(source, Place()))
    series.close()


def test_one_worker_of_three_dies_in_the_middle(
    workers: LocalCluster, home: Path, tmp_path: Path, paths: list[Path]
) -> None:
    local, _ = records(tmp_path / "local", paths, OPTIONS)
    victim = next(iter(workers.workers.values())).pid
    done: list[Step] = []
    unfinished: list[bool] = []

    def kill() -> None:
        unfinished.append(len(done) < len(SHAPES))
        os.kill(victim, signal.SIGKILL)

    def stepper(source: BlockSource, place: Place) -> Iterator[Step]:
        # Stopped, it takes tasks and never answers: what it was given is under way when it dies.
        os.kill(victim, signal.SIGSTOP)
        threading.Timer(1.0, kill).start()
        for step in sum_on(source, place):
            done.append(step)
            yield step

    series = find_series(paths)
    with cluster.connect(workers.scheduler_address, series) as sum_on:
        rows, steps = records(home, paths, OPTIONS, stepper)
    series.close()
    assert rows == local
    assert unfinished == [True]
    assert steps == len(SHAPES)


def test_no_scheduler(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    series = find_series(paths)
    with (
        pytest.raises(RefusedError, match=r"^no Dask scheduler answers at tcp://127\.0\.0\.1:1: "),
        cluster.connect("tcp://127.0.0.1:1", series),
    ):
        pass
    with (
        pytest.raises(RefusedError, match=r"^no Dask scheduler answers at nonsense://x: "),
        cluster.connect("nonsense://x", series),
    ):
        pass
    series.close()
