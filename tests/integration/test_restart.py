"""Trainings that go on after an end, and servers that come late."""

from __future__ import annotations

import copy
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import trajmon
from support.calls import get_hallmarks, get_map, get_run
from support.server import Client, ServerProcess
from support.training import (
    TrainingProcess,
    digest,
    make_model,
    make_optimizer,
    one_thread,
    parameters,
    train_step,
)
from support.truth import Truth, assert_journal
from trajmon._files import lock_holder
from trajmon._watch import Resume
from trajmon.rundir import RunDescription, RunDir
from trajmon_protos.v1 import ingest_pb2

CLOSE_SECONDS = 60.0


class Stage:
    """A training that can go back to any step that it has been at."""

    def __init__(self, server: ServerProcess, run: str) -> None:
        self.options: dict[str, Any] = {"run": run, "server": server.grpc_address, "home": server.home}
        self.model = make_model(seed=0)
        self.optimizer = make_optimizer(self.model)
        self.kept = {0: parameters(self.model)}
        self._saved: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def train(self, start: int, stop: int, resume: Resume = "never") -> trajmon.Recorder:
        """Steps start + 1 to stop, each a checkpoint, until the server has everything."""
        if start in self._saved:
            self.model, self.optimizer = self.restored(start)
        with (
            one_thread(),
            trajmon.watch(
                self.model, optimizer=self.optimizer, resume=resume, strict=True, **self.options
            ) as recorder,
        ):
            for step in range(start + 1, stop + 1):
                loss = train_step(self.model, self.optimizer, 0, step)
                recorder.checkpoint(step=step, metrics={"loss": loss})
                self.kept[step] = parameters(self.model)
                self._saved[step] = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
            recorder.close(timeout=CLOSE_SECONDS)
        assert recorder.status.pending == 0, recorder.status
        return recorder

    def restored(self, step: int) -> tuple[nn.Sequential, Any]:
        """Model and optimizer as a saved state gives them back: new objects, old values."""
        model = make_model(seed=9)
        optimizer = make_optimizer(model)
        model.load_state_dict(self._saved[step][0])
        optimizer.load_state_dict(self._saved[step][1])
        return model, optimizer

    @property
    def truth(self) -> Truth:
        names = self.kept[0]
        stacked = {name: np.stack([values[name] for values in self.kept.values()]) for name in names}
        return Truth.of(stacked, list(self.kept))


def test_a_resumed_training_supersedes_what_it_does_again(server: ServerProcess, client: Client) -> None:
    stage = Stage(server, "resumed")
    stage.train(0, 8)
    straight = digest(stage.model)
    stage.train(5, 10, resume="allow")
    stage.train(10, 12, resume="must")
    repeated = Stage(server, "straight")
    repeated.train(0, 12)
    assert digest(stage.model) == digest(repeated.model) != straight
    summary = get_run(client, "resumed").summary
    assert (summary.attempt, summary.checkpoints, summary.superseded) == (3, 16, 3)
    details = get_run(client, "resumed").checkpoints
    assert [detail.attempt for detail in details] == [1] * 9 + [2] * 5 + [3] * 2
    assert [detail.checkpoint for detail in details if detail.superseded] == [6, 7, 8]
    shown = get_map(client, "resumed")
    assert shown["checkpoint"].tolist() == [0, 1, 2, 3, 4, 5, *range(9, 16)]
    assert shown["step"].tolist() == list(range(13))
    stage.truth.assert_gram(shown["gram"], list(range(13)))
    everything = get_map(client, "resumed", include_superseded=True)
    steps = [*range(9), *range(6, 13)]
    assert everything["step"].tolist() == steps
    stage.truth.assert_gram(everything["gram"], steps)
    # On the path there is one training, whether it was ever interrupted or not.
    left, right = get_hallmarks(client, "resumed"), get_hallmarks(client, "straight")
    for name in ("mds", "relative_mds", "update_angle_degrees", "path_length", "metric:loss"):
        np.testing.assert_allclose(left[name], right[name], rtol=1e-12, err_msg=name)
    run_dir = RunDir.of(server.home, "resumed")
    assert len(assert_journal(server.data_dir, run_dir, stage.truth)) == 16


