"""Which runs are exported, the cap on their series, and lines that are kept from scrape to scrape."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from monitor.export.feeding import feed, known, of, read, runs_in, sketched  # noqa: TID251 # tests/monitor
from support.house import House, describe
from support.rows import Cut, SyntheticRun
from support.sketched_rows import SketchedRun
from trajmon_protos.sketch import SketchSpec
from trajmon_protos.v1 import ingest_pb2
from trajmon_server.config import Limits
from trajmon_server.export.page import RunPage, most_series
from trajmon_server.model import CheckpointMeta, Group, Layer, RunDescription
from trajmon_server.runs.control import AgentReport
from trajmon_server.runs.run import Run


def shown(house: House, max_series: int = 1000, finished_seconds: float = 300.0) -> list[str]:
    return runs_in(
        "trajmon_checkpoints", read(RunPage(house.registry, max_series, finished_seconds).text(False))
    )


def number(name: str, house: House, max_series: int) -> float:
    (value,) = of(name, read(RunPage(house.registry, max_series, 300.0).text(False))).values()
    return value


def of_runs(house: House, max_series: int) -> int:
    """How many series of runs are exported."""
    series = read(RunPage(house.registry, max_series, 300.0).text(False))
    return sum("run" in dict(labels) for _, labels in series)


def with_groups(house: House, name: str, groups: int, is_sketched: bool = False) -> Run:
    """A run without rows."""
    description = RunDescription(
        run_id=f"{hash(name) & (1 << 128) - 1:032x}",
        name=name,
        team="local",
        tags=(),
        created_unix_seconds=0.0,
        fingerprint="0" * 32,
        layers=tuple(Layer(f"layer{index}", (1,), "float32") for index in range(groups)),
        groups=tuple(Group("network" if not index else f"group{index}", (index,)) for index in range(groups)),
    )
    run = house.registry.new(description)
    if is_sketched:
        run.sketches.spec = SketchSpec(bins=1021)
    house.registry.add(run)
    return run


def test_a_finished_run_stays_for_a_while(house: House) -> None:
    run = known(house, SyntheticRun("over"), 3)
    now = time.time()
    for seconds_ago, left in ((10.0, ["over"]), (299.0, ["over"]), (301.0, [])):
        run.control = replace(
            run.control, phase=ingest_pb2.RUN_PHASE_FINISHED, ended_unix_seconds=now - seconds_ago
        )
        assert shown(house) == left


def test_a_run_leaves_without_a_trace_and_comes_back(house: House) -> None:
    run = known(house, SyntheticRun("comes and goes"), 3)
    page = RunPage(house.registry, 1000, 300.0)
    before = page.text(False)
    control = run.control
    run.control = replace(control, phase=ingest_pb2.RUN_PHASE_LOST, ended_unix_seconds=time.time() - 400)
    assert not any("run" in dict(labels) for _, labels in read(page.text(False)))
    run.control = control
    assert page.text(False) == before


def test_a_run_that_another_server_writes_is_not_shown(house: House) -> None:
    known(house, SyntheticRun("theirs"), 2).is_ours = False
    known(house, SyntheticRun("ours"), 2)
    assert shown(house) == ["ours"]


def test_two_teams_may_use_one_name(house: House) -> None:
    known(house, SyntheticRun("same", seed=1), 2)
    known(house, SyntheticRun("same", seed=2), 3, team="vision")
    found = of("trajmon_checkpoints", read(RunPage(house.registry, 1000, 300.0).text(False)))
    assert {dict(labels)["run"]: value for labels, value in found.items()} == {
        "same": 2.0,
        "vision/same": 3.0,
    }


def test_the_newest_runs_are_shown_up_to_the_cap(house: House) -> None:
    runs = [known(house, SyntheticRun(f"run-{index}", seed=index), 2) for index in range(6)]
    each = most_series(runs[0])
    assert shown(house, 3 * each) == ["run-5", "run-4", "run-3"]
    assert number("trajmon_series_suppressed", house, 3 * each) == 3 * each
    assert number("trajmon_runs_suppressed", house, 3 * each) == 3.0
    assert number("trajmon_exported_runs", house, 3 * each) == 3.0
    assert number("trajmon_series_limit", house, 3 * each) == 3 * each
    assert shown(house, 3 * each - 1) == ["run-5", "run-4"]
    # Who is heard of again comes first.
    feed(runs[0], SyntheticRun("run-0", seed=0), 2)
    assert shown(house, 2 * each) == ["run-0", "run-5"]


def test_what_a_client_says_of_the_time_pushes_nobody_out(house: House) -> None:
    early = SyntheticRun("says-it-is-tomorrow")
    early.started += 86_400.0
    run = known(house, early, 2)
    known(house, SyntheticRun("honest"), 2)
    assert shown(house, most_series(run)) == ["honest"]


def test_a_run_too_large_for_what_is_left_makes_room_for_smaller_ones(house: House) -> None:
    small = with_groups(house, "small", 1)
    small.last_heard_unix_seconds = 1.0
    large = with_groups(house, "large", 64)
    large.last_heard_unix_seconds = 2.0
    newest = with_groups(house, "newest", 1)
    newest.last_heard_unix_seconds = 3.0
    cap = most_series(newest) + most_series(small)
    assert shown(house, cap) == ["newest", "small"]
    assert number("trajmon_series_suppressed", house, cap) == most_series(large)


def test_no_run_has_more_series_than_it_is_reckoned_with(house: House) -> None:
    for index in range(4):
        run = sketched(house, SketchedRun(f"sketched-{index}", seed=index, num_checkpoints=12))
        run.reports[""] = AgentReport(snapshot_mode=ingest_pb2.SNAPSHOT_MODE_SKETCH)
    each = most_series(run)
    # All of them are there: every kind of series that a run can have.
    assert of_runs(house, 4 * each) == 4 * each
    for most in (each - 1, each, each + 1, 2 * each, 3 * each + 5):
        assert of_runs(house, most) == most // each * each


def test_the_default_cap_holds_200_runs_of_16_groups(house: House) -> None:
    exact, is_sketched = with_groups(house, "exact", 16), with_groups(house, "sketched", 16, is_sketched=True)
    assert 200 * most_series(exact) <= 200 * most_series(is_sketched) <= Limits().max_exported_series
    # And one that has as many groups as a run may have.
    widest = with_groups(house, "widest", Limits().max_groups, is_sketched=True)
    assert most_series(widest) <= Limits().max_exported_series / 50


def test_a_new_description_under_a_known_id_has_its_own_labels(house: House) -> None:
    source = SyntheticRun("before")
    run = known(house, source, 2)
    page = RunPage(house.registry, 1000, 300.0)
    assert runs_in("trajmon_checkpoints", read(page.text(False))) == ["before"]
    renamed = replace(run.description, name="after")
    house.registry.add(house.registry.new(renamed))
    assert runs_in("trajmon_checkpoints", read(page.text(False))) == ["after"]


Change = Callable[[Run, SyntheticRun, random.Random], None]


def _next_row(run: Run, source: SyntheticRun, _: random.Random) -> None:
    if run.analysed == run.num_checkpoints < source.num_checkpoints:
        feed(run, source, run.num_checkpoints)


def _row_unanalysed(run: Run, source: SyntheticRun, _: random.Random) -> None:
    if run.num_checkpoints < source.num_checkpoints:
        checkpoint = run.num_checkpoints
        run.accept(CheckpointMeta.from_row(source.row(checkpoint)), checkpoint, 100)


def _lose(run: Run, _: SyntheticRun, chance: random.Random) -> None:
    if run.metas:
        run.lose(chance.choice(list(run.metas)))


def _report(run: Run, _: SyntheticRun, chance: random.Random) -> None:
    run.reports[chance.choice(["", "a" * 32])] = AgentReport(
        checkpoints_pending=chance.randrange(3),
        lag_seconds=chance.random(),
        snapshot_mode=chance.choice(list(ingest_pb2.SnapshotMode.values())),
    )


def _end(run: Run, _: SyntheticRun, chance: random.Random) -> None:
    phase = chance.choice([ingest_pb2.RUN_PHASE_FINISHED, ingest_pb2.RUN_PHASE_RUNNING])
    run.control = run.control.reported(phase, "", time.time() - chance.choice([0.0, 1000.0]))


def _open_again(run: Run, _: SyntheticRun, __: random.Random) -> None:
    run.control = run.control.opened(run.control.attempt + 1)


def _part(run: Run, source: SyntheticRun, _: random.Random) -> None:
    cut = Cut.of(source, 2)
    if run.num_known < source.num_checkpoints:
        run.accept_part(source.part_row(run.num_known, cut, 0).header, 40)


def _fall_silent(run: Run, _: SyntheticRun, __: random.Random) -> None:
    run.last_heard_unix_seconds -= 1e5


def _start_over(run: Run, _: SyntheticRun, __: random.Random) -> None:
    run.restart_analysis()


def changing_runs(house: House) -> tuple[list[Run], list[SyntheticRun], list[Change]]:
    """Three runs, and what may happen to them; rows come most often."""
    sources = [SyntheticRun(f"run-{index}", seed=index, num_checkpoints=30) for index in range(3)]
    runs = [house.registry.new(describe(source)) for source in sources]
    for run in runs:
        house.registry.add(run)
    rare = [_row_unanalysed, _lose, _report, _end, _open_again, _part, _fall_silent, _start_over]
    return runs, sources, [*[_next_row] * 6, *rare]


@pytest.mark.parametrize("seed", range(6))
def test_lines_that_were_kept_are_those_that_would_be_made_anew(house: House, seed: int) -> None:
    chance = random.Random(seed)
    runs, sources, changes = changing_runs(house)
    old = RunPage(house.registry, 1000, 300.0)
    pages = set()
    for _ in range(60):
        index = chance.randrange(3)
        chance.choice(changes)(runs[index], sources[index], chance)
        is_open_metrics = chance.random() < 0.5
        page = old.text(is_open_metrics)
        assert page == RunPage(house.registry, 1000, 300.0).text(is_open_metrics)
        pages.add(b"".join(page))
    assert len(pages) > 25


def test_scrapes_while_runs_change(house: House) -> None:
    """Each is whole and can be read, though the runs are changed on another thread all the while."""
    runs, sources, changes = changing_runs(house)
    page = RunPage(house.registry, 1000, 300.0)
    begun, done = threading.Event(), threading.Event()

    def scrape() -> int:
        count = 0
        while not done.is_set():
            read(page.text(False))
            count += 1
            begun.set()
        return count

    with ThreadPoolExecutor(2) as executor:
        scrapes = [executor.submit(scrape) for _ in range(2)]
        try:
            assert begun.wait(60)
            chance = random.Random(0)
            for _ in range(400):
                index = chance.randrange(3)
                chance.choice(changes)(runs[index], sources[index], chance)
        finally:
            done.set()
        assert all(scrape.result(60) > 0 for scrape in scrapes)
    assert page.text(False) == RunPage(house.registry, 1000, 300.0).text(False)
