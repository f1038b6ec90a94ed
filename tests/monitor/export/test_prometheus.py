"""The Collector and the exporter, each over a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from support.house import House, describe
from support.rows import SyntheticRun
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.config import Address
from trajmon_server.errors import ConfigError
from trajmon_server.export.prometheus import Exporter, RunCollector
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.analysis import advance
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
