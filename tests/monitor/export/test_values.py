"""Every number of a run's series, against the same number taken from its parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.export.feeding import feed, known, of, read, sketched  # noqa: TID251 # tests/monitor
from support.house import House, describe
from support.rows import SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_protos.record import LayerStatus, Row
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.export.page import RunPage
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.analysis import advance
from trajmon_server.runs.control import AgentReport
from trajmon_server.signals.base import AdviceState
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy

Exported = dict[str, float]


def exported(house: House, run: str, **labels: str) -> Exported:
    """What a run's series with exactly these labels beside `run` say, by name less ``trajmon_``."""
    series = read(RunPage(house.registry, 1000, 300.0).text(False))
    wanted = frozenset({"run": run, **labels}.items())
    return {
        name.removeprefix("trajmon_"): value for (name, found), value in series.items() if found == wanted
    }


def cosines(points: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(points, axis=1)
    return points @ points.T / np.outer(lengths, lengths)


def degrees_between(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """By the cosine, which is good to 1e-6 degrees at these angles."""
    return float(np.degrees(np.arccos(one @ other / np.linalg.norm(one) / np.linalg.norm(other))))


def expected(points: NDArray[np.float64]) -> Exported:
    """Of the checkpoints on the path: [checkpoint, parameter]."""
    norms = np.linalg.norm(points, axis=1)
    moved, updates = points - points[0], np.diff(points, axis=0)
    found = {
        "mean_directional_similarity": cosines(points).mean(),
        "windowed_mean_directional_similarity": cosines(points[-10:]).mean(),
        "parameter_norm": norms[-1],
        "distance_from_initialization": np.linalg.norm(moved[-1]),
    }
    if len(points) > 1:
        found["relative_mean_directional_similarity"] = cosines(moved[1:]).mean()
        found["update_norm"] = np.linalg.norm(updates[-1])
        found["update_ratio"] = np.linalg.norm(updates[-1]) / norms[-1]
    if len(points) > 2:
        found["update_angle_degrees"] = degrees_between(updates[-1], updates[-2])
    if len(points) > 8:
        found["parameter_norm_growth"] = norms[-1] / norms[-9]
    if len(points) > 9:
        found["update_norm_growth"] = np.linalg.norm(updates[-1]) / np.linalg.norm(updates[-9])
    return {name: float(value) for name, value in found.items()}


def points_of(source: SyntheticRun, path: list[int], group: str) -> NDArray[np.float64]:
    layers = slice(None) if group == "network" else slice(0, 1)
    return source.parameters[path][:, layers].reshape(len(path), -1)


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 8, 9, 10, 14])
@pytest.mark.parametrize("group", ["network", "first"])
def test_hallmarks_of_a_group(house: House, checkpoints: int, group: str) -> None:
    source = SyntheticRun("values", num_checkpoints=14)
    known(house, source, checkpoints)
    points = points_of(source, list(range(checkpoints)), group)
    found = exported(house, "values", group=group)
    assert found == pytest.approx(expected(points), rel=1e-9)
    if checkpoints > 2:
        at_origin = exported(house, "values", group=group, vertex="origin")
        assert at_origin == {"apex_angle_degrees": pytest.approx(degrees_between(points[-1], points[0]))}
        at_start = exported(house, "values", group=group, vertex="initialization")
        angle = degrees_between(points[-1] - points[0], points[1] - points[0])
        assert at_start == {"apex_angle_degrees": pytest.approx(angle)}


def test_growth_follows_the_path_and_not_the_numbers(house: House) -> None:
    source = SyntheticRun("resumed", num_checkpoints=16)
    run = house.registry.new(describe(source))
    house.registry.add(run)
    path: list[int] = []
    # From 9 back to 4: checkpoints 5 to 9 are superseded.
    for checkpoint in range(16):
        if checkpoint == 10:
            path = path[:5]
        # The worker derives the kept part again.
        if checkpoint == 10:
            run.analysis = known(house, source, 5).analysis
            house.registry.add(run)
        feed(run, source, checkpoint, path.copy())
        path.append(checkpoint)
    assert path == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15]
    for group in ("network", "first"):
        assert exported(house, "resumed", group=group) == pytest.approx(
            expected(points_of(source, path, group)), rel=1e-9
        )
    assert exported(house, "resumed")["checkpoints"] == len(path)


def test_growth_from_nothing_is_undefined(house: House) -> None:
    source = SyntheticRun("zeros", num_checkpoints=11)
    source.parameters[1:3] = 0.0
    known(house, source, 11)
    found = exported(house, "zeros", group="network")
    # Nine and eight checkpoints back are the zeros: no norm to compare with, and no update between them.
    assert found.keys().isdisjoint({"parameter_norm_growth", "update_norm_growth"})
    last, before = points_of(source, [10, 9], "network")
    assert found["update_ratio"] == pytest.approx(np.linalg.norm(last - before) / np.linalg.norm(last))


