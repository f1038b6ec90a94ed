"""A real training under watch: what arrives, and what training notices of it."""

from __future__ import annotations

import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trajmon
import trajmon._opening
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    StoredRun,
    names,
    wait_until,
)
from client.training import Training, gram_of  # noqa: TID251 # the same
from trajmon._files import lock_holder
from trajmon._settings import Limits
from trajmon.errors import RefusedError
from trajmon.rundir import RunDir
from trajmon_protos.record import LayerStatus
from trajmon_protos.v1 import ingest_pb2


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajmon._opening, "LIMITS", Limits(agent_restart_seconds=0.0))


def finish(recorder: trajmon.Recorder) -> None:
    """Close, and wait for the agent however long this machine needs."""
    recorder.close(timeout=90.0)
    assert recorder.status.pending == 0, recorder.status


def assert_gram(
    stored: StoredRun, history: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]]
) -> None:
    gram = gram_of(history)
    norms = np.sqrt(np.einsum("lii->li", gram))
    assert len(stored.rows) == len(history)
    for number, row in enumerate(stored.rows):
        scale = norms[:, number, None] * norms[:, : number + 1]
        error = np.abs(row.gram - gram[:, number, : number + 1])
        assert (error <= 1e-13 * scale).all(), f"checkpoint {number}"


def test_the_rows_are_the_grams_of_the_training(home: Path, server: IngestServer) -> None:
    training = Training()
    history = [training.parameters()]
    with trajmon.watch(
        training.model,
        run="run",
        optimizer=training.optimizer,
        server=server.address,
        tags=("a", "b"),
        groups={"first": r"^0\."},
        strict=True,
    ) as recorder:
        for number, step in enumerate(training.legs(12), start=1):
            metrics = {"loss": training.loss, "nan": float("nan")}
            assert recorder.checkpoint(step=step, epoch=number / 2, metrics=metrics) == number
            history.append(training.parameters())
        assert recorder.status.state == "recording"
        assert recorder.status.recorded == 13
        finish(recorder)
    stored = server.run("run")
    assert_gram(stored, history)
    assert list(stored.request.tags) == ["a", "b"]
    assert "first" in [group.name for group in stored.request.layout.groups]
    info = stored.rows[3].header.info
    assert (info.step, info.epoch, info.learning_rate) == (15, 1.5, 0.05)
    assert set(info.metrics) == {"loss", "nan"}
    assert info.stall_seconds > 0
    assert not info.HasField("plan")
    assert stored.reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED
    closed = recorder.status
    assert closed.state == "closed"
    assert recorder.checkpoint() is None


def test_training_under_watch_is_the_same_training(home: Path, server: IngestServer) -> None:
    def final_state(
        watched: bool,
    ) -> tuple[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], object]:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 # the global generator is what must not be touched
        training = Training()
        recorder = (
            trajmon.watch(
                training.model, run="run", optimizer=training.optimizer, server=server.address, strict=True
            )
            if watched
            else None
        )
        for _ in training.legs(10):
            if recorder is not None:
                recorder.checkpoint(metrics={"loss": training.loss})
        if recorder is not None:
            assert recorder.status.recorded == 11
            recorder.close()
        draws = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002 # the same
        return training.parameters(), draws

    alone, watched = final_state(False), final_state(True)
    assert alone[1] == watched[1]
    for name, value in alone[0].items():
        assert value.tobytes() == watched[0][name].tobytes()


def test_advice_and_hallmarks_come_back(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address)
    wait_until(lambda: recorder.advice.evidence.get("rows") == 1.0, "an answer that knows the first row")
    assert recorder.advice.state == "explore"
    assert not recorder.advice.switch
    assert recorder.advice.reason == "the test server always explores"
    assert recorder.advice.checkpoint == 0
    assert recorder.hallmarks == {"network": {"mds": 0.5}}
    finish(recorder)
    (RunDir.of(home, "run").answer_file).write_text('{"advice": ')
    unreadable = recorder.advice
    assert unreadable.state == "unknown"
    assert recorder.hallmarks == {}
    RunDir.of(home, "run").answer_file.unlink()
    assert recorder.advice.reason == "no answer from the server yet"


