"""Names, owners and restarts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch import nn

import trajmon
from client.recording import (  # noqa: TID251 # tests/client, on the path of the tests
    IngestServer,
    names,
    wait_until,
)
from client.training import Training, gram_of, start_program  # noqa: TID251 # the same
from trajmon import errors
from trajmon.numerics.errors import NumericsError
from trajmon.rundir import RecorderNote, RunDescription, RunDir
from trajmon_protos.v1 import ingest_pb2

LOST = ingest_pb2.RUN_PHASE_LOST


def record_three(server: IngestServer) -> list[dict[str, object]]:
    """A run "run" with checkpoints at steps 0, 5, 10, 15; returns the parameters at each."""
    training = Training()
    history = [training.parameters()]
    with trajmon.watch(training.model, run="run", server=server.address, strict=True) as recorder:
        for step in training.legs(3):
            recorder.checkpoint(step=step)
            history.append(training.parameters())
        recorder.close(timeout=90.0)
    return history  # type: ignore[return-value] # arrays, compared as such


def test_never_refuses_a_run_that_exists(home: Path, server: IngestServer) -> None:
    record_three(server)
    before = names(RunDir.of(home, "run").snapshots)
    recorder = trajmon.watch(Training().model, run="run", server=server.address)
    assert recorder.status.state == "refused"
    assert recorder.status.reason == (
        f"run 'run' exists in {home}/client/run; continue it with resume=\"allow\", or choose another name"
    )
    assert recorder.checkpoint() is None
    assert names(RunDir.of(home, "run").snapshots) == before


def test_must_refuses_a_run_that_does_not_exist_and_leaves_nothing(home: Path) -> None:
    recorder = trajmon.watch(Training().model, run="run", resume="must")
    assert recorder.status.state == "refused"
    assert recorder.status.reason == (
        f"there is no run 'run' in {home}/client; start it with resume=\"allow\""
    )
    assert not (home / "client").exists()


def test_allow_starts_a_run_and_continues_it(home: Path, server: IngestServer) -> None:
    history = record_three(server)
    training = Training(seed=7)
    with trajmon.watch(
        training.model, run="run", server=server.address, resume="allow", strict=True
    ) as recorder:
        assert recorder.status.recorded == 4, "nothing is recorded at once"
        training.train(3)
        assert recorder.checkpoint() == 4
        history.append(training.parameters())  # type: ignore[arg-type] # arrays
        recorder.close(timeout=90.0)
    stored = server.run("run")
    rows = stored.rows
    assert [row.header.attempt for row in rows] == [1, 1, 1, 1, 2]
    assert rows[4].header.previous == 3
    assert rows[4].header.info.step == 16, "without a step it counts on"
    assert stored.request.attempt == 2
    gram = gram_of(history)  # type: ignore[arg-type] # the same
    assert rows[4].gram == pytest.approx(gram[:, 4], rel=1e-12, abs=1e-12)
    assert stored.reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED


def test_going_back_supersedes_what_came_after(home: Path, server: IngestServer) -> None:
    record_three(server)
    training = Training(seed=7)
    with trajmon.watch(
        training.model, run="run", server=server.address, resume="must", strict=True
    ) as recorder:
        assert recorder.checkpoint(step=10) == 4
        assert recorder.checkpoint(step=12) == 5
        recorder.close(timeout=90.0)
    with trajmon.watch(
        training.model, run="run", server=server.address, resume="must", strict=True
    ) as recorder:
        assert recorder.checkpoint(step=12) == 6
        recorder.close(timeout=90.0)
    with trajmon.watch(
        training.model, run="run", server=server.address, resume="must", strict=True
    ) as recorder:
        assert recorder.checkpoint(step=0) == 7, "the origin is never superseded"
        recorder.close(timeout=90.0)
    rows = server.run("run").rows
    assert [row.header.previous for row in rows[1:]] == [0, 1, 2, 1, 4, 4, 0]
    assert [row.header.attempt for row in rows] == [1, 1, 1, 1, 2, 2, 3, 4]


def test_another_model_is_refused_with_both_fingerprints(home: Path, server: IngestServer) -> None:
    record_three(server)
    old = RunDescription.read(RunDir.of(home, "run")).layout.fingerprint
    with pytest.raises(errors.OtherModelError) as refusal:
        trajmon.watch(Training(width=25).model, run="run", resume="allow", strict=True)
    text = str(refusal.value)
    assert text.startswith(f"run 'run' was recorded from a model {old}, this one is ")
    assert "layer 0 was '0.weight' (24, 12) float32, is '0.weight' (25, 12) float32" in text
    new = text.partition("this one is ")[2][:32]
    assert len(new) == 32
    assert new != old
    assert server.run("run").next_checkpoint == 4
    with trajmon.watch(
        Training().model, run="run", server=server.address, resume="must", strict=True
    ) as again:
        assert again.status.recorded == 4, "the refusal let go of the run"


def test_a_second_living_training_is_refused_by_its_process_id(home: Path, server: IngestServer) -> None:
    body = "print('recording', flush=True); time.sleep(60)"
    with start_program(body, server.address) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "recording\n"
        for resume in ("never", "allow"):
            recorder = trajmon.watch(Training().model, run="run", resume=resume)
            assert recorder.status.reason == (
                f"run 'run' is being recorded by process {other.pid}; end that, or choose another name"
            )
        other.kill()
    recorder = trajmon.watch(Training().model, run="run", server=server.address, resume="allow", strict=True)
    assert recorder.checkpoint() == 1
    recorder.close(timeout=90.0)


def test_a_second_recorder_in_the_same_process_is_refused(home: Path, server: IngestServer) -> None:
    first = trajmon.watch(Training().model, run="run", server=server.address, strict=True)
    with pytest.raises(errors.RunOwnedError, match=f"is being recorded by process {os.getpid()}"):
        trajmon.watch(Training().model, run="run", resume="allow", strict=True)
    assert first.checkpoint() == 1
    first.close(timeout=90.0)


def test_a_killed_training_is_lost_and_can_be_resumed(home: Path, server: IngestServer) -> None:
    body = (
        "[recorder.checkpoint(step=n) for n in range(1, 30)]; print('recorded', flush=True); time.sleep(60)"
    )
    with start_program(body, server.address) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "recorded\n"
        training.send_signal(signal.SIGKILL)
    wait_until(
        lambda: LOST in [report.phase for run in server.runs.values() for report in run.reports],
        "the run to be reported lost",
    )
    assert len(server.run("run").rows) == 30
    wait_until(lambda: not RunDir.of(home, "run").slot_file.exists(), "the slot to be removed")
    with trajmon.watch(
        Training().model, run="run", server=server.address, resume="must", strict=True
    ) as recorder:
        assert recorder.checkpoint(step=20) == 30
        recorder.close(timeout=90.0)
    assert server.run("run").rows[30].header.previous == 19
    assert server.run("run").reports[-1].phase == ingest_pb2.RUN_PHASE_FINISHED


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"run": "../x"}, "'../x' is not a run name; use 1 to 64 of the characters A-Z a-z 0-9 _ . -"),
        ({"run": ""}, "'' is not a run name"),
        ({"resume": "perhaps"}, 'resume=\'perhaps\' is not one of "never", "allow", "must"'),
        ({"tags": ["x" * 65]}, "at most 32 tags of 1 to 64 characters are allowed"),
        ({"agent_threads": 0}, "agent_threads=0 is not at least 1"),
        ({"snapshot_budget_bytes": 0}, "snapshot_budget_bytes=0 is not at least 1"),
        ({"groups": {"a": "("}}, "group 'a'"),
    ],
)
def test_wrong_options_are_refused_in_words(home: Path, options: dict[str, object], text: str) -> None:
    chosen: dict[str, object] = {"run": "run", **options}
    recorder = trajmon.watch(nn.Linear(2, 2), **chosen)  # type: ignore[arg-type] # wrong ones are meant
    assert recorder.status.state == "refused"
    assert text in recorder.status.reason
    with pytest.raises((errors.RefusedError, NumericsError)):
        trajmon.watch(nn.Linear(2, 2), strict=True, **chosen)  # type: ignore[arg-type] # the same
    assert not (home / "client").exists()


def test_a_model_without_parameters_is_refused(home: Path) -> None:
    recorder = trajmon.watch(nn.ReLU(), run="run")
    assert recorder.status.reason == "ReLU has no floating-point parameters: there is nothing to record"


def test_a_damaged_run_file_is_refused_in_words(home: Path, server: IngestServer) -> None:
    record_three(server)
    (home / "client" / "run" / "run.json").write_text("{")
    with pytest.raises(
        errors.DamagedRunError, match=r"run\.json cannot be read; restore it, or remove its folder"
    ):
        trajmon.watch(Training().model, run="run", resume="allow", strict=True)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = trajmon.watch(Training().model, run="run", home=tmp_path / "file")
    assert recorder.status.state == "refused"
    assert recorder.status.reason == (
        f"{tmp_path}/file cannot be written: File exists; give another home= or snapshot_dir=, or set TRAJMON_HOME"
    )


def test_the_server_is_the_argument_then_the_environment(
    home: Path, server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJMON_SERVER", server.address)
    with trajmon.watch(Training().model, run="run", strict=True) as recorder:
        recorder.close(timeout=90.0)
    assert len(server.run("run").rows) == 1
    note = RecorderNote.read(RunDir.of(home, "run"))
    assert note is not None
    assert note.server == server.address