def test_another_model_is_refused_with_both_fingerprints(
    server: ServerProcess, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(server, "taken")
    stage.train(0, 3)
    before = get_map(client, "taken")
    fingerprint = RunDescription.read(RunDir.of(server.home, "taken")).layout.fingerprint
    wider = make_model(seed=0, width=24)
    with pytest.raises(trajmon.errors.OtherModelError) as refused:
        trajmon.watch(wider, resume="allow", strict=True, **stage.options)
    text = str(refused.value)
    assert f"run 'taken' was recorded from a model {fingerprint}, this one is " in text
    other = text.split("this one is ")[1][:32]
    assert other != fingerprint
    assert int(other, 16)
    assert "layer 0 was '0.weight' (16, 12) float32, is '0.weight' (24, 12) float32" in text
    assert "choose another name" in text
    # And without strict: the same text, a training that goes on, nothing changed anywhere.
    recorder = trajmon.watch(wider, resume="allow", **stage.options)
    assert (recorder.status.state, recorder.status.reason) == ("refused", text)
    assert text in caplog.text
    optimizer = make_optimizer(wider)
    assert math.isfinite(train_step(wider, optimizer, 0, 1))
    assert recorder.checkpoint(step=1) is None
    recorder.close()
    after = get_map(client, "taken")
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_words_for_resuming_mean_what_they_say(server: ServerProcess) -> None:
    stage = Stage(server, "worded")
    with pytest.raises(
        trajmon.errors.NoSuchRunError, match=r"there is no run 'worded' in .*resume=\"allow\""
    ):
        trajmon.watch(stage.model, resume="must", strict=True, **stage.options)
    stage.train(0, 2, resume="allow")
    with pytest.raises(
        trajmon.errors.RunExistsError, match=r"run 'worded' exists in .*resume=\"allow\", or choose"
    ):
        trajmon.watch(stage.model, resume="never", strict=True, **stage.options)


@pytest.fixture
def late_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that is not there yet, at an address that is known."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    late = ServerProcess(tmp_path / "home", grpc_address=f"127.0.0.1:{port}")
    yield late
    if late.process is not None:
        late.stop()


def test_rows_wait_for_a_server_that_comes_after_training_has_ended(
    late_server: ServerProcess, tmp_path: Path
) -> None:
    steps, every = 60, 4
    options = ("--steps", str(steps), "--every", str(every), "--keep")
    report = TrainingProcess.start(
        tmp_path / "out",
        *("--run", "early", "--server", late_server.grpc_address, "--home", str(late_server.home), *options),
    ).wait()
    assert (report.status["recorded"], report.status["pending"]) == (16, 16)
    assert report.status["state"] == "closed"
    run_dir = RunDir.of(late_server.home, "early")
    assert run_dir.acked() == 0
    deadline = time.monotonic() + CLOSE_SECONDS
    # On a busy machine such a short training is over before its agent has started.
    while lock_holder(run_dir.agent_lock) is None:
        assert time.monotonic() < deadline, run_dir.agent_log.read_text()
        time.sleep(0.05)
    late_server.start()
    while lock_holder(run_dir.agent_lock) is not None:
        assert time.monotonic() < deadline, run_dir.agent_log.read_text()
        time.sleep(0.05)
    # The token was written with the server's start: nothing that somebody has to mend, nothing to wait long for.
    assert "trying again in 30" not in run_dir.agent_log.read_text()
    truth = Truth.load(tmp_path / "out" / "kept.npz")
    assert len(assert_journal(late_server.data_dir, run_dir, truth)) == 16
    with Client(late_server.grpc_address, late_server.token) as client:
        summary = get_run(client, "early").summary
        shown = get_map(client, "early")
    assert summary.phase == ingest_pb2.RUN_PHASE_FINISHED
    assert shown["step"].tolist() == list(range(0, steps + 1, every))
    truth.assert_gram(shown["gram"], shown["step"].tolist())
    unwatched = TrainingProcess.start(tmp_path / "unwatched", *options).wait()
    assert unwatched.digest == report.digest