def test_an_agent_that_is_killed_is_started_again(
    home: Path, server: IngestServer, quick_restarts: None
) -> None:
    training = Training()
    history = [training.parameters()]
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    run_dir = RunDir.of(home, "run")
    chance = random.Random(3)
    killed = 0
    for leg, _ in enumerate(training.legs(40)):
        recorder.checkpoint()
        history.append(training.parameters())
        agent = lock_holder(run_dir.agent_lock)
        if leg % 4 == 3 and agent is not None:
            time.sleep(chance.uniform(0.0, 0.3))
            os.kill(agent, 9)
            wait_until(lambda: lock_holder(run_dir.agent_lock) is None, "the agent to be gone")
            killed += 1
        elif leg % 4 == 1:
            wait_until(lambda: lock_holder(run_dir.agent_lock) is not None, "an agent")
    assert killed == 10
    assert recorder.status.agent_restarts >= 9
    finish(recorder)
    assert_gram(server.run("run"), history)
    assert server.run("run").reports[-1].agent_restarts == recorder.status.agent_restarts


def test_without_a_server_everything_waits_and_arrives_later(home: Path, server: IngestServer) -> None:
    server.stop()
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    for _ in training.legs(3):
        recorder.checkpoint()
    wait_until(lambda: len(names(RunDir.of(home, "run").spool)) == 4, "four rows in the spool")
    wait_until(lambda: "UNAVAILABLE" in recorder.status.reason, "the problem in the status")
    assert recorder.status.pending == 4
    assert recorder.status.state == "recording"
    server.start()
    finish(recorder)
    assert len(server.run("run").rows) == 4
    assert recorder.status.reason == ""


def test_a_hanging_server_holds_up_nothing(home: Path, server: IngestServer) -> None:
    server.hang()
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    wait_until(lambda: "OpenRun" in server.calls, "a call that hangs")
    for _ in training.legs(3):
        assert recorder.checkpoint() is not None
    recorder.close(timeout=0.5)
    assert recorder.status.pending == 4
    server.resume()
    wait_until(lambda: recorder.status.pending == 0, "the agent to go on alone")
    assert len(server.run("run").rows) == 4


def test_a_nan_layer_is_marked_and_the_others_stay_exact(home: Path, server: IngestServer) -> None:
    training = Training()
    with trajmon.watch(training.model, run="run", server=server.address, strict=True) as recorder:
        with torch.no_grad():
            training.model[1].weight[3] = float("nan")  # type: ignore[operator] # a Sequential's second module
        recorder.checkpoint()
        finish(recorder)
    row = server.run("run").rows[1]
    layers = [layer.name for layer in server.run("run").request.layout.layers]
    bad = layers.index("1.weight")
    assert row.status[bad] == LayerStatus.NON_FINITE
    assert np.isnan(row.gram[bad]).all()
    good = [index for index in range(len(layers)) if index != bad]
    assert (row.status[good] == LayerStatus.EXACT).all()
    assert np.isfinite(row.gram[good]).all()


def test_the_budget_stops_recording_and_says_so(
    home: Path, server: IngestServer, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, snapshot_budget_bytes=20_000)
    taken = [recorder.checkpoint() for _ in training.legs(5)]
    assert taken[0] == 1
    assert taken[-2:] == [None, None]
    status = recorder.status
    assert status.state == "stopped"
    assert status.reason.startswith(
        "the snapshot budget of 20000 bytes is used up: 3 checkpoints take 18048 bytes"
    )
    assert status.reason.endswith("Give a larger snapshot_budget_bytes, or record less often")
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    wait_until(
        lambda: (
            server.runs and any(r.phase == ingest_pb2.RUN_PHASE_STOPPED for r in server.run("run").reports)
        ),
        "the server to hear of it",
    )
    assert server.run("run").reports[-1].reason == status.reason
    finish(recorder)
    assert len(server.run("run").rows) == 3
    assert server.run("run").reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED


