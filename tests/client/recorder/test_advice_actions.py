"""What a recorder does with the server's advice, and checkpoints that come by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trajmon
from client.recording import IngestServer, wait_until  # noqa: TID251 # a sibling, not a relative import
from client.training import Training  # noqa: TID251 # the same
from trajmon.errors import RefusedError
from trajmon_protos.v1 import ingest_pb2, types_pb2

NORM_ONLY = types_pb2.TRAINING_MODE_NORM_ONLY
FULL = types_pb2.TRAINING_MODE_FULL


def settle(recorder: trajmon.Recorder, state: str) -> None:
    wait_until(lambda: recorder.advice.state == state, f"the advice {state}")


def test_following_the_advice_switches_and_switches_back(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(
        training.model,
        run="run",
        server=server.address,
        optimizer=training.optimizer,
        on_advice="switch",
        strict=True,
    )
    training.train(5)
    server.advice = types_pb2.ADVICE_STATE_SWITCH
    settle(recorder, "switch")
    recorder.checkpoint(step=5)
    report = recorder.switch_report
    assert report is not None
    assert report.training_mode == "norm_only"
    before = training.parameters()
    training.train(5)
    after = training.parameters()
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed == {"1.weight", "1.bias"}
    recorder.checkpoint(step=10)
    server.advice = types_pb2.ADVICE_STATE_RESUME
    settle(recorder, "resume")
    recorder.checkpoint(step=11)
    training.train(2)
    assert not (training.parameters()["0.weight"] == after["0.weight"]).all()
    recorder.checkpoint(step=13)
    recorder.close(timeout=90.0)
    modes = [row.header.info.mode for row in server.run("run").rows]
    # The checkpoint that the advice met was copied before the switch.
    assert modes == [FULL, FULL, NORM_ONLY, NORM_ONLY, FULL]


def test_by_default_the_advice_changes_nothing(home: Path, server: IngestServer) -> None:
    training = Training()
    server.advice = types_pb2.ADVICE_STATE_SWITCH
    recorder = trajmon.watch(
        training.model, run="run", server=server.address, optimizer=training.optimizer, strict=True
    )
    settle(recorder, "switch")
    recorder.checkpoint(step=5)
    assert recorder.advice.switch
    assert recorder.switch_report is None
    assert all(parameter.requires_grad for parameter in training.model.parameters())
    recorder.close()


def test_a_callback_hears_each_change_and_may_fail(home: Path, server: IngestServer) -> None:
    training = Training()
    heard: list[str] = []

    def hear(advice: trajmon.Advice) -> None:
        heard.append(advice.state)
        raise RuntimeError("a user's mistake")

    recorder = trajmon.watch(
        training.model,
        run="run",
        server=server.address,
        on_advice="callback",
        advice_callback=hear,
        strict=True,
    )
    settle(recorder, "explore")
    for step in (1, 2):
        assert recorder.checkpoint(step=step) == step
    server.advice = types_pb2.ADVICE_STATE_CANDIDATE
    settle(recorder, "candidate")
    recorder.checkpoint(step=3)
    recorder.close()
    assert heard[-2:] == ["explore", "candidate"]


def test_what_cannot_be_followed_is_refused_before_anything_is_made(home: Path) -> None:
    training = Training()
    with pytest.raises(RefusedError, match='on_advice="switch" needs optimizer='):
        trajmon.watch(training.model, run="run", on_advice="switch", strict=True)
    with pytest.raises(
        RefusedError, match=r'on_advice=\'perhaps\' is not one of "log", "callback", "switch"'
    ):
        trajmon.watch(training.model, run="run", on_advice="perhaps", strict=True)  # type: ignore[arg-type] # bad on purpose
    with pytest.raises(RefusedError, match="every= needs optimizer="):
        trajmon.watch(training.model, run="run", every=5, strict=True)
    with pytest.raises(RefusedError, match="every: 'now and then' is not a schedule"):
        trajmon.watch(
            training.model, run="run", every="now and then", optimizer=training.optimizer, strict=True
        )
    with pytest.raises(
        RefusedError, match="a schedule needs an optimizer that tells of its steps; object has no"
    ):
        trajmon.watch(
            training.model, run="other", server="127.0.0.1:1", every=5, optimizer=object(), strict=True
        )
    assert not (home / "client" / "run").exists()


def test_checkpoints_come_by_themselves(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(
        training.model, run="run", server=server.address, optimizer=training.optimizer, every=4, strict=True
    )
    recorder.log({"loss": 1.5}, epoch=0.5)
    training.train(9)
    recorder.close(timeout=90.0)
    training.train(4)
    rows = server.run("run").rows
    assert [row.header.info.step for row in rows] == [0, 4, 8]
    assert dict(rows[1].header.info.metrics) == {"loss": 1.5}
    assert rows[1].header.info.epoch == 0.5
    assert not rows[2].header.info.metrics


def test_the_ends_of_epochs_and_a_training_that_goes_on(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(
        training.model,
        run="run",
        server=server.address,
        optimizer=training.optimizer,
        every="every 2 epochs",
        first_step=100,
        strict=True,
    )
    recorded = []
    for epoch in range(1, 5):
        training.train(3)
        recorded.append(recorder.epoch_end(epoch, metrics={"epoch loss": torch.tensor(0.25)}))
    recorder.close(timeout=90.0)
    assert recorded == [None, 1, None, 2]
    rows = server.run("run").rows
    assert [(row.header.info.step, row.header.info.epoch) for row in rows] == [
        (0, 0.0),
        (106, 2.0),
        (112, 4.0),
    ]
    assert rows[2].header.info.metrics["epoch loss"] == 0.25
    assert server.run("run").reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED


def test_overlapping_copies_need_something_that_waits(home: Path) -> None:
    training = Training()
    with pytest.raises(RefusedError, match='copy="overlap" needs optimizer='):
        trajmon.watch(training.model, run="run", copy="overlap", strict=True)
    with pytest.raises(RefusedError, match=r'copy=\'later\' is not one of "wait", "overlap"'):
        trajmon.watch(training.model, run="run", copy="later", strict=True)  # type: ignore[arg-type] # bad on purpose
    assert not (home / "client" / "run").exists()


def test_without_a_gpu_training_waits_for_the_copy(home: Path, server: IngestServer) -> None:
    training = Training()
    recorder = trajmon.watch(
        training.model,
        run="run",
        server=server.address,
        optimizer=training.optimizer,
        copy="overlap",
        strict=True,
    )
    kept = [training.parameters()]
    for step in training.legs(2):
        recorder.checkpoint(step=step)
        kept.append(training.parameters())
    recorder.close(timeout=90.0)
    rows = server.run("run").rows
    assert [row.header.info.copy for row in rows] == ["wait"] * 3
    for layer, name in enumerate(kept[0]):
        expected = [kept[2][name] @ other[name] for other in kept]
        assert rows[2].gram[layer] == pytest.approx(expected, rel=1e-12)