def test_parameters_of_length_zero_have_no_update_ratio(house: House) -> None:
    source = SyntheticRun("null", num_checkpoints=3)
    source.parameters[2] = 0.0
    known(house, source, 3)
    found = exported(house, "null", group="network")
    assert found["parameter_norm"] == 0.0
    assert found["update_norm"] == pytest.approx(np.linalg.norm(source.parameters[1]))
    assert "update_ratio" not in found


def test_what_is_undefined_is_left_out(house: House) -> None:
    known(house, SyntheticRun("empty"), 0)
    found = exported(house, "empty")
    assert found == {
        "run_active": 1.0,
        "switch_advised": 0.0,
        "checkpoints": 0.0,
        "unanalysed_checkpoints": 0.0,
        "open_checkpoints": 0.0,
        "run_journal_bytes": 0.0,
        "integrity_findings": 0.0,
        "estimated_entries": 0.0,
    }
    assert exported(house, "empty", group="network") == {}
    assert exported(house, "empty", state="unknown") == {"advice_state": 1.0}


def test_a_last_row_that_is_lost_leaves_the_rest(house: House) -> None:
    run = known(house, SyntheticRun("lost"), 4)
    run.lose(3)
    found = exported(house, "lost")
    assert found["checkpoints"] == 4.0
    assert found.keys().isdisjoint({"checkpoint_step", "norm_only", "last_checkpoint_timestamp_seconds"})


def test_a_runs_checkpoints_in_time(house: House) -> None:
    source = SyntheticRun("time", num_checkpoints=12)
    run = house.registry.new(describe(source))
    house.registry.add(run)
    # The first interval lies before the last eight checkpoints; the others' median is that of 7 numbers.
    times = np.cumsum([0, 1000, 1000, 1000, 3, 5, 4, 900, 2, 6, 7]) + source.started
    for checkpoint, moment in enumerate(times):
        row = source.row(checkpoint)
        row.header.info.time_unix_seconds = moment
        meta = CheckpointMeta.from_row(row)
        run.accept(meta, checkpoint, 100)
    found = exported(house, "time")
    assert found["checkpoint_interval_seconds"] == 5.0
    assert found["last_checkpoint_timestamp_seconds"] == times[-1]
    assert found["last_heard_timestamp_seconds"] == run.last_heard_unix_seconds
    assert found["checkpoint_step"] == 100.0
    assert found["run_journal_bytes"] == 1100.0
    # A lost row in between leaves no interval on its two sides: 3, 5, 4, 6, 7 and no 900 or 2.
    run.lose(7)
    assert exported(house, "time")["checkpoint_interval_seconds"] == 5.0
    run.lose(9)
    # 3, 5, 4
    assert exported(house, "time")["checkpoint_interval_seconds"] == 4.0


@pytest.mark.parametrize("step_seconds", [0.0, -5.0])
def test_clocks_that_stand_still_or_run_back_tell_no_interval(house: House, step_seconds: float) -> None:
    source = SyntheticRun("clock")
    run = house.registry.new(describe(source))
    house.registry.add(run)
    for checkpoint in range(4):
        meta = replace(
            CheckpointMeta.from_row(source.row(checkpoint)),
            time_unix_seconds=source.started + step_seconds * checkpoint,
        )
        run.accept(meta, checkpoint, 100)
    assert "checkpoint_interval_seconds" not in exported(house, "clock")


def test_rows_that_are_not_analysed_yet(house: House) -> None:
    source = SyntheticRun("behind", num_checkpoints=9)
    run = known(house, source, 6)
    assert exported(house, "behind")["unanalysed_checkpoints"] == 0.0
    for checkpoint in (6, 7):
        run.accept(CheckpointMeta.from_row(source.row(checkpoint)), checkpoint, 100)
    assert exported(house, "behind")["unanalysed_checkpoints"] == 2.0
    run.lose(7)
    assert exported(house, "behind")["unanalysed_checkpoints"] == 1.0
    run.lose(2)
    run.restart_analysis()
    assert exported(house, "behind")["unanalysed_checkpoints"] == 6.0
    run.analysed = 4
    # 4, 5 and 6: checkpoint 2 is lost, 7 as well.
    assert exported(house, "behind")["unanalysed_checkpoints"] == 3.0
    run.analysed = 3
    assert exported(house, "behind")["unanalysed_checkpoints"] == 4.0


def test_layers_that_are_not_finite(house: House) -> None:
    source = SyntheticRun("nan", num_layers=5)
    run = known(house, source, 3)
    assert exported(house, "nan")["nonfinite_layers"] == 0.0

    def take(checkpoint: int, bad: list[int], lost: bool = False) -> None:
        whole = source.row(checkpoint)
        gram, products, status = whole.gram.copy(), whole.products.copy(), whole.status.copy()
        gram[bad], products[bad], status[bad] = np.nan, np.nan, LayerStatus.NON_FINITE
        row = Row(whole.header, gram, products, status)
        meta = replace(CheckpointMeta.from_row(row), lost=lost)
        run.accept(meta, checkpoint, 100)
        run.analysis = advance(run.analysis, row, meta, run.description.groups, RemainingDisplacementPolicy())
        run.analysed = checkpoint + 1

    take(3, [1, 4])
    assert exported(house, "nan")["nonfinite_layers"] == 2.0
    take(4, [])
    assert exported(house, "nan")["nonfinite_layers"] == 0.0
    # Nothing is known of the layers of a row that has been lost.
    take(5, [], lost=True)
    assert "nonfinite_layers" not in exported(house, "nan")