def test_a_model_that_changes_stops_recording(home: Path, server: IngestServer) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    recorder = trajmon.watch(model, run="run", server=server.address)
    model[0] = nn.Linear(4, 5)
    assert recorder.checkpoint() is None
    assert recorder.status.state == "stopped"
    assert recorder.status.reason == (
        "layer '0.weight' has shape (5, 4), recording began with (3, 4); recording stopped, training goes on"
    )
    assert recorder.checkpoint() is None
    finish(recorder)


def test_a_forked_child_records_nothing(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(training.model, run="run", server=server.address, strict=True)
    child = os.fork()
    if child == 0:
        ok = recorder.checkpoint() is None and recorder.status.recorded == 0
        recorder.close()
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert recorder.checkpoint() == 1
    assert lock_holder(RunDir.of(home, "run").owner_lock) == os.getpid()
    finish(recorder)


def test_no_threads_and_no_network_in_the_training_process(home: Path, server: IngestServer) -> None:
    training = Training()
    training.train(2)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 # counted, not opened
    descriptors = sockets()
    recorder = trajmon.watch(training.model, run="run", server="127.0.0.1:1", strict=True)
    recorder.checkpoint()
    assert len(os.listdir("/proc/self/task")) == threads  # noqa: PTH208 # the same
    assert sockets() == descriptors
    recorder.close(timeout=0.0)


def sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_snapshots_elsewhere_and_a_copy_through_a_file(
    home: Path, server: IngestServer, tmp_path: Path
) -> None:
    training = Training()
    fast = tmp_path / "fast disk"
    options: dict[str, Any] = {"run": "run", "server": server.address, "snapshot_dir": fast, "strict": True}
    recorder = trajmon.watch(training.model, memory_budget_bytes=0, **options)
    kept = [training.parameters()]
    for step in training.legs(2):
        recorder.checkpoint(step=step)
        kept.append(training.parameters())
    run_dir = RunDir.of(home, "run")
    assert not run_dir.slot_file.exists()
    assert names(fast / "run") == ["00000000.snap", "00000001.snap", "00000002.snap"]
    finish(recorder)
    row = server.run("run").rows[2]
    for layer, name in enumerate(kept[0]):
        assert row.gram[layer] == pytest.approx([kept[2][name] @ other[name] for other in kept], rel=1e-12)
    # A run that exists keeps its snapshots where they are.
    second = trajmon.watch(training.model, run="run", server=server.address, resume="must", strict=True)
    assert second.checkpoint() == 3
    finish(second)
    assert "00000003.snap" in names(fast / "run")


def test_a_snapshot_folder_that_cannot_be_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    training = Training()
    with pytest.raises(RefusedError, match=r"file/run cannot be written: Not a directory; give another"):
        trajmon.watch(training.model, run="run", snapshot_dir=tmp_path / "file", strict=True)
    with pytest.raises(RefusedError, match="memory_budget_bytes=-1 is not at least 0"):
        trajmon.watch(training.model, run="run", memory_budget_bytes=-1, strict=True)
    first = trajmon.watch(training.model, run="old", server="127.0.0.1:1", strict=True)
    first.close(timeout=0.0)
    with pytest.raises(RefusedError, match=r"run 'old' has its snapshots in .*; leave snapshot_dir= out"):
        trajmon.watch(
            training.model,
            run="old",
            server="127.0.0.1:1",
            resume="must",
            snapshot_dir=tmp_path / "new",
            strict=True,
        )


def mapped_slots() -> set[str]:
    """Slots in the memory of this process."""
    return {line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if ".slot" in line}


def test_a_closed_recorder_that_is_kept_holds_no_shared_memory(home: Path, server: IngestServer) -> None:
    training = Training()
    of_others = mapped_slots()
    recorder = trajmon.watch(
        training.model, run="run", optimizer=training.optimizer, server=server.address, strict=True
    )
    recorder.checkpoint(step=0)
    assert len(mapped_slots() - of_others) == 1
    finish(recorder)
    # What was read of it can still be asked for.
    assert recorder.status.recorded > 0
    assert mapped_slots() - of_others == set()
