"""One run's state, and what its control file says."""

from __future__ import annotations

import pytest

from support.house import House, describe
from support.rows import SyntheticRun
from trajmon_protos.record import decode
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.run import Run, RunControl

RUNNING, STOPPED = ingest_pb2.RUN_PHASE_RUNNING, ingest_pb2.RUN_PHASE_STOPPED
FINISHED, LOST = ingest_pb2.RUN_PHASE_FINISHED, ingest_pb2.RUN_PHASE_LOST


def meta(source: SyntheticRun, checkpoint: int, previous: int | None) -> CheckpointMeta:
    row = source.row(checkpoint)
    row.header.ClearField("previous")
    if previous is not None:
        row.header.previous = previous
    return CheckpointMeta.from_row(row)


def test_the_end_is_dated_once_and_forgotten_when_the_run_goes_on() -> None:
    control = RunControl(attempt=1, writer_epoch=3)
    ended = control.reported(FINISHED, "done", now=100.0)
    assert (ended.phase, ended.reason, ended.ended_unix_seconds) == (FINISHED, "done", 100.0)
    assert ended.reported(FINISHED, "done", now=200.0).ended_unix_seconds == 100.0
    assert ended.reported(ingest_pb2.RUN_PHASE_UNSPECIFIED, "", now=200.0) == ended
    assert RunControl.from_json(ended.to_json()) == ended
    again = ended.opened(attempt=2)
    assert again == RunControl(attempt=2, writer_epoch=4, phase=RUNNING)
    assert control.reported(STOPPED, "disk budget", now=1.0).is_active
    assert not control.reported(LOST, "", now=1.0).is_active


def test_a_control_file_without_a_date_of_the_end_is_read() -> None:
    data = RunControl(attempt=2, writer_epoch=5, phase=FINISHED).to_json()
    del data["ended_unix_seconds"]
    assert RunControl.from_json(data).ended_unix_seconds == 0.0


def test_a_rebuilt_control_fences_every_counted_epoch_off() -> None:
    assert RunControl.rebuilt(attempt=3, now=1.7e9) == RunControl(attempt=3, writer_epoch=1_700_000_000)


def test_a_row_that_fills_a_gap_must_not_tear_the_path(house: House) -> None:
    source = SyntheticRun("torn")
    run: Run = house.registry.new(describe(source))
    for checkpoint, previous in enumerate([None, 0, 1, 2, 3]):
        run.accept(meta(source, checkpoint, previous), checkpoint, 10)
    run.accept(meta(source, 5, 3), 5, 10)
    assert run.path == (0, 1, 2, 3, 5)
    run.lose(4)
    assert (run.next_checkpoint, run.num_checkpoints) == (4, 6)
    run.check_previous(4, 3)
    with pytest.raises(ValueError, match="checkpoint 3 is superseded or does not exist"):
        run.check_previous(4, 1)  # then 5 could not follow 3 any more
    run.accept(meta(source, 4, 3), 4, 10)
    assert (run.path, run.next_checkpoint, run.journal_bytes) == ((0, 1, 2, 3, 5), 6, 70)


def test_what_a_lost_row_superseded_stays_known(house: House) -> None:
    source = SyntheticRun("known")
    run = house.registry.new(describe(source))
    for checkpoint, previous in enumerate([None, 0, 1, 0, 3]):
        run.accept(meta(source, checkpoint, previous), checkpoint, 10)
    run.lose(3)
    assert run.previous == [None, 0, 1, 0, 3]
    restarted = house.registry.new(describe(source))
    restarted.recovered({n: run.metas[n] for n in (0, 1, 2, 4)}, 40)
    assert restarted.previous == [None, 0, 1, 2, 3]
    assert restarted.path == (0, 1, 2, 3, 4)
    assert restarted.next_checkpoint == 3


def test_metric_names_are_kept_once(house: House) -> None:
    source = SyntheticRun("names")
    kept = [next(iter(CheckpointMeta.from_row(decode(source.record(n))).metrics)) for n in range(2)]
    assert kept[0] is kept[1]


def test_advice_before_the_first_analysis_says_what_is_the_matter(house: House) -> None:
    source = SyntheticRun("early")
    run = house.registry.new(describe(source))
    assert run.current_advice().reason == "No checkpoint has arrived yet."
    run.accept(meta(source, 0, None), 0, 10)
    assert (
        run.current_advice().reason == "None of the 1 checkpoints that have arrived has been looked at yet."
    )
    assert not run.current_advice().switch
