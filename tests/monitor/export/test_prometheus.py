"""The Collector and the exporter, each over a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from support.house import House, describe
from support.rows import SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.config import Address
from trajmon_server.errors import ConfigError
from trajmon_server.export.prometheus import Exporter, RunCollector
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.analysis import advance
from trajmon_server.runs.control import AgentReport
from trajmon_server.runs.estimates import Estimates
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy


def known(house: House, source: SyntheticRun, rows: int, team: str = "local") -> Run:
    """A run whose rows are analysed, without worker or disk."""
    run = house.registry.new(describe(source, team))
    for checkpoint in range(rows):
        row = source.row(checkpoint)
        meta = CheckpointMeta.from_row(row)
        run.accept(meta, checkpoint, 100)
        run.analysis = advance(run.analysis, row, meta, run.description.groups, RemainingDisplacementPolicy())
    run.analysed = rows
    house.registry.add(run)
    return run


def sketched(house: House, source: SketchedRun) -> Run:
    """The same of a run with holes, its sketches in the journal."""
    run = house.registry.new(describe(source))
    for checkpoint in range(source.num_checkpoints):
        house.journal.append(source.run_id, checkpoint, 0, source.sketch_record(checkpoint), kind="sketch")
    run.sketches.recovered(source.spec, range(source.num_checkpoints), {})
    estimates = Estimates(
        Rows(house.journal, house.registry.count_event),
        run.description,
        lambda: range(source.num_checkpoints),
    )
    for checkpoint in range(source.num_checkpoints):
        house.journal.append(source.run_id, checkpoint, 0, source.record(checkpoint))
        row = source.row(checkpoint)
        meta = CheckpointMeta.from_row(row)
        run.accept(meta, checkpoint, 100)
        policy = RemainingDisplacementPolicy()
        filled = estimates.of(row)
        run.analysis = advance(run.analysis, row, meta, run.description.groups, policy, filled)
    run.analysed = source.num_checkpoints
    house.registry.add(run)
    return run


def samples(collector: RunCollector, name: str) -> list[tuple[dict[str, str], float]]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = {family.name: family for family in registry.collect()}
    return [(dict(sample.labels), sample.value) for sample in families[name].samples]


def runs_in(found: Iterable[tuple[dict[str, str], float]]) -> list[str]:
    return [labels["run"] for labels, _ in found]


def test_a_finished_run_stays_for_a_while(house: House) -> None:
    run = known(house, SyntheticRun("over"), 3)
    now = time.time()
    for seconds_ago, shown in ((10.0, ["over"]), (299.0, ["over"]), (301.0, [])):
        run.control = replace(
            run.control, phase=ingest_pb2.RUN_PHASE_FINISHED, ended_unix_seconds=now - seconds_ago
        )
        assert runs_in(samples(RunCollector(house.registry, 1000, 300.0), "trajmon_checkpoints")) == shown


def test_two_teams_may_use_one_name(house: House) -> None:
    known(house, SyntheticRun("same", seed=1), 2)
    known(house, SyntheticRun("same", seed=2), 3, team="vision")
    found = samples(RunCollector(house.registry, 1000, 300.0), "trajmon_checkpoints")
    assert {labels["run"]: value for labels, value in found} == {"same": 2.0, "vision/same": 3.0}


def test_what_is_undefined_is_left_out(house: House) -> None:
    known(house, SyntheticRun("short"), 1)
    known(house, SyntheticRun("empty"), 0)
    collector = RunCollector(house.registry, 1000, 300.0)
    assert runs_in(samples(collector, "trajmon_parameter_norm")) == ["short", "short"]
    assert samples(collector, "trajmon_update_angle_degrees") == []
    assert runs_in(samples(collector, "trajmon_checkpoint_step")) == ["short"]


def test_a_last_row_that_is_lost_leaves_the_rest(house: House) -> None:
    run = known(house, SyntheticRun("lost"), 4)
    run.lose(3)
    collector = RunCollector(house.registry, 1000, 300.0)
    assert runs_in(samples(collector, "trajmon_checkpoints")) == ["lost"]
    assert samples(collector, "trajmon_checkpoint_step") == []


def test_the_newest_runs_are_shown_up_to_the_cap(house: House) -> None:
    for index in range(6):
        source = SyntheticRun(f"run-{index}", seed=index)
        source.started += 100.0 * index
        known(house, source, 2)
    collector = RunCollector(house.registry, 100, 300.0)
    shown = runs_in(samples(collector, "trajmon_checkpoints"))
    assert shown == [f"run-{5 - position}" for position in range(len(shown))]
    assert 0 < len(shown) < 6
    ((_, left_out),) = samples(collector, "trajmon_series_suppressed")
    assert left_out > 0


def test_standard_errors_of_what_rests_on_estimates(house: House) -> None:
    sketched(house, SketchedRun("sketched", num_checkpoints=6))
    known(house, SyntheticRun("exact"), 6)
    collector = RunCollector(house.registry, 1000, 300.0)
    found = {
        (labels["group"], labels["hallmark"]): value
        for labels, value in samples(collector, "trajmon_hallmark_standard_error")
        if labels["run"] == "sketched"
    }
    assert {group for group, _ in found} == {"network", "first"}
    assert {name for _, name in found} == {
        "mds",
        "relative_mds",
        "distance_from_initialization",
        "apex_angle_initialization_degrees",
        "apex_angle_origin_degrees",
    }
    assert all(value > 0 for value in found.values())
    assert runs_in(samples(collector, "trajmon_hallmark_standard_error")) == ["sketched"] * len(found)
    entries = {labels["run"]: value for labels, value in samples(collector, "trajmon_estimated_entries")}
    # Rows 3, 4 and 5 lack one, two and three products.
    assert entries == {"sketched": 6.0, "exact": 0.0}


def test_the_cap_holds_with_standard_errors(house: House) -> None:
    for index in range(4):
        source = SketchedRun(f"sketched-{index}", seed=index, num_checkpoints=6)
        sketched(house, source)
    for most in (40, 80, 120, 160):
        registry = CollectorRegistry()
        registry.register(RunCollector(house.registry, most, 300.0))
        exported = [
            sample for family in registry.collect() for sample in family.samples if "run" in sample.labels
        ]
        assert len(exported) <= most


def test_the_snapshots_that_a_client_keeps(house: House) -> None:
    run = known(house, SyntheticRun("mode"), 2)
    collector = RunCollector(house.registry, 1000, 300.0)
    assert samples(collector, "trajmon_snapshot_mode") == []
    report = ingest_pb2.ReportStatusRequest(snapshot_mode=ingest_pb2.SNAPSHOT_MODE_ANCHORED)
    run.reports[""] = AgentReport.from_message(report)
    shown = {labels["mode"]: value for labels, value in samples(collector, "trajmon_snapshot_mode")}
    assert shown == {"exact": 0.0, "anchored": 1.0, "sketch": 0.0}


def test_the_journals_health_is_read_at_each_scrape(house: House) -> None:
    health = [True]
    exporter = Exporter(house.registry, 1000, 300.0, lambda: health[0])
    assert b"\ntrajmon_journal_healthy 1.0\n" in generate_latest(exporter.registry)
    health[0] = False
    assert b"\ntrajmon_journal_healthy 0.0\n" in generate_latest(exporter.registry)


def test_a_taken_port_is_named(house: House) -> None:
    first, second = (Exporter(house.registry, 1000, 300.0, lambda: True) for _ in range(2))
    first.start(Address(host="127.0.0.1", port=0))
    try:
        with pytest.raises(ConfigError) as caught:
            second.start(Address(host="127.0.0.1", port=first.port))
    finally:
        first.stop()
    text = f"metrics address 127.0.0.1:{first.port}: Address already in use; give another with --metrics"
    assert str(caught.value) == text
