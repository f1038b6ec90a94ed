"""Runs whose rows are analysed, without worker or wire; and the exposition as Prometheus' own parser reads it."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from support.house import House, describe
from support.rows import SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_server.model import CheckpointMeta
from trajmon_server.runs.analysis import advance
from trajmon_server.runs.estimates import Estimates
from trajmon_server.runs.rows import Rows
from trajmon_server.runs.run import Run
from trajmon_server.signals.remaining_displacement import RemainingDisplacementPolicy

Series = tuple[str, frozenset[tuple[str, str]]]
POLICY = RemainingDisplacementPolicy()


def feed(run: Run, source: SyntheticRun, checkpoint: int, path: list[int] | None = None) -> None:
    """The next row comes, and is analysed at once."""
    row = source.row(checkpoint, path)
    meta = CheckpointMeta.from_row(row)
    run.accept(meta, checkpoint, 100)
    run.analysis = advance(run.analysis, row, meta, run.description.groups, POLICY)
    run.analysed = checkpoint + 1


def known(house: House, source: SyntheticRun, rows: int, team: str = "local") -> Run:
    """A run with so many rows."""
    run = house.registry.new(describe(source, team))
    for checkpoint in range(rows):
        feed(run, source, checkpoint)
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
        filled = estimates.of(row)
        run.analysis = advance(run.analysis, row, meta, run.description.groups, POLICY, filled)
    run.analysed = source.num_checkpoints
    house.registry.add(run)
    return run


def read(pieces: Sequence[bytes], is_open_metrics: bool = False) -> dict[Series, float]:
    """Every series of a page, by name and labels; AssertionError if one is there twice, or a family is torn."""
    text = b"".join(pieces).decode()
    parse = openmetrics.text_string_to_metric_families if is_open_metrics else text_string_to_metric_families
    found: dict[Series, float] = {}
    families = []
    for family in parse(text):
        families.append(family.name)
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            assert series not in found, series
            found[series] = sample.value
    assert len(families) == len(set(families)), "a family is torn in two"
    return found


def of(name: str, series: dict[Series, float]) -> dict[frozenset[tuple[str, str]], float]:
    """The samples of one name, by their labels."""
    return {labels: value for (found, labels), value in series.items() if found == name}


def runs_in(name: str, series: dict[Series, float]) -> list[str]:
    """The runs that have samples of this name, in the order of the page; each once."""
    return list(dict.fromkeys(dict(labels)["run"] for labels in of(name, series)))