def test_since_when_the_advice_holds(house: House) -> None:
    source = SyntheticRun("advised")
    run = known(house, source, 8)
    advice = run.current_advice()
    history = ((0, AdviceState.UNKNOWN), (3, AdviceState.EXPLORE), (5, advice.state))
    run.analysis = replace(run.analysis, history=history)
    assert exported(house, "advised")["advice_since_timestamp_seconds"] == source.started + 5
    assert exported(house, "advised", state=advice.state.value) == {"advice_state": 1.0}
    # Silence makes the advice `unknown`, which began at no checkpoint.
    explored = replace(advice, state=AdviceState.EXPLORE)
    run.analysis = replace(run.analysis, history=history[:2], advice=explored)
    assert exported(house, "advised")["advice_since_timestamp_seconds"] == source.started + 3
    run.last_heard_unix_seconds -= 1e6
    assert "advice_since_timestamp_seconds" not in exported(house, "advised")
    assert exported(house, "advised", state="unknown") == {"advice_state": 1.0}
    assert exported(house, "advised", state="explore") == {"advice_state": 0.0}


def test_what_agents_tell(house: House) -> None:
    run = known(house, SyntheticRun("told"), 2)
    names = {
        "checkpoints_pending",
        "checkpoints_skipped",
        "checkpoints_uncomputed",
        "agent_lag_seconds",
        "agent_last_report_timestamp_seconds",
    }
    # Before anything was told, nothing is known of the agent: not even that it lags by nothing.
    assert exported(house, "told").keys().isdisjoint(names)
    assert exported(house, "told", mode="exact") == {}
    report = ingest_pb2.ReportStatusRequest(
        checkpoints_pending=4,
        checkpoints_skipped=3,
        checkpoints_uncomputed=2,
        lag_seconds=1.5,
        snapshot_mode=ingest_pb2.SNAPSHOT_MODE_ANCHORED,
    )
    before = run.last_heard_unix_seconds
    run.reports[""] = AgentReport.from_message(report)
    found = exported(house, "told")
    told_at = found.pop("agent_last_report_timestamp_seconds")
    assert before <= told_at == run.reports.last_unix_seconds
    assert {name: found.get(name) for name in names - {"agent_last_report_timestamp_seconds"}} == {
        "checkpoints_pending": 4.0,
        "checkpoints_skipped": 3.0,
        "checkpoints_uncomputed": 2.0,
        "agent_lag_seconds": 1.5,
    }
    shown = {mode: exported(house, "told", mode=mode) for mode in ("exact", "anchored", "sketch")}
    assert shown == {
        mode: {"snapshot_mode": float(mode == "anchored")} for mode in ("exact", "anchored", "sketch")
    }


def test_a_training_that_has_ended(house: House) -> None:
    run = known(house, SyntheticRun("over"), 2)
    assert exported(house, "over")["run_active"] == 1.0
    run.control = run.control.reported(ingest_pb2.RUN_PHASE_FINISHED, "", run.last_heard_unix_seconds)
    assert exported(house, "over")["run_active"] == 0.0


def test_standard_errors_of_what_rests_on_estimates(house: House) -> None:
    run = sketched(house, SketchedRun("sketched", num_checkpoints=6))
    known(house, SyntheticRun("exact"), 6)
    series = read(RunPage(house.registry, 1000, 300.0).text(False))
    errors = {
        (dict(labels)["run"], dict(labels)["group"], dict(labels)["hallmark"]): value
        for labels, value in of("trajmon_hallmark_standard_error", series).items()
    }
    names = {
        "mds",
        "relative_mds",
        "windowed_mds",
        "distance_from_initialization",
        "apex_angle_initialization_degrees",
        "apex_angle_origin_degrees",
    }
    assert errors.keys() == {("sketched", group, name) for group in ("network", "first") for name in names}
    assert all(value > 0 for value in errors.values())
    # What the analysis says beyond them has no series of its own: they are all of those that are exported.
    exported_hallmarks = {*names, "update_angle_degrees", "parameter_norm", "update_norm"}
    for group, told in run.shown.errors.items():
        for name in told.keys() & exported_hallmarks:
            assert errors["sketched", group, name] == told[name]
    # Rows 3, 4 and 5 lack one, two and three products.
    assert exported(house, "sketched")["estimated_entries"] == 6.0
    assert exported(house, "exact")["estimated_entries"] == 0.0
